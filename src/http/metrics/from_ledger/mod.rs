//! Metrics that the ledger tells: one snapshot, a few small queries. No query
//! reads a table that grows with the traffic (predictions, outcomes) as a whole,
//! and of documents only the newest is opened, so that a scrape stays cheap
//! however old the ledger is.

mod data;
mod loop_state;
mod models;
mod monitoring;

use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension, Params};

use super::catalogue::{self as names, Metric};
use super::counted::seconds;
use super::page::Page;
use crate::stages::retain::{Removed, RetentionRecord, SETTING};
use delayd_core::document::{Document, Stored};
use delayd_judge::governor::GovernorPolicy;
use delayd_ledger::{LedgerUsage, Snapshot};

/// Everything that the ledger tells.
pub(super) fn read(connection: &Snapshot<'_>, governor: &GovernorPolicy, now: DateTime<Utc>) -> rusqlite::Result<Page> {
    let mut page = Page::default();
    data::ingestion(&mut page, connection, now)?;
    data::validation(&mut page, connection)?;
    models::training(&mut page, connection)?;
    models::registry(&mut page, connection)?;
    models::images(&mut page, connection)?;
    models::deployments(&mut page, connection)?;
    monitoring::drift(&mut page, connection)?;
    monitoring::windows(&mut page, connection)?;
    loop_state::cycles(&mut page, connection)?;
    loop_state::governor(&mut page, connection, governor, now)?;
    loop_state::alerts(&mut page, connection, now)?;
    retention(&mut page, connection)?;
    Ok(page)
}

/// What was removed because it was old.
fn retention(page: &mut Page, snapshot: &Snapshot<'_>) -> rusqlite::Result<()> {
    let Some(record) = snapshot.setting::<RetentionRecord>(SETTING)? else { return Ok(()) };
    let Removed { predictions, outcomes, metrics_windows, packages, run_folders } = record.removed;
    for (what, removed) in [
        ("predictions", predictions),
        ("outcomes", outcomes),
        ("metrics_windows", metrics_windows),
        ("packages", packages),
        ("run_folders", run_folders),
    ] {
        page.put(&names::RETENTION_REMOVED, &[what], removed as f64);
    }
    page.put(&names::RETENTION_AT, &[], seconds(record.at));
    Ok(())
}

/// What was counted at the ledger's door.
pub(super) fn usage(page: &mut Page, usage: &LedgerUsage) {
    for (access, counts) in [("read", usage.reads), ("write", usage.writes)] {
        page.put(&names::LEDGER_TRANSACTIONS, &[access, "done"], (counts.begun - counts.failed) as f64);
        page.put(&names::LEDGER_TRANSACTIONS, &[access, "failed"], counts.failed as f64);
        page.put(&names::LEDGER_SECONDS, &[access], counts.seconds);
    }
}

/// One number; `None` without a row, or where it is NULL.
fn number(connection: &Connection, sql: &str, parameters: impl Params) -> rusqlite::Result<Option<f64>> {
    let found = connection.prepare_cached(sql)?.query_row(parameters, |row| row.get::<_, Option<f64>>(0)).optional()?;
    Ok(found.flatten())
}

/// A moment, stored in microseconds, in seconds since 1970.
fn moment(connection: &Connection, sql: &str, parameters: impl Params) -> rusqlite::Result<Option<f64>> {
    Ok(number(connection, sql, parameters)?.map(|micros| micros / 1e6))
}

/// Numbers by name.
fn by_name(connection: &Connection, sql: &str, parameters: impl Params) -> rusqlite::Result<Vec<(String, f64)>> {
    connection.prepare_cached(sql)?.query_map(parameters, |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// Puts the counts of a closed set, zero for those that are not there.
fn put_counts(page: &mut Page, metric: &'static Metric, all: &[&str], counts: &[(String, f64)]) {
    for name in all {
        let count = counts.iter().find(|(other, _)| other == name).map_or(0.0, |(_, count)| *count);
        page.put(metric, &[name], count);
    }
}

/// A document; `None` without a row, or where another version of delayd wrote it. A damaged one is an error, as everywhere.
fn document<T: Stored>(connection: &Connection, sql: &str, parameters: impl Params) -> rusqlite::Result<Option<T>> {
    let found = connection.prepare_cached(sql)?.query_row(parameters, |row| row.get::<_, Document>(0)).optional()?;
    Ok(found.as_ref().and_then(known))
}

/// What a document holds; `None` where another version of delayd wrote it.
fn known<T: Stored>(document: &Document) -> Option<T> {
    document.read().inspect_err(|error| tracing::debug!(%error, "a document has no metrics")).ok()
}

/// The number of the live model.
fn live_model(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT model FROM aliases WHERE alias = 'live'")?
        .query_row([], |row| row.get(0))
        .optional()
}
