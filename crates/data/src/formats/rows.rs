//! Rows of text cells, one at a time, from CSV or from a Parquet file.

use std::io::Read;

use csv::ByteRecord;
use polars::prelude::{AnyValue, DataFrame};

use super::ParseLimits;
use crate::error::DataError;
use crate::formats::MAX_COLUMNS;
use crate::formats::MAX_NAME_BYTES;
use crate::formats::parquet_rows::ParquetRows;

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
    limits: ParseLimits,
    rows: u64,
    source: Source,
}

enum Source {
    Csv { reader: Box<csv::Reader<Bounded<Box<dyn Read + Send>>>>, record: ByteRecord },
    Parquet { file: Box<ParquetRows>, group: DataFrame, next: usize, text_bytes: u64 },
}

impl Rows {
    /// Rows of a CSV text whose first line is the header.
    ///
    /// # Errors
    /// When there is no header, it is not UTF-8, it names a column twice, or has too many.
    pub fn of_csv(key: &str, text: Box<dyn Read + Send>, limits: &ParseLimits) -> Result<Self, DataError> {
        let bounded = Bounded {
            inner: text,
            last: b'\n',
            line_bytes: 0,
            line: 1,
            row_bytes: 0,
            row_line: 1,
            total_bytes: 0,
            limits: *limits,
            passed: None,
        };
        let mut reader = Box::new(csv::ReaderBuilder::new().flexible(true).has_headers(false).from_reader(bounded));
        let mut record = ByteRecord::new();
        let there = reader.read_byte_record(&mut record);
        let there = there.map_err(|error| csv_error(key, reader.get_mut(), 1, &error))?;
        let header = header_of(key, &record)?;
        if !there || header.iter().all(String::is_empty) {
            return Err(DataError::EmptyObject { key: key.to_owned() });
        }
        let source = Source::Csv { reader, record };
        Ok(Self { key: key.to_owned(), header, limits: *limits, rows: 0, source })
    }

    /// Rows of a Parquet file.
    pub(super) fn of_parquet(key: &str, file: ParquetRows, limits: &ParseLimits) -> Self {
        let header = file.header();
        let source = Source::Parquet { file: Box::new(file), group: DataFrame::empty(), next: 0, text_bytes: 0 };
        Self { key: key.to_owned(), header, limits: *limits, rows: 0, source }
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

    /// Says which columns are needed: of a Parquet file no others are decoded, and their cells are empty.
    pub fn read_only<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) {
        let mut positions: Vec<usize> = names.into_iter().filter_map(|name| self.column(name)).collect();
        positions.sort_unstable();
        positions.dedup();
        if let Source::Parquet { file, .. } = &mut self.source {
            file.want(positions);
        }
    }

    /// The next row; `None` at the end.
    ///
    /// # Errors
    /// When the rest of the object cannot be read: a truncated archive, a line
    /// beyond a bound, more rows than there may be.
    pub fn next_row(&mut self) -> Result<Option<Row>, DataError> {
        let Some(row) = self.next_of_any()? else { return Ok(None) };
        self.rows += 1;
        if self.rows > self.limits.max_rows {
            let found = format!("more than {} rows", self.limits.max_rows);
            return Err(self.limits.too_many_rows(&self.key, &format!("line {}", row.line), found));
        }
        Ok(Some(row))
    }

    fn next_of_any(&mut self) -> Result<Option<Row>, DataError> {
        let (key, limits) = (&self.key, &self.limits);
        match &mut self.source {
            Source::Parquet { file, group, next, text_bytes } => {
                while *next >= group.height() {
                    let Some(following) = file.next_group()? else { return Ok(None) };
                    (*group, *next) = (following, 0);
                }
                let line = self.rows + 1;
                let mut cells = vec![String::new(); self.header.len()];
                let mut row_bytes = 0;
                for (position, column) in file.wanted().iter().zip(group.columns()) {
                    let value = column.get(*next).unwrap_or(AnyValue::Null);
                    row_bytes += text_length(&value);
                    if row_bytes > limits.max_line_bytes {
                        return Err(limits.too_long(key, &format!("row {line}"), format!("{row_bytes} bytes or more")));
                    }
                    if let Some(cell) = cells.get_mut(*position) {
                        *cell = text_of(value);
                    }
                }
                *next += 1;
                *text_bytes += row_bytes;
                if *text_bytes > limits.max_object_bytes {
                    let found = format!("{text_bytes} bytes of text, up to here");
                    return Err(limits.too_many_bytes(key, &format!("row {line}"), found));
                }
                Ok(Some(Row { line, cells, fault: None }))
            }
            Source::Csv { reader, record } => {
                let before = reader.position().line();
                reader.get_mut().begin_row(before);
                let there = reader.read_byte_record(record);
                if !there.map_err(|error| csv_error(key, reader.get_mut(), before, &error))? {
                    return Ok(None);
                }
                // The reader puts a record where it began to look for it, which is before any empty lines.
                let within = record.as_slice().iter().filter(|byte| **byte == b'\n').count() as u64;
                let line = reader.position().line().saturating_sub(within + 1).max(before);
                Ok(Some(row_of(record, line, &self.header)))
            }
        }
    }
}

