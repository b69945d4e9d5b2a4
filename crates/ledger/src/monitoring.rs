//! What the monitor goes by: evaluations of drift, windows of metrics, what was predicted for whom, what came of it, and
//! the join of the two.
//!
//! Predictions and outcomes grow with the traffic, so they are written in bulk and pruned.

use chrono::{DateTime, Duration, Utc};
use rusqlite::{Row, params};
use serde::{Deserialize, Serialize};

use super::records::{Reads, Records, Tx, Writes};
use super::rows::{self, At, Count, Page};
use super::{Ledger, LedgerError};
use delayd_core::document::Document;
use delayd_core::ids::{DriftReportId, FlightKey, ModelVersion};

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
        self.read("reading a drift report", move |c| rows::one(c, sql, [id], DriftRecord::from_row))
    }

    /// Evaluations, newest first.
    pub fn drift_reports(&self, page: Page) -> R::Answer<Vec<DriftRecord>> {
        self.read("listing drift reports", move |c| {
            rows::page(c, "drift_reports", "id DESC", page, DriftRecord::from_row)
        })
    }

    /// The monitor's windows that ended in `from..until`, oldest first.
    pub fn metrics_windows(&self, from: DateTime<Utc>, until: DateTime<Utc>) -> R::Answer<Vec<MetricsWindow>> {
        self.read("reading metrics windows", move |connection| {
            let sql = "SELECT * FROM metrics_windows WHERE at >= ?1 AND at < ?2 ORDER BY at, model";
            rows::all(connection, sql, params![At(from), At(until)], MetricsWindow::from_row)
        })
    }

    /// The monitor's newest window.
    pub fn newest_metrics_window(&self) -> R::Answer<Option<MetricsWindow>> {
        self.read("reading the newest metrics window", |connection| {
            let sql = "SELECT * FROM metrics_windows ORDER BY at DESC, model DESC LIMIT 1";
            rows::one(connection, sql, [], MetricsWindow::from_row)
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
            rows::all(connection, sql, params![At(from), At(until), points.max(1)], MetricsWindow::from_row)
        })
    }
}

/// How many rows one transaction removes at most, so that pruning never holds up the writer for long.
const PRUNE_BATCH: u64 = 5_000;
/// Name under which is kept how many outcomes were pruned: they still are examples to learn from.
const PRUNED_OUTCOMES: &str = "pruned_outcomes";

/// One prediction that a replica served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServedPrediction {
    /// The replica; its name is never used again.
    pub replica: String,
    /// Its number among the replica's predictions.
    pub seq: u64,
    /// The flight.
    pub flight: FlightKey,
    /// When it was predicted.
    pub prediction_time: DateTime<Utc>,
    /// The predicted probability of a delay.
    pub score: f64,
    /// The model that answered.
    pub model: ModelVersion,
}

/// What came of a flight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownOutcome {
    /// The flight.
    pub flight: FlightKey,
    /// Whether it arrived 15 minutes late or more.
    pub delayed: bool,
    /// Since when that is known.
    pub known_at: DateTime<Utc>,
}

/// A prediction beside what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoredOutcome {
    /// The predicted probability of a delay.
    pub score: f64,
    /// Whether it was delayed.
    pub delayed: bool,
    /// The model that predicted.
    pub model: ModelVersion,
    /// Carrier, IATA code.
    pub carrier: String,
    /// Origin airport, IATA code.
    pub origin: String,
    /// When it was predicted.
    pub prediction_time: DateTime<Utc>,
    /// Since when the outcome is known.
    pub known_at: DateTime<Utc>,
}

