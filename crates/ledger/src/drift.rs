//! Evaluations of drift, and the monitor's windows.

use chrono::{DateTime, Utc};
use rusqlite::{Row, params};
use serde::{Deserialize, Serialize};

use super::columns::At;
use super::query::{self, Page};
use super::records::{Reads, Records, Writes};
use delayd_core::document::Document;
use delayd_core::ids::{DriftReportId, ModelVersion};

/// One evaluation of drift.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DriftRecord {
    /// Its identity, minted before.
    pub id: DriftReportId,
    /// When it was evaluated.
    pub at: DateTime<Utc>,
    /// The model whose reference was compared.
    pub model: ModelVersion,
    /// The window's begin.
    pub window_from: DateTime<Utc>,
    /// The window's end, exclusive.
    pub window_until: DateTime<Utc>,
    /// Whether it calls for a retrain.
    pub drifted: bool,
    /// Every feature with its statistics and thresholds.
    pub report: Document,
}

impl DriftRecord {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            at: row.get::<_, At>("at")?.0,
            model: row.get("model")?,
            window_from: row.get::<_, At>("window_from")?.0,
            window_until: row.get::<_, At>("window_until")?.0,
            drifted: row.get("drifted")?,
            report: row.get("report")?,
        })
    }
}

/// What the monitor measured in one window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MetricsWindow {
    /// The window's end.
    pub at: DateTime<Utc>,
    /// The model that served.
    pub model: ModelVersion,
    /// Traffic, latency, errors, scores.
    pub body: Document,
}

impl MetricsWindow {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { at: row.get::<_, At>("at")?.0, model: row.get("model")?, body: row.get("body")? })
    }
}

impl<W: Writes> Records<W> {
    /// Notes an evaluation of drift; the same id again changes nothing.
    pub fn insert_drift_report(&self, record: DriftRecord) -> W::Answer<()> {
        self.write("noting a drift report", move |tx| {
            tx.execute(
                "INSERT INTO drift_reports (id, at, model, window_from, window_until, drifted, report)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (id) DO NOTHING",
                params![
                    record.id,
                    At(record.at),
                    record.model,
                    At(record.window_from),
                    At(record.window_until),
                    record.drifted,
                    record.report
                ],
            )?;
            Ok(())
        })
    }

    /// Notes what the monitor measured; the same moment and model again replaces it.
    pub fn save_metrics_window(&self, window: MetricsWindow) -> W::Answer<()> {
        self.write("noting a metrics window", move |tx| {
            tx.execute(
                "INSERT INTO metrics_windows (at, model, body) VALUES (?1, ?2, ?3)
         ON CONFLICT (at, model) DO UPDATE SET body = ?3",
                params![At(window.at), window.model, window.body],
            )?;
            Ok(())
        })
    }
}

impl<R: Reads> Records<R> {
    /// One evaluation.
    pub fn drift_report(&self, id: DriftReportId) -> R::Answer<Option<DriftRecord>> {
        let sql = "SELECT * FROM drift_reports WHERE id = ?1";
        self.read("reading a drift report", move |c| query::one(c, sql, [id], DriftRecord::from_row))
    }

    /// Evaluations, newest first.
    pub fn drift_reports(&self, page: Page) -> R::Answer<Vec<DriftRecord>> {
        self.read("listing drift reports", move |c| {
            query::page(c, "drift_reports", "id DESC", page, DriftRecord::from_row)
        })
    }

    /// The monitor's windows that ended in `from..until`, oldest first.
    pub fn metrics_windows(&self, from: DateTime<Utc>, until: DateTime<Utc>) -> R::Answer<Vec<MetricsWindow>> {
        self.read("reading metrics windows", move |connection| {
            let sql = "SELECT * FROM metrics_windows WHERE at >= ?1 AND at < ?2 ORDER BY at, model";
            query::all(connection, sql, params![At(from), At(until)], MetricsWindow::from_row)
        })
    }

    /// The monitor's windows from `from` until `until`, oldest first, thinned evenly to
    /// `points` at most: what a chart of many days can show. The newest is among them.
    pub fn metrics_windows_thinned(
        &self,
        from: DateTime<Utc>,
        until: DateTime<Utc>,
        points: u32,
    ) -> R::Answer<Vec<MetricsWindow>> {
        self.read("reading metrics windows", move |connection| {
            // Only the keys are numbered: the bodies of those left out are never read.
            let sql = "
        WITH numbered AS (
            SELECT at, model, row_number() OVER (ORDER BY at DESC, model DESC) - 1 AS place, count(*) OVER () AS total
            FROM metrics_windows WHERE at >= ?1 AND at < ?2)
        SELECT w.* FROM numbered n JOIN metrics_windows w ON w.at = n.at AND w.model = n.model
        WHERE n.place % max(1, (n.total + ?3 - 1) / ?3) = 0
        ORDER BY w.at, w.model";
            query::all(connection, sql, params![At(from), At(until), points.max(1)], MetricsWindow::from_row)
        })
    }
}
