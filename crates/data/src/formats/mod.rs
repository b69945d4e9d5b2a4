//! From the bytes of an object to canonical flights.
//!
//! The container (plain, gzip, zip, Parquet) is told by its first bytes, not by
//! its name; the layout by its columns. All layouts, ours included, are one
//! [`ColumnMapping`] each, so that an unknown source needs configuration and not
//! code. A fault of one row rejects that row with its reasons; a fault of the
//! whole object is an error. Memory is bounded: what an object unpacks to stays
//! within [`ParseLimits`], whatever its container and whatever it says of itself.

pub mod container;
pub mod convert;
pub mod mapping;
pub mod parquet;
mod parquet_rows;
pub mod rows;
mod thrift;
mod zip_member;

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use container::Container;
pub use mapping::{ColumnMapping, TimeMeaning};

use super::error::DataError;
use super::flight::FlightRecord;
use super::local_time::TimeZones;
use super::validation::QuarantinedRow;
use convert::Converter;
use delayd_core::fault::Fault;
use rows::Rows;

/// Columns of an object, at most: BTS's files have 110.
const MAX_COLUMNS: usize = 2000;

/// Longest name of a column in bytes: names are quoted when some are missing.
const MAX_NAME_BYTES: usize = 256;

/// Bounds on what one object may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ParseLimits {
    /// Longest line in bytes.
    pub max_line_bytes: u64,
    /// Largest object in bytes: as it is stored, after decompression, and one row group of Parquet decoded.
    pub max_object_bytes: u64,
    /// Most rows of an object.
    pub max_rows: u64,
    /// How many rejected rows are kept in full; all are counted.
    pub max_rejected_rows_kept: usize,
}

impl Default for ParseLimits {
    fn default() -> Self {
        Self { max_line_bytes: 1 << 20, max_object_bytes: 1 << 30, max_rows: 2_000_000, max_rejected_rows_kept: 10_000 }
    }
}

impl ParseLimits {
    /// Every bound that cannot be, by its key below `prefix`.
    #[must_use]
    pub fn faults(&self, prefix: &str) -> Vec<Fault> {
        let bounds = [
            ("max_line_bytes", self.max_line_bytes, 1024, "1024 bytes or more"),
            ("max_object_bytes", self.max_object_bytes, 1024, "1024 bytes or more"),
            ("max_rows", self.max_rows, 1, "1 or more"),
        ];
        let wrong = bounds.into_iter().filter(|(_, found, least, _)| found < least);
        wrong
            .map(|(key, found, _, expected)| Fault {
                key: format!("{prefix}.{key}"),
                found: found.to_string(),
                expected: expected.to_owned(),
            })
            .collect()
    }

    /// Refuses an object by the size that a listing or a file's metadata tell, before it is held in memory.
    ///
    /// # Errors
    /// When it is larger than the bound.
    pub fn check_stored(&self, key: &str, size_bytes: u64) -> Result<(), DataError> {
        if size_bytes <= self.max_object_bytes {
            return Ok(());
        }
        Err(self.too_many_bytes(key, "the object", format!("{size_bytes} bytes")))
    }

    pub(super) fn too_many_bytes(&self, key: &str, place: &str, found: String) -> DataError {
        let (key, place, limit) = (key.to_owned(), place.to_owned(), self.max_object_bytes);
        DataError::TooLarge { key, place, found, limit, setting: "ingestion.limits.max_object_bytes" }
    }

    pub(super) fn too_many_rows(&self, key: &str, place: &str, found: String) -> DataError {
        let (key, place, limit) = (key.to_owned(), place.to_owned(), self.max_rows);
        DataError::TooLarge { key, place, found, limit, setting: "ingestion.limits.max_rows" }
    }

    pub(super) fn too_long(&self, key: &str, place: &str, found: String) -> DataError {
        let (key, place, limit) = (key.to_owned(), place.to_owned(), self.max_line_bytes);
        DataError::TooLarge { key, place, found, limit, setting: "ingestion.limits.max_line_bytes" }
    }
}

/// A row that could not be turned into a flight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedRow {
    /// Its line, from 1; the header is line 1. For Parquet the row, from 1.
    pub line: u64,
    /// Its cells joined by commas, cut to 500 characters.
    pub text: String,
    /// Every fault found in it.
    pub reasons: Vec<String>,
}

impl RejectedRow {
    /// The same as a row set aside from an object.
    #[must_use]
    pub fn quarantined(self, object: &str) -> QuarantinedRow {
        QuarantinedRow { object: object.to_owned(), line: self.line, key: self.text, reasons: self.reasons }
    }
}

/// What an object held.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedObject {
    /// How it was wrapped.
    pub container: Container,
    /// Name of the layout that its columns have.
    pub layout: String,
    /// Flights with their lines.
    pub flights: Vec<(u64, FlightRecord)>,
    /// Rows that are no flights; the first of them, see [`ParseLimits`].
    pub rejected: Vec<RejectedRow>,
    /// How many rows were rejected in all.
    pub rejected_count: u64,
    /// Columns that the layout does not use.
    pub unused_columns: BTreeSet<String>,
}

/// Reads a whole object of flights. `key` is for the messages only; `mapping` is
/// the configured one and wins over the known layouts where its columns are there.
///
/// # Errors
/// When the object as a whole cannot be read: empty, of an unknown layout, with
/// missing columns (all are named), corrupt, or larger than the limits.
pub fn parse_flights(
    key: &str,
    body: &Bytes,
    zones: &TimeZones,
    mapping: Option<&ColumnMapping>,
    limits: &ParseLimits,
) -> Result<ParsedObject, DataError> {
    let (container, mut rows) = container::open(key, body, limits)?;
    let (layout, mapping) = mapping::choose(key, rows.header(), mapping)?;
    rows.read_only(mapping.columns().into_iter().map(|(_, name)| name));
    let converter = Converter::new(&mapping, rows.header(), zones);
    let unused_columns = converter.unused_columns(rows.header());
    let mut parsed = ParsedObject {
        container,
        layout,
        flights: Vec::new(),
        rejected: Vec::new(),
        rejected_count: 0,
        unused_columns,
    };
    read_rows(&mut rows, &converter, limits, &mut parsed)?;
    Ok(parsed)
}

fn read_rows(
    rows: &mut Rows,
    converter: &Converter<'_>,
    limits: &ParseLimits,
    parsed: &mut ParsedObject,
) -> Result<(), DataError> {
    while let Some(row) = rows.next_row()? {
        let reasons = match row.fault {
            Some(fault) => vec![fault],
            None => match converter.convert(&row.cells) {
                Ok(flight) => {
                    parsed.flights.push((row.line, flight));
                    continue;
                }
                Err(reasons) => reasons,
            },
        };
        parsed.rejected_count += 1;
        if parsed.rejected.len() < limits.max_rejected_rows_kept {
            let text = row.cells.join(",").chars().take(500).collect();
            parsed.rejected.push(RejectedRow { line: row.line, text, reasons });
        }
    }
    Ok(())
}
