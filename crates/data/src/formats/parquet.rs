//! Canonical flights as Parquet, and foreign Parquet as a frame.

use std::io::Cursor;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use polars::prelude::{
    Column, DataFrame, DataType, IntoColumn, NamedFrom, ParquetReader, ParquetWriter, PlSmallStr, SerReader, Series,
    TimeUnit,
};

use crate::error::DataError;
use crate::flight::FlightRecord;

/// Reads a whole Parquet file that delayd wrote, and whose digest was checked. What others wrote is read by
/// [`super::container::open`], within bounds.
///
/// # Errors
/// When it is none, or cut off.
pub fn read_frame(key: &str, body: &Bytes) -> Result<DataFrame, DataError> {
    // Polars panics on some damaged footers; a panic must stay inside this object.
    let body = body.clone();
    let read = std::panic::catch_unwind(move || ParquetReader::new(Cursor::new(body)).finish());
    let found = match read {
        Ok(Ok(frame)) => return Ok(frame),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the file's structure is damaged".to_owned(),
    };
    Err(DataError::Malformed {
        key: key.to_owned(),
        place: "Parquet file".into(),
        found,
        expected: "a complete Parquet file with text, number, boolean and timestamp columns".into(),
        advice: "Write or upload it again, whole",
    })
}

/// Writes canonical flights; the same flights give the same bytes.
///
/// # Errors
/// When Polars cannot write.
pub fn write_flights(records: &[FlightRecord]) -> Result<Vec<u8>, DataError> {
    let failed = |error: polars::error::PolarsError| DataError::Internal(format!("writing Parquet: {error}"));
    let mut frame = DataFrame::new(records.len(), columns(records).map_err(failed)?).map_err(failed)?;
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes).set_parallel(false).finish(&mut frame).map_err(failed)?;
    Ok(bytes)
}

fn columns(records: &[FlightRecord]) -> Result<Vec<Column>, polars::error::PolarsError> {
    let text = |name: &str, of: fn(&FlightRecord) -> &str| {
        Series::new(PlSmallStr::from_str(name), records.iter().map(of).collect::<Vec<&str>>()).into_column()
    };
    let time = |name: &str, of: &dyn Fn(&FlightRecord) -> Option<DateTime<Utc>>| {
        let millis: Vec<Option<i64>> =
            records.iter().map(|record| of(record).map(|moment| moment.timestamp_millis())).collect();
        Series::new(PlSmallStr::from_str(name), millis)
            .cast(&DataType::Datetime(TimeUnit::Milliseconds, None))
            .map(IntoColumn::into_column)
    };
    let flag = |name: &str, of: fn(&FlightRecord) -> bool| {
        Series::new(PlSmallStr::from_str(name), records.iter().map(of).collect::<Vec<bool>>()).into_column()
    };
    let numbers: Vec<u32> = records.iter().map(|record| record.flight_number).collect();
    let distances: Vec<Option<f32>> = records.iter().map(|record| record.distance_miles).collect();
    let delays: Vec<Option<i32>> = records.iter().map(|record| record.arrival_delay_minutes).collect();
    Ok(vec![
        text("carrier", |record| &record.carrier),
        Series::new(PlSmallStr::from_static("flight_number"), numbers).into_column(),
        text("origin", |record| &record.origin),
        text("dest", |record| &record.dest),
        time("scheduled_departure", &|record| Some(record.scheduled_departure))?,
        time("scheduled_arrival", &|record| record.scheduled_arrival)?,
        Series::new(PlSmallStr::from_static("distance_miles"), distances).into_column(),
        time("departed_at", &|record| record.departed_at)?,
        time("arrived_at", &|record| record.arrived_at)?,
        Series::new(PlSmallStr::from_static("arrival_delay_minutes"), delays).into_column(),
        flag("cancelled", |record| record.cancelled),
        flag("diverted", |record| record.diverted),
    ])
}
