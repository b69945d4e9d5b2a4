//! From the bytes of an object to canonical flights.
//!
//! The container (plain, gzip, zip, Parquet) is told by its first bytes, not by
//! its name; the layout by its columns. All layouts, ours included, are one
//! [`ColumnMapping`] each, so that an unknown source needs configuration and not
//! code. A fault of one row rejects that row with its reasons; a fault of the
//! whole object is an error. Memory is bounded: no line, no object grows past
//! [`ParseLimits`].

pub mod container;
pub mod convert;
pub mod mapping;
pub mod parquet;
pub mod rows;

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
use rows::Rows;

/// Bounds on what one object may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ParseLimits {
    /// Longest line in bytes.
    pub max_line_bytes: u64,
    /// Largest object after decompression, in bytes.
    pub max_object_bytes: u64,
    /// How many rejected rows are kept in full; all are counted.
    pub max_rejected_rows_kept: usize,
}

impl Default for ParseLimits {
    fn default() -> Self {
        Self { max_line_bytes: 1 << 20, max_object_bytes: 4 << 30, max_rejected_rows_kept: 10_000 }
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
