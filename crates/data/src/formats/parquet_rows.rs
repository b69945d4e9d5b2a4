//! A Parquet file that somebody else wrote, read row group by row group.
//!
//! A few kilobytes of Parquet can stand for billions of cells (a dictionary of one value, repeated), and every length
//! in the file may lie. So nothing is decoded before the footer and all page headers of the columns that are read were
//! looked at: they fit the format, agree with each other, and stay within [`ParseLimits`]. Encodings whose values are
//! not bounded by the bytes of their page are refused. Polars then decodes one row group at a time.

use std::io::Cursor;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use polars::io::parquet::metadata::FileMetadata;
use polars::io::parquet::read::ParallelStrategy;
use polars::prelude::{ArrowDataType, DataFrame, ParquetReader, PolarsResult, SerReader};

use super::thrift::{FOOTER, PAGE_HEADER, Reader, Value};
use super::{MAX_COLUMNS, MAX_NAME_BYTES, ParseLimits};
use crate::error::DataError;

/// A footer has at most this many bytes: that of a year of flights has some kilobytes.
const MAX_FOOTER_BYTES: usize = 16 << 20;
/// Fields and list elements of a footer, at most; each may take some hundred bytes of memory.
const MAX_FOOTER_VALUES: usize = 1_000_000;
/// Fields of one page header, at most.
const MAX_HEADER_VALUES: usize = 100;
/// Row groups, at most. Each costs a call of the decoder.
const MAX_ROW_GROUPS: usize = 4096;
/// Columns within columns, at most; the decoder recurses into them.
const MAX_SCHEMA_DEPTH: usize = 32;

/// A file with its footer read.
pub(super) struct ParquetRows {
    key: String,
    body: Bytes,
    limits: ParseLimits,
    /// Its row groups in reverse once decoding has begun; a group that was decoded is taken out.
    metadata: FileMetadata,
    columns: Vec<FileColumn>,
    wanted: Vec<usize>,
    checked: bool,
}

struct FileColumn {
    name: String,
    /// Bytes that a decoded cell takes, without the text that it points to; `None` for what is never read.
    cell_bytes: Option<u64>,
}

impl ParquetRows {
    /// Reads the footer; until [`ParquetRows::want`] says otherwise, every column is wanted.
    ///
    /// # Errors
    /// When the file is none, is cut off, or has more rows, columns or row groups than the bounds allow.
    pub(super) fn open(key: &str, body: &Bytes, limits: &ParseLimits) -> Result<Self, DataError> {
        let malformed = |found: String| malformed(key, "footer".to_owned(), found);
        let footer = footer_of(body).map_err(malformed)?;
        let read = Reader::new(footer, MAX_FOOTER_VALUES).structure(&FOOTER).map_err(malformed)?;
        check_schema(&read).map_err(malformed)?;
        let metadata = guarded(|| {
            let mut reader = ParquetReader::new(Cursor::new(body.clone()));
            let mut metadata = reader.get_metadata()?.as_ref().clone();
            // Writers' own notes, among them Arrow's schema: the types of the columns tell enough, and it need not be decoded.
            metadata.key_value_metadata = None;
            reader.set_metadata(metadata.clone().into());
            let schema = reader.schema()?;
            let columns = schema
                .iter()
                .map(|(name, field)| FileColumn { name: name.to_string(), cell_bytes: cell_bytes(&field.dtype) });
            Ok((metadata, columns.collect::<Vec<_>>()))
        });
        let (metadata, columns) = metadata.map_err(malformed)?;
        let file = Self {
            key: key.to_owned(),
            body: body.clone(),
            limits: *limits,
            metadata,
            wanted: (0..columns.len()).collect(),
            columns,
            checked: false,
        };
        file.check_counts()?;
        Ok(file)
    }

    /// The columns' names.
    pub(super) fn header(&self) -> Vec<String> {
        self.columns.iter().map(|column| column.name.clone()).collect()
    }

    /// Decodes only the columns at these positions of the header, ascending.
    pub(super) fn want(&mut self, positions: Vec<usize>) {
        self.wanted = positions;
    }

    /// Which positions of the header the columns of a row group have.
    pub(super) fn wanted(&self) -> &[usize] {
        &self.wanted
    }