impl<W: Writes> Records<W> {
    /// Notes served predictions, thousands in one transaction. A replica's number
    /// that is there already is left as it is. Answers how many were new.
    pub fn insert_predictions(&self, predictions: Vec<ServedPrediction>) -> W::Answer<u64> {
        self.write("noting served predictions", move |tx| {
            let mut insert = tx.prepare_cached(
                "INSERT INTO served_predictions (replica, seq, carrier, flight_number, origin, dest,
                 scheduled_departure, prediction_time, score, model) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
                 ON CONFLICT (replica, seq) DO NOTHING",
            )?;
            let mut new = 0;
            for served in &predictions {
                let flight = &served.flight;
                new += insert.execute(params![
                    served.replica,
                    Count(served.seq),
                    flight.carrier,
                    flight.flight_number,
                    flight.origin,
                    flight.dest,
                    At(flight.scheduled_departure),
                    At(served.prediction_time),
                    served.score,
                    served.model
                ])?;
            }
            Ok(new as u64)
        })
    }

    /// Notes what came of flights, thousands in one transaction; a correction
    /// replaces what was noted.
    pub fn upsert_outcomes(&self, outcomes: Vec<KnownOutcome>) -> W::Answer<()> {
        self.write("noting outcomes", move |tx| {
            let mut upsert = tx.prepare_cached(
                "INSERT INTO outcomes (carrier, flight_number, origin, dest, scheduled_departure, delayed, known_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (scheduled_departure, carrier, flight_number, origin, dest)
                 DO UPDATE SET delayed = ?6, known_at = ?7",
            )?;
            for outcome in &outcomes {
                let flight = &outcome.flight;
                upsert.execute(params![
                    flight.carrier,
                    flight.flight_number,
                    flight.origin,
                    flight.dest,
                    At(flight.scheduled_departure),
                    outcome.delayed,
                    At(outcome.known_at)
                ])?;
            }
            Ok(())
        })
    }
}

impl<R: Reads> Records<R> {
    /// When the newest outcome became known, how many outcomes there are, those that
    /// were pruned included, and how many of them came after `since`.
    pub fn outcome_counts(&self, since: DateTime<Utc>) -> R::Answer<(Option<DateTime<Utc>>, u64, u64)> {
        self.read("counting outcomes", move |connection| {
            let pruned: u64 = connection.setting(PRUNED_OUTCOMES)?.unwrap_or_default();
            let sql = "SELECT max(known_at), count(*), coalesce(sum(known_at > ?1), 0) FROM outcomes";
            connection.query_row(sql, params![At(since)], |row| {
                let newest: Option<At> = row.get(0)?;
                let (all, new): (i64, i64) = (row.get(1)?, row.get(2)?);
                Ok((newest.map(|at| at.0), all.unsigned_abs() + pruned, new.unsigned_abs()))
            })
        })
    }

    /// Scores of a model's predictions from `from` up to `until` whose outcomes
    /// are not known yet.
    pub fn pending_scores(
        &self,
        model: ModelVersion,
        from: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> R::Answer<Vec<f32>> {
        self.read("reading predictions without outcome", move |connection| {
            let sql = "SELECT p.score FROM served_predictions p
                       WHERE p.prediction_time >= ?1 AND p.prediction_time < ?2 AND p.model = ?3
                         AND NOT EXISTS (SELECT 1 FROM outcomes o
                           WHERE o.scheduled_departure = p.scheduled_departure AND o.carrier = p.carrier
                             AND o.flight_number = p.flight_number AND o.origin = p.origin AND o.dest = p.dest)";
            let number = i64::try_from(model.0).unwrap_or(i64::MAX);
            rows::all(connection, sql, params![At(from), At(until), number], |row| {
                row.get::<_, f64>(0).map(|score| score as f32)
            })
        })
    }

    /// Outcomes that became known in `from..until`, each beside the last
    /// prediction made before it was known; in the order in which they became
    /// known. A flight counts once however often it was asked for; one that was
    /// never asked for does not count.
    pub fn scored_outcomes(&self, from: DateTime<Utc>, until: DateTime<Utc>) -> R::Answer<Vec<ScoredOutcome>> {
        self.read("joining predictions and outcomes", move |connection| {
            // With one max(), SQLite takes the other columns from the row that has it
            // (sqlite.org/lang_select.html, "bare columns in an aggregate query").
            let sql = "SELECT p.score, o.delayed, p.model, o.carrier, o.origin, o.known_at, max(p.prediction_time)
               FROM outcomes o JOIN served_predictions p
                 ON p.scheduled_departure = o.scheduled_departure AND p.carrier = o.carrier
                AND p.flight_number = o.flight_number AND p.origin = o.origin AND p.dest = o.dest
                AND p.prediction_time < o.known_at
               WHERE o.known_at >= ?1 AND o.known_at < ?2
               GROUP BY o.scheduled_departure, o.carrier, o.flight_number, o.origin, o.dest
               ORDER BY o.known_at, o.scheduled_departure, o.carrier, o.flight_number, o.origin, o.dest";
            rows::all(connection, sql, params![At(from), At(until)], |row| {
                Ok(ScoredOutcome {
                    score: row.get(0)?,
                    delayed: row.get(1)?,
                    model: row.get(2)?,
                    carrier: row.get(3)?,
                    origin: row.get(4)?,
                    known_at: row.get::<_, At>(5)?.0,
                    prediction_time: row.get::<_, At>(6)?.0,
                })
            })
        })
    }
}

impl Ledger {
    /// Removes predictions made before `before`, in batches; answers how many.
    ///
    /// # Errors
    /// SQLite failed; what earlier batches removed stays removed.
    pub async fn prune_predictions(&self, before: DateTime<Utc>) -> Result<u64, LedgerError> {
        let sql = "DELETE FROM served_predictions WHERE (replica, seq) IN
                   (SELECT replica, seq FROM served_predictions WHERE prediction_time < ?1 LIMIT ?2)";
        self.in_batches("pruning predictions", move |tx| tx.execute(sql, params![At(before), Count(PRUNE_BATCH)])).await
    }