fn row_of(record: &ByteRecord, line: u64, header: &[String]) -> Row {
    let mut fault = None;
    let mut cells = Vec::with_capacity(header.len());
    for (bytes, column) in record.iter().zip(header) {
        match std::str::from_utf8(bytes) {
            Ok(text) => cells.push(text.trim().to_owned()),
            Err(error) => {
                fault.get_or_insert_with(|| {
                    format!("column `{column}`: byte {} is not UTF-8 text", error.valid_up_to() + 1)
                });
                cells.push(String::from_utf8_lossy(bytes).into_owned());
            }
        }
    }
    // A trailing comma in every line is common in BTS files and harmless.
    let more = record.iter().skip(header.len()).any(|bytes| !bytes.trim_ascii().is_empty());
    if more || record.len() < header.len() {
        fault.get_or_insert_with(|| format!("{} cells; expected {} as in the header", record.len(), header.len()));
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
    if record.len() > MAX_COLUMNS {
        return Err(malformed(format!("{} columns", record.len()), &format!("at most {MAX_COLUMNS} columns")));
    }
    let mut header = Vec::with_capacity(record.len());
    for (position, bytes) in record.iter().enumerate() {
        let bytes = if position == 0 { bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes) } else { bytes };
        let name = std::str::from_utf8(bytes)
            .map_err(|_| malformed(format!("column {} is not UTF-8", position + 1), "UTF-8 column names"))?;
        if name.len() > MAX_NAME_BYTES {
            let found = format!("the name of column {} has {} bytes", position + 1, name.len());
            return Err(malformed(found, &format!("column names of at most {MAX_NAME_BYTES} bytes")));
        }
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

fn csv_error<R>(key: &str, text: &mut Bounded<R>, line: u64, error: &csv::Error) -> DataError {
    if let Some(passed) = text.passed.take() {
        return passed.told(key, &text.limits);
    }
    DataError::Malformed {
        key: key.to_owned(),
        place: format!("line {line}"),
        found: error.to_string(),
        expected: "readable text to the end of the object".into(),
        advice: "The file seems cut off or damaged: upload it again, whole",
    }
}

/// How many bytes a cell refers to.
fn text_length(value: &AnyValue<'_>) -> u64 {
    match value {
        AnyValue::String(text) => text.len() as u64,
        AnyValue::StringOwned(text) => text.len() as u64,
        AnyValue::Binary(bytes) => bytes.len() as u64,
        AnyValue::BinaryOwned(bytes) => bytes.len() as u64,
        _ => 0,
    }
}

/// A cell of a frame as text; empty where missing.
fn text_of(value: AnyValue<'_>) -> String {
    match value {
        AnyValue::Null => String::new(),
        AnyValue::String(text) => text.trim().to_owned(),
        AnyValue::StringOwned(text) => text.trim().to_owned(),
        AnyValue::Boolean(value) => value.to_string(),
        AnyValue::Float32(value) if value.is_nan() => String::new(),
        AnyValue::Float64(value) if value.is_nan() => String::new(),
        AnyValue::Datetime(value, unit, _) => instant_text(value, unit),
        AnyValue::DatetimeOwned(value, unit, _) => instant_text(value, unit),
        other => other.to_string(),
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

/// Passes bytes on and stops at a line, a row or a whole that is too long, so that no
/// object can take the daemon's memory. Every line ends with `\n` on the way out, the last one too, whatever it ended with
/// (`\r\n` on Windows, `\r` on old Macs), so that lines can be counted.
struct Bounded<R> {
    inner: R,
    /// The last byte that was read.
    last: u8,
    line_bytes: u64,
    line: u64,
    /// Bytes since the row began, without those that were read ahead: a quoted cell may hold many lines.
    row_bytes: u64,
    row_line: u64,
    total_bytes: u64,
    limits: ParseLimits,
    passed: Option<BoundPassed>,
}

/// A bound on text.
#[derive(Debug, Clone, Copy)]
enum BoundPassed {
    Line { line: u64 },
    Row { line: u64 },
    Whole { line: u64, bytes: u64 },
}

impl BoundPassed {
    fn told(self, key: &str, limits: &ParseLimits) -> DataError {
        let most = limits.max_line_bytes;
        match self {
            Self::Line { line } => limits.too_long(key, &format!("line {line}"), format!("longer than {most} bytes")),
            Self::Row { line } => {
                let found =
                    format!("a row over several lines, longer than {most} bytes: a quote seems not to be closed");
                limits.too_long(key, &format!("line {line}"), found)
            }
            Self::Whole { line, bytes } => {
                limits.too_many_bytes(key, &format!("line {line}"), format!("{bytes} bytes of text, up to here"))
            }
        }
    }
}

impl<R> Bounded<R> {
    fn begin_row(&mut self, line: u64) {
        (self.row_bytes, self.row_line) = (0, line);
    }

    /// What is passed on where the text has ended.
    fn end_last_line(&mut self, buffer: &mut [u8]) -> usize {
        let Some(first) = buffer.first_mut().filter(|_| !matches!(self.last, b'\n' | b'\r')) else { return 0 };
        (*first, self.last) = (b'\n', b'\n');
        1
    }

    fn refuse(&mut self, passed: BoundPassed) -> std::io::Error {
        self.passed = Some(passed);
        std::io::Error::other("a bound was passed")
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.row_bytes > self.limits.max_line_bytes {
            return Err(self.refuse(BoundPassed::Row { line: self.row_line }));
        }
        let count = self.inner.read(buffer)?;
        if count == 0 {
            return Ok(self.end_last_line(buffer));
        }
        (self.total_bytes, self.row_bytes) = (self.total_bytes + count as u64, self.row_bytes + count as u64);
        let mut passed_on = 0;
        for position in 0..count {
            let byte = buffer[position];
            let ended_before = std::mem::replace(&mut self.last, byte) == b'\r';
            if byte == b'\n' && ended_before {
                continue;
            }
            buffer[passed_on] = if byte == b'\r' { b'\n' } else { byte };
            passed_on += 1;
            if matches!(byte, b'\n' | b'\r') {
                self.line_bytes = 0;
                self.line += 1;
                continue;
            }
            self.line_bytes += 1;
            if self.line_bytes > self.limits.max_line_bytes {
                return Err(self.refuse(BoundPassed::Line { line: self.line }));
            }
        }
        if self.total_bytes > self.limits.max_object_bytes {
            return Err(self.refuse(BoundPassed::Whole { line: self.line, bytes: self.total_bytes }));
        }
        // Nothing would say that the text has ended.
        if passed_on == 0 { self.read(buffer) } else { Ok(passed_on) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &'static str) -> Vec<(u64, Vec<String>)> {
        let mut rows = Rows::of_csv("a.csv", Box::new(text.as_bytes()), &ParseLimits::default()).unwrap();
        std::iter::from_fn(|| rows.next_row().unwrap()).map(|row| (row.line, row.cells)).collect()
    }

    #[test]
    fn a_row_is_told_by_the_line_it_begins_on_whatever_ends_the_lines() {
        let text = "a,b\n1,2\n\n\n\"x\ny\",4\n5,6";
        let told = lines(text);
        assert_eq!(told.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 5, 7], "{told:?}");
        assert_eq!(told[1].1, ["x\ny", "4"]);
        for ending in ["\r\n", "\r"] {
            let other: &'static str = text.replace('\n', ending).leak();
            assert_eq!(lines(other), told, "{ending:?}");
            assert_eq!(lines(format!("{other}{ending}").leak()), told, "{ending:?} at the end");
        }
        // One byte at a time: a line's two last bytes may come in two pieces.
        let slow = OneByte("a,b\r\n1,2\r\n3,4\r\n".as_bytes());
        let mut rows = Rows::of_csv("a.csv", Box::new(slow), &ParseLimits::default()).unwrap();
        let told: Vec<u64> = std::iter::from_fn(|| rows.next_row().unwrap()).map(|row| row.line).collect();
        assert_eq!(told, [2, 3]);
    }

    struct OneByte(&'static [u8]);

    impl Read for OneByte {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let most = buffer.len().min(1);
            self.0.read(&mut buffer[..most])
        }
    }
}