    /// The wanted columns of the next row group that has rows; `None` at the end.
    ///
    /// # Errors
    /// When the file is damaged, or passes a bound; nothing of it is decoded then.
    pub(super) fn next_group(&mut self) -> Result<Option<DataFrame>, DataError> {
        if !self.checked {
            self.check_wanted()?;
            self.metadata.row_groups.reverse();
            self.checked = true;
        }
        while let Some(group) = self.metadata.row_groups.pop() {
            let rows = group.num_rows();
            if rows == 0 {
                continue;
            }
            let waiting = std::mem::take(&mut self.metadata.row_groups);
            let mut metadata = self.metadata.clone();
            self.metadata.row_groups = waiting;
            (metadata.num_rows, metadata.max_row_group_height) = (rows, rows);
            metadata.row_groups = vec![group];
            let frame = guarded(|| {
                let mut reader = ParquetReader::new(Cursor::new(self.body.clone()));
                reader.set_metadata(metadata.into());
                reader.with_projection(Some(self.wanted.clone())).read_parallel(ParallelStrategy::Columns).finish()
            });
            let frame = frame.map_err(|found| malformed(&self.key, "rows".to_owned(), found))?;
            if frame.height() != rows {
                let found = format!("{} rows where the footer states {rows}", frame.height());
                return Err(malformed(&self.key, "rows".to_owned(), found));
            }
            return Ok(Some(frame));
        }
        Ok(None)
    }

    /// What the footer states of the whole file.
    fn check_counts(&self) -> Result<(), DataError> {
        let groups = &self.metadata.row_groups;
        let malformed = |found: String| Err(malformed(&self.key, "footer".to_owned(), found));
        if self.columns.len() > MAX_COLUMNS {
            return malformed(format!("{} columns, and more than {MAX_COLUMNS} are not read", self.columns.len()));
        }
        if let Some(column) = self.columns.iter().find(|column| column.name.len() > MAX_NAME_BYTES) {
            return malformed(format!(
                "a column's name of {} bytes, the longest is {MAX_NAME_BYTES}",
                column.name.len()
            ));
        }
        if groups.len() > MAX_ROW_GROUPS {
            return malformed(format!("{} row groups, and more than {MAX_ROW_GROUPS} are not read", groups.len()));
        }
        let rows = groups.iter().try_fold(0_usize, |sum, group| sum.checked_add(group.num_rows()));
        let Some(rows) = rows.filter(|rows| *rows == self.metadata.num_rows) else {
            return malformed(format!("its row groups do not add up to its {} rows", self.metadata.num_rows));
        };
        if rows as u64 > self.limits.max_rows {
            return Err(self.limits.too_many_rows(&self.key, "footer", format!("{rows} rows")));
        }
        Ok(())
    }

    /// What the footer and the page headers state of the columns that are read.
    fn check_wanted(&self) -> Result<(), DataError> {
        let mut unpacked = 0_u64;
        for (index, group) in self.metadata.row_groups.iter().enumerate() {
            let mut cells_bytes = 0_u64;
            for column in self.wanted.iter().filter_map(|position| self.columns.get(*position)) {
                let place = format!("row group {}, column `{}`", index + 1, column.name);
                let wrong = |found: String| malformed(&self.key, place.clone(), found);
                let cell = column.cell_bytes.ok_or_else(|| wrong("a nested or decimal column".to_owned()))?;
                cells_bytes = cells_bytes.saturating_add(cell.saturating_mul(group.num_rows() as u64));
                let mut chunks = group.columns_under_root_iter(&column.name).into_iter().flatten();
                let (Some(chunk), None) = (chunks.next(), chunks.next()) else {
                    return Err(wrong("it is not one flat column".to_owned()));
                };
                if u64::try_from(chunk.num_values()) != Ok(group.num_rows() as u64) {
                    let found = format!("{} values in a row group of {} rows", chunk.num_values(), group.num_rows());
                    return Err(wrong(found));
                }
                let range = guarded(|| Ok(chunk.byte_range())).map_err(wrong)?;
                let pages = self.slice(range).ok_or_else(|| wrong("it lies outside the file".to_owned()))?;
                let room = self.limits.max_object_bytes.saturating_sub(unpacked);
                let stated = u64::try_from(chunk.uncompressed_size()).unwrap_or(u64::MAX);
                let found =
                    if stated > room { stated } else { unpacked_bytes(pages, group.num_rows()).map_err(wrong)? };
                unpacked = unpacked.saturating_add(found);
                if found > room {
                    let found = format!("{unpacked} bytes after decompression, up to here");
                    return Err(self.limits.too_many_bytes(&self.key, &place, found));
                }
            }
            if cells_bytes > self.limits.max_object_bytes {
                let found = format!(
                    "{} rows of {} columns, {cells_bytes} bytes when decoded",
                    group.num_rows(),
                    self.wanted.len()
                );
                return Err(self.limits.too_many_bytes(&self.key, &format!("row group {}", index + 1), found));
            }
        }
        Ok(())
    }

    fn slice(&self, range: Range<u64>) -> Option<&[u8]> {
        self.body.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
    }
}

/// Calls Polars, which panics on some damaged files; a panic must stay inside this object.
fn guarded<T>(work: impl FnOnce() -> PolarsResult<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err("the file's structure is damaged".to_owned()),
    }
}

fn malformed(key: &str, place: String, found: String) -> DataError {
    DataError::Malformed {
        key: key.to_owned(),
        place: format!("Parquet file, {place}"),
        found,
        expected: "a complete Parquet file with flat columns of text, numbers, booleans, dates or timestamps".into(),
        advice: "Write or upload it again, whole",
    }
}

