//! `predictions.parquet`: one row per flight, for whoever wants to count again.

use std::path::Path;

use chrono::{DateTime, Utc};
use polars::prelude::{
    Column, DataFrame, IntoColumn, IntoSeries, NamedFrom, ParquetWriter, PolarsResult, Series, TimeUnit, TimeZone,
};

use super::compute::ReplayPrediction;
use super::write::{ReportError, atomically};

/// Writes `predictions.parquet`, in the order given. Columns: `carrier`, `origin`,
/// `dest`, `model_version` (`model_v3`) texts; `flight_number` u32;
/// `scheduled_departure`, `prediction_time` microseconds in UTC; `score`,
/// `frozen_score`, `lookup_score` f32; `delayed` bool, null where it never arrived.
///
/// # Errors
/// When the file cannot be written; an earlier one is then untouched.
pub fn write_predictions(predictions: &[ReplayPrediction], path: &Path) -> Result<(), ReportError> {
    let failed = |source| ReportError::Parquet { path: path.to_owned(), source };
    let mut frame = frame_of(predictions).map_err(failed)?;
    atomically(path, |file| ParquetWriter::new(file).finish(&mut frame).map(|_| ()).map_err(failed))
}

fn frame_of(predictions: &[ReplayPrediction]) -> PolarsResult<DataFrame> {
    let texts = |name: &str, of: fn(&ReplayPrediction) -> &str| -> Column {
        Series::new(name.into(), predictions.iter().map(of).collect::<Vec<_>>()).into_column()
    };
    let scores = |name: &str, of: fn(&ReplayPrediction) -> f32| -> Column {
        Series::new(name.into(), predictions.iter().map(of).collect::<Vec<_>>()).into_column()
    };
    let flight_numbers: Vec<u32> = predictions.iter().map(|p| p.flight_number).collect();
    let versions: Vec<String> = predictions.iter().map(|p| p.model_version.to_string()).collect();
    let delayed: Vec<Option<bool>> = predictions.iter().map(|p| p.delayed).collect();
    DataFrame::new(
        predictions.len(),
        vec![
            texts("carrier", |p| &p.carrier),
            Series::new("flight_number".into(), flight_numbers).into_column(),
            texts("origin", |p| &p.origin),
            texts("dest", |p| &p.dest),
            moments("scheduled_departure", predictions, |p| p.scheduled_departure),
            moments("prediction_time", predictions, |p| p.prediction_time),
            scores("score", |p| p.score),
            Series::new("model_version".into(), versions).into_column(),
            Series::new("delayed".into(), delayed).into_column(),
            scores("frozen_score", |p| p.frozen_score),
            scores("lookup_score", |p| p.lookup_score),
        ],
    )
}

fn moments(name: &str, predictions: &[ReplayPrediction], of: fn(&ReplayPrediction) -> DateTime<Utc>) -> Column {
    let micros: Vec<i64> = predictions.iter().map(|p| of(p).timestamp_micros()).collect();
    let column = polars::prelude::Int64Chunked::from_vec(name.into(), micros);
    column.into_datetime(TimeUnit::Microseconds, Some(TimeZone::UTC)).into_series().into_column()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use polars::prelude::{AnyValue, DataType, ParquetReader, SerReader};

    use super::*;
    use crate::replay::report::fixture;

    #[test]
    fn predictions_read_back_with_their_types_their_nulls_and_their_values() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("predictions.parquet");
        let flights = fixture::predictions();
        write_predictions(&flights, &path).unwrap();
        let frame = ParquetReader::new(File::open(&path).unwrap()).finish().unwrap();
        let utc = DataType::Datetime(TimeUnit::Microseconds, Some(TimeZone::UTC));
        let expected = [
            ("carrier", DataType::String),
            ("flight_number", DataType::UInt32),
            ("origin", DataType::String),
            ("dest", DataType::String),
            ("scheduled_departure", utc.clone()),
            ("prediction_time", utc),
            ("score", DataType::Float32),
            ("model_version", DataType::String),
            ("delayed", DataType::Boolean),
            ("frozen_score", DataType::Float32),
            ("lookup_score", DataType::Float32),
        ];
        let found: Vec<_> = frame.columns().iter().map(|c| (c.name().to_string(), c.dtype().clone())).collect();
        assert_eq!(found, expected.map(|(name, dtype)| (name.to_owned(), dtype)));
        assert_eq!(frame.height(), flights.len());
        let never_arrived = flights.iter().filter(|p| p.delayed.is_none()).count();
        assert!(never_arrived > 0, "the fixture has cancelled flights");
        assert_eq!(frame.column("delayed").unwrap().null_count(), never_arrived);
        let first = |name: &str| frame.column(name).unwrap().get(0).unwrap();
        assert_eq!(first("model_version"), AnyValue::String(&flights[0].model_version.to_string()));
        assert_eq!(first("score"), AnyValue::Float32(flights[0].score));
        let micros = frame.column("scheduled_departure").unwrap().to_physical_repr().i64().unwrap().get(0);
        assert_eq!(micros, Some(flights[0].scheduled_departure.timestamp_micros()));
    }

    #[test]
    fn a_replay_without_flights_still_writes_every_column() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("predictions.parquet");
        write_predictions(&[], &path).unwrap();
        let frame = ParquetReader::new(File::open(&path).unwrap()).finish().unwrap();
        assert_eq!(frame.shape(), (0, 11));
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nowhere/predictions.parquet");
        let error = write_predictions(&fixture::predictions(), &path).unwrap_err();
        assert!(error.to_string().contains("nowhere/predictions.parquet"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
