//! What all tables share: pages of a list, and ids minted in sequence.

use rusqlite::{Connection, OptionalExtension, Params, Row, params};
use serde::{Deserialize, Serialize};

use super::columns::Count;
use super::records::{Records, Writes};
use delayd_core::ids::{AlertId, CycleId, DecisionId, DeploymentId, DriftReportId, RunId, SilenceId};

/// A part of a list that is sorted newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Page {
    /// How many of the newest to leave out.
    pub offset: u64,
    /// How many to answer at most.
    pub limit: u64,
}

impl Default for Page {
    fn default() -> Self {
        Self { offset: 0, limit: 50 }
    }
}

impl Page {
    /// The newest `limit` ones.
    #[must_use]
    pub fn newest(limit: u64) -> Self {
        Self { offset: 0, limit }
    }
}

/// An id that is minted before the thing it names exists.
pub trait SequenceName: Sized + Send + 'static {
    /// The sequence's name in the ledger.
    const NAME: &'static str;
    /// The id with this number.
    fn from_number(number: u64) -> Self;
}

macro_rules! sequence {
    ($($id:ident = $name:literal),* $(,)?) => {$(
        impl SequenceName for $id {
            const NAME: &'static str = $name;
            fn from_number(number: u64) -> Self {
                Self(number)
            }
        }
    )*};
}

sequence! {
    CycleId = "cycle",
    RunId = "run",
    DeploymentId = "deployment",
    DecisionId = "decision",
    DriftReportId = "drift_report",
    AlertId = "alert",
    SilenceId = "silence",
}

impl<W: Writes> Records<W> {
    /// Mints an id before the effect that it will name, so that the effect can
    /// be recognised when it is repeated.
    pub fn mint<I: SequenceName>(&self) -> W::Answer<I> {
        self.write("minting an id", move |tx| {
            let number: Count = tx.query_row(
                "INSERT INTO sequences (name, last) VALUES (?1, 1)
         ON CONFLICT (name) DO UPDATE SET last = last + 1 RETURNING last",
                [I::NAME],
                |row| row.get(0),
            )?;
            Ok(I::from_number(number.0))
        })
    }
}

/// All rows of a query, in its order.
pub(super) fn all<T>(
    connection: &Connection,
    sql: &str,
    parameters: impl Params,
    from_row: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    connection.prepare_cached(sql)?.query_map(parameters, |row| from_row(row))?.collect()
}

/// One row, or `None`.
pub(super) fn one<T>(
    connection: &Connection,
    sql: &str,
    parameters: impl Params,
    from_row: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Option<T>> {
    connection.prepare_cached(sql)?.query_row(parameters, |row| from_row(row)).optional()
}

/// A page of `SELECT * FROM table`, sorted by `order`.
pub(super) fn page<T>(
    connection: &Connection,
    table: &str,
    order: &str,
    page: Page,
    from_row: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    let sql = format!("SELECT * FROM {table} ORDER BY {order} LIMIT ?1 OFFSET ?2");
    all(connection, &sql, params![Count(page.limit), Count(page.offset)], from_row)
}
