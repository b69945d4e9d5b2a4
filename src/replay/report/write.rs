//! Writes `report.json` and `predictions.parquet`, whole: either the old file or the new one is there, never half of one.

use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use polars::prelude::{
    Column, DataFrame, IntoColumn, IntoSeries, NamedFrom, ParquetWriter, PolarsResult, Series, TimeUnit, TimeZone,
};

use super::compute::ReplayPrediction;
use super::model::Report;
use delayd_core::error::ErrorKind;

/// A file of the report that could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error("writing {}: check that its folder exists, is writable and has room", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("writing {}: the report does not fit into JSON", path.display())]
    Json {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("writing {}: the predictions do not fit into Parquet", path.display())]
    Parquet {
        path: PathBuf,
        #[source]
        source: polars::error::PolarsError,
    },
}

impl ReportError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { source, .. } => ErrorKind::of_io(source),
            Self::Json { source, .. } => {
                source.io_error_kind().map_or(ErrorKind::Internal, |k| ErrorKind::of_io(&k.into()))
            }
            Self::Parquet { .. } => ErrorKind::Internal,
        }
    }
}

/// Writes `report.json`.
pub fn write_json(report: &Report, path: &Path) -> Result<(), ReportError> {
    let mut bytes =
        serde_json::to_vec_pretty(report).map_err(|source| ReportError::Json { path: path.to_owned(), source })?;
    bytes.push(b'\n');
    atomically(path, |file| file.write_all(&bytes).map_err(|source| ReportError::Io { path: path.to_owned(), source }))
}

/// Fills a file beside `path` and renames it into place when it is whole and on disk.
pub(super) fn atomically(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> Result<(), ReportError>,
) -> Result<(), ReportError> {
    let io = |source| ReportError::Io { path: path.to_owned(), source };
    let name = path.file_name().ok_or_else(|| io(io::Error::new(io::ErrorKind::InvalidInput, "not a file name")))?;
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(name);
    prefix.push(".partial-");
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // A new file of a name that nobody guesses; where writing fails it goes. The umask takes its share of the mode.
    let mode = Permissions::from_mode(0o644);
    let partial = tempfile::Builder::new().prefix(&prefix).permissions(mode).tempfile_in(folder).map_err(io)?;
    let (file, partial) = partial.into_parts();
    let mut writer = BufWriter::new(file);
    fill(&mut writer)?;
    let file = writer.into_inner().map_err(|error| io(error.into_error()))?;
    file.sync_all().map_err(io)?;
    partial.persist(path).map_err(|error| io(error.error))
}

/// Writes `predictions.parquet`, in the order given. Columns: `carrier`, `origin`,
/// `dest`, `model_version` (`model_v3`) texts; `flight_number` u32;
/// `scheduled_departure`, `prediction_time` microseconds in UTC; `score`,
/// `frozen_score`, `lookup_score` f32; `delayed` bool, null where it never arrived.
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
    use std::fs;

    use polars::prelude::{AnyValue, DataType, ParquetReader, SerReader};

    use super::*;
    use crate::replay::report::fixture;
    use delayd_core::error::chain;

    #[test]
    fn the_json_reads_back_as_the_same_report_and_has_the_documented_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        let report = fixture::report();
        write_json(&report, &path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let back: Report = serde_json::from_str(&text).unwrap();
        // Only what holds computed fractions may differ, by their last bit.
        assert_eq!((&back.detection_secs, &back.dataset), (&report.detection_secs, &report.dataset));
        let models = |r: &Report| r.models.iter().map(|m| (m.version, m.live_from, m.live_until)).collect::<Vec<_>>();
        assert_eq!(models(&back), models(&report));
        let cycles = |r: &Report| {
            r.cycles.iter().map(|c| (c.id, c.seconds_by_step.0.iter().map(|s| s.0.clone()).collect())).collect()
        };
        let (found, expected): (Vec<(_, Vec<_>)>, Vec<(_, Vec<_>)>) = (cycles(&back), cycles(&report));
        assert_eq!(found, expected);
        assert_eq!(back.over_time.len(), report.over_time.len());
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let documented = include_str!("../../../docs/report.md");
        for key in value.as_object().unwrap().keys() {
            assert!(documented.contains(&format!("`{key}`")), "docs/report.md does not tell of `{key}`");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing half-written is left behind");
    }

    #[test]
    fn a_folder_that_is_not_there_is_told_with_the_file_and_the_cause() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing/report.json");
        let error = write_json(&fixture::report(), &path).unwrap_err();
        assert!(chain(&error).contains("missing/report.json"), "{error}");
        assert!(chain(&error).contains("No such file"), "{}", chain(&error));
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_link_beside_the_report_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let victim = folder.path().join("victim");
        fs::write(&victim, "as it was").unwrap();
        std::os::unix::fs::symlink(&victim, folder.path().join(".report.json.partial")).unwrap();
        write_json(&fixture::report(), &folder.path().join("report.json")).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "as it was");
    }

    #[test]
    fn a_write_that_fails_half_way_leaves_the_earlier_file_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        fs::write(&path, "earlier").unwrap();
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let error = atomically(&path, |file| {
            file.write_all(b"half").unwrap();
            Err(ReportError::Io { path: path.clone(), source: full() })
        })
        .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        assert_eq!(fs::read_to_string(&path).unwrap(), "earlier");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

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