/// The bytes of the footer, which ends the file: `FileMetaData`, its length in four bytes, `PAR1`.
fn footer_of(body: &[u8]) -> Result<&[u8], String> {
    let Some((rest, [a, b, c, d, b'P', b'A', b'R', b'1'])) = body.split_last_chunk::<8>() else {
        return Err("it does not end as a Parquet file ends, with PAR1".to_owned());
    };
    let length = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
    if length > MAX_FOOTER_BYTES {
        return Err(format!("{length} bytes, and more than {MAX_FOOTER_BYTES} are not read"));
    }
    let start = rest.len().checked_sub(length).ok_or_else(|| format!("{length} bytes, more than the file has"))?;
    rest.get(start..).ok_or_else(|| "it is cut off".to_owned())
}

/// The schema lists its columns before the columns within them; deep ones would take the decoder's stack.
fn check_schema(footer: &Value<'_>) -> Result<(), String> {
    let mut open: Vec<i64> = Vec::new();
    for element in footer.list(2) {
        while open.last() == Some(&0) {
            open.pop();
        }
        if let Some(left) = open.last_mut() {
            *left -= 1;
        }
        let children = element.int(5).unwrap_or(0);
        if children < 0 {
            return Err(format!("a column with {children} columns within"));
        }
        if children > 0 {
            open.push(children);
        }
        if open.len() > MAX_SCHEMA_DEPTH {
            return Err(format!("columns within columns, deeper than {MAX_SCHEMA_DEPTH}"));
        }
    }
    Ok(())
}

/// What a decoded cell takes; of text, what refers to it.
fn cell_bytes(kind: &ArrowDataType) -> Option<u64> {
    use ArrowDataType as Kind;
    match kind {
        Kind::Null | Kind::Boolean | Kind::Int8 | Kind::UInt8 => Some(1),
        Kind::Int16 | Kind::UInt16 | Kind::Int32 | Kind::UInt32 | Kind::Float32 | Kind::Date32 | Kind::Time32(_) => {
            Some(4)
        }
        Kind::Int64
        | Kind::UInt64
        | Kind::Float64
        | Kind::Date64
        | Kind::Time64(_)
        | Kind::Timestamp(..)
        | Kind::Duration(_) => Some(8),
        Kind::Utf8View | Kind::BinaryView | Kind::Utf8 | Kind::LargeUtf8 | Kind::Binary | Kind::LargeBinary => Some(16),
        _ => None,
    }
}

/// The unpacked bytes of a column's pages, by their headers, which must tell of exactly these rows.
fn unpacked_bytes(pages: &[u8], rows: usize) -> Result<u64, String> {
    let mut reader = Reader::new(pages, MAX_HEADER_VALUES);
    let (mut values, mut total) = (0_u64, 0_u64);
    while values < rows as u64 {
        reader.allow(MAX_HEADER_VALUES);
        let header = reader.structure(&PAGE_HEADER).map_err(|why| format!("a page header: {why}"))?;
        let size = |id| header.int(id).and_then(|size| u64::try_from(size).ok()).filter(|size| *size <= 1 << 31);
        let (Some(unpacked), Some(packed)) = (size(2), size(3)) else {
            return Err("a page header states no size".to_owned());
        };
        let (of_kind, encoding) = match header.int(1) {
            Some(0) => (header.field(5), 2),
            Some(2) => (header.field(7), 2),
            Some(3) => (header.field(8), 4),
            other => return Err(format!("a page of the type {other:?}")),
        };
        let count = of_kind.and_then(|page| page.int(1)).and_then(|count| u64::try_from(count).ok());
        let count = count.ok_or_else(|| "a page header states no number of values".to_owned())?;
        if header.int(1) == Some(2) {
            // Every value of a dictionary takes a byte at least.
            if count > unpacked {
                return Err(format!("a dictionary of {count} values in {unpacked} bytes"));
            }
        } else {
            values += count;
        }
        check_encoding(of_kind.and_then(|page| page.int(encoding)))?;
        total = total.saturating_add(unpacked);
        reader.skip(packed)?;
    }
    if values == rows as u64 { Ok(total) } else { Err(format!("its pages state {values} values for {rows} rows")) }
}

/// Plain, dictionary, run-length and byte-stream-split pages hold what their headers say; deltas may stand for any
/// amount of text or numbers.
fn check_encoding(encoding: Option<i64>) -> Result<(), String> {
    match encoding {
        Some(0 | 2 | 3 | 4 | 8 | 9) => Ok(()),
        Some(5..=7) => Err("its pages are encoded as deltas, which are not read; write them plain or with a \
                            dictionary, as Parquet's writers do unless told otherwise"
            .to_owned()),
        other => Err(format!("pages in the unknown encoding {other:?}")),
    }
}
