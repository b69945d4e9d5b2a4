//! Rows of text cells, one at a time, from CSV or from a Parquet frame.

use std::io::Read;

use csv::ByteRecord;
use polars::prelude::{AnyValue, Column, DataFrame};

use super::ParseLimits;
use crate::error::DataError;

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Line of a CSV (the header is 1), row of a Parquet file from 1.
    pub line: u64,
    /// The cells in the header's order; empty where a value is missing.
    pub cells: Vec<String>,
    /// Why the row as such cannot be used, where it cannot.
    pub fault: Option<String>,
}

/// A source of rows.
pub struct Rows {
    key: String,
    header: Vec<String>,
    source: Source,
}

enum Source {
    Csv { reader: Box<csv::Reader<Bounded<Box<dyn Read + Send>>>>, record: ByteRecord },
    Frame { frame: DataFrame, next: usize },
}

impl Rows {
    /// Rows of a CSV text whose first line is the header.
    ///
    /// # Errors
    /// When there is no header, it is not UTF-8, or it names a column twice.
    pub fn of_csv(key: &str, text: Box<dyn Read + Send>, limits: &ParseLimits) -> Result<Self, DataError> {
        let bounded = Bounded {
            inner: text,
            line_bytes: 0,
            line: 1,
            total_bytes: 0,
            max_line_bytes: limits.max_line_bytes,
            max_total_bytes: limits.max_object_bytes,
        };
        let mut reader = Box::new(csv::ReaderBuilder::new().flexible(true).has_headers(false).from_reader(bounded));
        let mut record = ByteRecord::new();
        let there = reader.read_byte_record(&mut record).map_err(|error| csv_error(key, 1, &error))?;
        let header = header_of(key, &record)?;
        if !there || header.iter().all(String::is_empty) {
            return Err(DataError::EmptyObject { key: key.to_owned() });
        }
        Ok(Self { key: key.to_owned(), header, source: Source::Csv { reader, record } })
    }

    /// Rows of a Parquet file's frame.
    #[must_use]
    pub fn of_frame(frame: DataFrame, key: &str) -> Self {
        let header = frame.get_column_names().into_iter().map(|name| name.to_string()).collect();
        Self { key: key.to_owned(), header, source: Source::Frame { frame, next: 0 } }
    }

    /// The columns' names.
    #[must_use]
    pub fn header(&self) -> &[String] {
        &self.header
    }

    /// The position of a column.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<usize> {
        self.header.iter().position(|column| column == name)
    }

    /// The next row; `None` at the end.
    ///
    /// # Errors
    /// When the rest of the object cannot be read: a truncated archive, a line
    /// beyond the bound.
    pub fn next_row(&mut self) -> Result<Option<Row>, DataError> {
        match &mut self.source {
            Source::Frame { frame, next } => {
                if *next >= frame.height() {
                    return Ok(None);
                }
                let cells = frame.columns().iter().map(|column| cell(column, *next)).collect();
                *next += 1;
                Ok(Some(Row { line: *next as u64, cells, fault: None }))
            }
            Source::Csv { reader, record } => {
                let before = reader.position().line();
                if !reader.read_byte_record(record).map_err(|error| csv_error(&self.key, before, &error))? {
                    return Ok(None);
                }
                let line = record.position().map_or(before, csv::Position::line);
                Ok(Some(row_of(record, line, &self.header)))
            }
        }
    }
}

fn row_of(record: &ByteRecord, line: u64, header: &[String]) -> Row {
    let mut fault = None;
    let mut cells = Vec::with_capacity(header.len());
    for (position, bytes) in record.iter().enumerate() {
        match std::str::from_utf8(bytes) {
            Ok(text) => cells.push(text.trim().to_owned()),
            Err(error) => {
                let column = header.get(position).map_or("?", String::as_str);
                fault.get_or_insert_with(|| {
                    format!("column `{column}`: byte {} is not UTF-8 text", error.valid_up_to() + 1)
                });
                cells.push(String::from_utf8_lossy(bytes).into_owned());
            }
        }
    }
    if cells.len() != header.len() {
        // A trailing comma in every line is common in BTS files and harmless.
        let only_empty_beyond = cells.len() > header.len() && cells[header.len()..].iter().all(String::is_empty);
        if only_empty_beyond {
            cells.truncate(header.len());
        } else {
            fault.get_or_insert_with(|| format!("{} cells; expected {} as in the header", cells.len(), header.len()));
        }
    }
    Row { line, cells, fault }
}

