//! Canonical flights as Parquet, and Parquet that delayd wrote as a frame.

use std::io::Cursor;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use polars::prelude::{
    BooleanChunked, Column, DataFrame, DataType, Float32Chunked, Int32Chunked, Int64Chunked, IntoColumn, NamedFrom,
    ParquetReader, ParquetWriter, PlSmallStr, PolarsError, SerReader, Series, StringChunked, TimeUnit,
};

use crate::error::DataError;
use crate::flight::FlightRecord;

/// Rows that are decoded together.
const ROW_GROUP: usize = 1 << 15;

/// Reads a Parquet file that delayd wrote, and whose digest was checked: all of it, or so many rows from an offset.
/// What others wrote is read by [`super::container::open`], within bounds.
///
/// # Errors
/// When it is not Parquet, or truncated.
pub fn read_frame(key: &str, body: &Bytes, rows: Option<(usize, usize)>) -> Result<DataFrame, DataError> {
    // Polars panics on some damaged footers; a panic must stay inside this object.
    let body = body.clone();
    let read = std::panic::catch_unwind(move || ParquetReader::new(Cursor::new(body)).with_slice(rows).finish());
    match read {
        Ok(Ok(frame)) => Ok(frame),
        Ok(Err(error)) => Err(malformed(key, error.to_string())),
        Err(_) => Err(malformed(key, "the file's structure is damaged".to_owned())),
    }
}

fn malformed(key: &str, found: String) -> DataError {
    DataError::Malformed {
        key: key.to_owned(),
        place: "Parquet file".into(),
        found,
        expected: "a complete Parquet file as delayd writes it".into(),
        advice: "Restore it from a backup",
    }
}

/// Reads canonical flights with their lines in the source, all or so many from an offset.
///
/// # Errors
/// When the file is not one that [`write_flights`] wrote.
pub fn read_flights(
    key: &str,
    body: &Bytes,
    rows: Option<(usize, usize)>,
) -> Result<Vec<(u64, FlightRecord)>, DataError> {
    let frame = read_frame(key, body, rows)?;
    let columns = Columns::of(&frame).map_err(|error| malformed(key, error.to_string()))?;
    let first = rows.map_or(0, |(offset, _)| offset) as u64;
    let flight = |row: usize| {
        let line =
            columns.line.as_ref().map_or(Some(first + row as u64 + 1), |lines| lines.get(row).map(i64::unsigned_abs));
        Some((line?, columns.flight(row)?))
    };
    (0..frame.height())
        .map(|row| flight(row).ok_or_else(|| malformed(key, format!("row {}: a value is missing", first + row as u64))))
        .collect()
}

struct Columns<'a> {
    /// Datasets of format 1 have no lines.
    line: Option<Int64Chunked>,
    texts: [&'a StringChunked; 3],
    flight_number: Int64Chunked,
    times: [Int64Chunked; 4],
    distance_miles: &'a Float32Chunked,
    arrival_delay_minutes: &'a Int32Chunked,
    flags: [&'a BooleanChunked; 2],
}

impl<'a> Columns<'a> {
    fn of(frame: &'a DataFrame) -> Result<Self, PolarsError> {
        let text = |name: &str| frame.column(name)?.str();
        let number = |column: &Column| column.cast(&DataType::Int64)?.i64().cloned();
        let time = |name: &str| {
            let millis = frame.column(name)?.cast(&DataType::Datetime(TimeUnit::Milliseconds, None))?;
            number(&millis)
        };
        Ok(Self {
            line: frame.column("line").ok().map(number).transpose()?,
            texts: [text("carrier")?, text("origin")?, text("dest")?],
            flight_number: number(frame.column("flight_number")?)?,
            times: [
                time("scheduled_departure")?,
                time("scheduled_arrival")?,
                time("departed_at")?,
                time("arrived_at")?,
            ],
            distance_miles: frame.column("distance_miles")?.f32()?,
            arrival_delay_minutes: frame.column("arrival_delay_minutes")?.i32()?,
            flags: [frame.column("cancelled")?.bool()?, frame.column("diverted")?.bool()?],
        })
    }

    fn flight(&self, row: usize) -> Option<FlightRecord> {
        let [carrier, origin, dest] = self.texts.map(|texts| texts.get(row).map(str::to_owned));
        let time = |times: &Int64Chunked| times.get(row).and_then(DateTime::from_timestamp_millis);
        let [scheduled_departure, scheduled_arrival, departed_at, arrived_at] = &self.times;
        let [cancelled, diverted] = self.flags.map(|flags| flags.get(row));
        Some(FlightRecord {
            carrier: carrier?,
            flight_number: self.flight_number.get(row).and_then(|number| u32::try_from(number).ok())?,
            origin: origin?,
            dest: dest?,
            scheduled_departure: time(scheduled_departure)?,
            scheduled_arrival: time(scheduled_arrival),
            distance_miles: self.distance_miles.get(row),
            departed_at: time(departed_at),
            arrived_at: time(arrived_at),
            arrival_delay_minutes: self.arrival_delay_minutes.get(row),
            cancelled: cancelled?,
            diverted: diverted?,
        })
    }
}

/// Writes canonical flights, with their lines in the source where these are known; the same flights give the same bytes.
///
/// # Errors
/// When Polars cannot write.
pub fn write_flights(records: &[FlightRecord], lines: Option<&[u64]>) -> Result<Vec<u8>, DataError> {
    let failed = |error: PolarsError| DataError::Internal(format!("writing Parquet: {error}"));
    let mut columns = columns(records).map_err(failed)?;
    columns.extend(lines.map(|lines| Series::new(PlSmallStr::from_static("line"), lines).into_column()));
    let mut frame = DataFrame::new(records.len(), columns).map_err(failed)?;
    let mut bytes = Vec::new();
    let writer = ParquetWriter::new(&mut bytes).set_parallel(false).with_row_group_size(Some(ROW_GROUP));
    writer.finish(&mut frame).map_err(failed)?;
    Ok(bytes)
}

fn columns(records: &[FlightRecord]) -> Result<Vec<Column>, PolarsError> {
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