    /// Removes outcomes that became known before `before`, in batches; answers how
    /// many. The newest stays, and [`Self::outcome_counts`] goes on counting all.
    ///
    /// # Errors
    /// SQLite failed; what earlier batches removed stays removed.
    pub async fn prune_outcomes(&self, before: DateTime<Utc>, now: DateTime<Utc>) -> Result<u64, LedgerError> {
        let sql = "DELETE FROM outcomes WHERE (scheduled_departure, carrier, flight_number, origin, dest) IN
                   (SELECT scheduled_departure, carrier, flight_number, origin, dest FROM outcomes
                    WHERE known_at < min(?1, (SELECT max(known_at) FROM outcomes)) LIMIT ?2)";
        self.in_batches("pruning outcomes", move |tx| {
            let batch = tx.execute(sql, params![At(before), Count(PRUNE_BATCH)])?;
            if batch > 0 {
                let earlier: u64 = tx.setting(PRUNED_OUTCOMES)?.unwrap_or_default();
                tx.set_setting(PRUNED_OUTCOMES, earlier + batch as u64, now)?;
            }
            Ok(batch)
        })
        .await
    }

    /// Leaves of each model's windows before `before` only the last one of every
    /// `span` of time, in batches; answers how many were removed.
    ///
    /// # Errors
    /// SQLite failed; what earlier batches removed stays removed.
    pub async fn thin_metrics_windows(&self, before: DateTime<Utc>, span: Duration) -> Result<u64, LedgerError> {
        let sql = "DELETE FROM metrics_windows WHERE (at, model) IN
                   (SELECT w.at, w.model FROM metrics_windows w WHERE w.at < ?1 AND EXISTS
                     (SELECT 1 FROM metrics_windows later WHERE later.model = w.model
                       AND later.at > w.at AND later.at < min(?1, (w.at / ?3 + 1) * ?3))
                    LIMIT ?2)";
        let micros = span.num_microseconds().unwrap_or(i64::MAX).max(1);
        self.in_batches("thinning the monitor's windows", move |tx| {
            tx.execute(sql, params![At(before), Count(PRUNE_BATCH), micros])
        })
        .await
    }

    /// Repeats a transaction until it finds less than a whole batch to remove.
    async fn in_batches(
        &self,
        what: &'static str,
        remove: impl Fn(&Tx<'_>) -> rusqlite::Result<usize> + Clone + Send + 'static,
    ) -> Result<u64, LedgerError> {
        let mut removed = 0;
        loop {
            let remove = remove.clone();
            let batch = self.write(what, move |tx| remove(tx)).await? as u64;
            removed += batch;
            if batch < PRUNE_BATCH {
                return Ok(removed);
            }
        }
    }
}