fn header_of(key: &str, record: &ByteRecord) -> Result<Vec<String>, DataError> {
    let malformed = |found: String, expected: &str| DataError::Malformed {
        key: key.to_owned(),
        place: "line 1".into(),
        found,
        expected: expected.into(),
        advice: "Correct the header line",
    };
    let mut header = Vec::with_capacity(record.len());
    for (position, bytes) in record.iter().enumerate() {
        let bytes = if position == 0 { bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes) } else { bytes };
        let name = std::str::from_utf8(bytes)
            .map_err(|_| malformed(format!("column {} is not UTF-8", position + 1), "UTF-8 column names"))?;
        header.push(name.trim().trim_matches('"').to_owned());
    }
    while header.last().is_some_and(String::is_empty) {
        header.pop();
    }
    let mut seen = std::collections::HashSet::new();
    if let Some(twice) = header.iter().find(|name| !seen.insert(name.as_str())) {
        return Err(malformed(format!("the column `{twice}` occurs twice"), "every column once"));
    }
    Ok(header)
}

fn csv_error(key: &str, line: u64, error: &csv::Error) -> DataError {
    if let csv::ErrorKind::Io(io) = error.kind()
        && let Some(bound) = io.get_ref().and_then(|inner| inner.downcast_ref::<BoundPassed>())
    {
        return DataError::TooLarge { key: key.to_owned(), place: bound.place.clone(), limit_bytes: bound.limit_bytes };
    }
    DataError::Malformed {
        key: key.to_owned(),
        place: format!("line {line}"),
        found: error.to_string(),
        expected: "readable text to the end of the object".into(),
        advice: "The file seems cut off or damaged: upload it again, whole",
    }
}

/// A cell of a frame as text; empty where missing.
fn cell(column: &Column, row: usize) -> String {
    match column.get(row) {
        Ok(AnyValue::Null) | Err(_) => String::new(),
        Ok(AnyValue::String(text)) => text.trim().to_owned(),
        Ok(AnyValue::StringOwned(text)) => text.trim().to_owned(),
        Ok(AnyValue::Boolean(value)) => value.to_string(),
        Ok(AnyValue::Float32(value)) if value.is_nan() => String::new(),
        Ok(AnyValue::Float64(value)) if value.is_nan() => String::new(),
        Ok(AnyValue::Datetime(value, unit, _)) => instant_text(value, unit),
        Ok(AnyValue::DatetimeOwned(value, unit, _)) => instant_text(value, unit),
        Ok(other) => other.to_string(),
    }
}

fn instant_text(value: i64, unit: polars::prelude::TimeUnit) -> String {
    use polars::prelude::TimeUnit;
    let moment = match unit {
        TimeUnit::Nanoseconds => chrono::DateTime::from_timestamp_nanos(value),
        TimeUnit::Microseconds => chrono::DateTime::from_timestamp_micros(value).unwrap_or_default(),
        TimeUnit::Milliseconds => chrono::DateTime::from_timestamp_millis(value).unwrap_or_default(),
    };
    moment.to_rfc3339()
}

/// Passes bytes on and stops at a line or a whole that is too long, so that no
/// object can take the daemon's memory.
struct Bounded<R> {
    inner: R,
    line_bytes: u64,
    line: u64,
    total_bytes: u64,
    max_line_bytes: u64,
    max_total_bytes: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("{place} is longer than {limit_bytes} bytes")]
struct BoundPassed {
    place: String,
    limit_bytes: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.total_bytes += count as u64;
        for byte in &buffer[..count] {
            if *byte == b'\n' {
                self.line_bytes = 0;
                self.line += 1;
                continue;
            }
            self.line_bytes += 1;
            if self.line_bytes > self.max_line_bytes {
                let place = format!("line {}", self.line);
                return Err(std::io::Error::other(BoundPassed { place, limit_bytes: self.max_line_bytes }));
            }
        }
        if self.total_bytes > self.max_total_bytes {
            let place = format!("line {}: the unpacked object", self.line);
            return Err(std::io::Error::other(BoundPassed { place, limit_bytes: self.max_total_bytes }));
        }
        Ok(count)
    }
}
