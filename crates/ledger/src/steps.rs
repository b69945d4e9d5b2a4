//! The journal of a cycle's steps: written before a step and after it, so that a
//! start after a crash knows what was done, what was being done, and what must
//! be undone.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, Row, Transaction, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::columns::{At, Count, Json, text_enum};
use super::{Ledger, LedgerError, query, refuse};
use delayd_core::error::ErrorKind;
use delayd_core::ids::CycleId;

text_enum! {
    /// Where a step is.
    StepState {
        /// Begun, not ended: after a crash it is done again.
        Running = "running",
        /// Done; its output is stored.
        Done = "done",
        /// It failed for good.
        Failed = "failed",
        /// Done before, and taken back.
        Undone = "undone",
        /// Taking it back failed and will be tried again.
        UndoFailed = "undo_failed",
        /// It can neither be finished nor taken back; a person must look.
        Stuck = "stuck",
        /// It was not needed.
        Skipped = "skipped",
    }
}

/// One step of a cycle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Step {
    /// The cycle.
    pub cycle: CycleId,
    /// Its place in the cycle's list, from 0.
    pub position: u32,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub state: StepState,
    /// How often it was begun, from 1.
    pub attempt: u32,
    /// When it was begun last.
    pub started_at: DateTime<Utc>,
    /// When it ended, or was undone.
    pub finished_at: Option<DateTime<Utc>>,
    /// How long the last attempt took, in milliseconds of the real clock.
    pub wall_ms: Option<u64>,
    /// What it does now, in one line.
    pub progress: String,
    /// What it made, for the steps after it.
    pub output: Option<Value>,
    /// Why it failed last.
    pub error: Option<String>,
}

impl Step {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            cycle: row.get("cycle")?,
            position: row.get("position")?,
            name: row.get("name")?,
            state: row.get("state")?,
            attempt: row.get("attempt")?,
            started_at: row.get::<_, At>("started_at")?.0,
            finished_at: row.get::<_, Option<At>>("finished_at")?.map(|at| at.0),
            wall_ms: row.get::<_, Option<Count>>("wall_ms")?.map(|count| count.0),
            progress: row.get("progress")?,
            output: row.get::<_, Option<Json<_>>>("output")?.map(|json| json.0),
            error: row.get("error")?,
        })
    }
}

/// Notes that a step begins; every further beginning is one more attempt. The
/// error of the attempt before stays readable until this one ends.
///
/// # Errors
/// The step is done already, the position has another name, or SQLite failed.
pub fn started(
    tx: &Transaction<'_>,
    cycle: CycleId,
    position: u32,
    name: &str,
    at: DateTime<Utc>,
) -> rusqlite::Result<u32> {
    if let Some(step) = get(tx, cycle, position)? {
        if step.name != name {
            let message = format!("step {position} of {cycle} is `{}`, not `{name}`", step.name);
            return Err(refuse(ErrorKind::Conflict, message));
        }
        if step.state == StepState::Done {
            return Err(refuse(ErrorKind::Conflict, format!("step {position} `{name}` of {cycle} is done already")));
        }
    }
    tx.query_row(
        "INSERT INTO steps (cycle, position, name, state, attempt, started_at) VALUES (?1, ?2, ?3, 'running', 1, ?4)
         ON CONFLICT (cycle, position) DO UPDATE
         SET state = 'running', attempt = attempt + 1, started_at = ?4, finished_at = NULL, wall_ms = NULL, progress = ''
         RETURNING attempt",
        params![cycle, position, name, At(at)],
        |row| row.get(0),
    )
}

/// Notes what a step does now.
///
/// # Errors
/// There is no such step, or SQLite failed.
pub fn progress(tx: &Transaction<'_>, cycle: CycleId, position: u32, text: &str) -> rusqlite::Result<()> {
    let changed = tx
        .execute("UPDATE steps SET progress = ?3 WHERE cycle = ?1 AND position = ?2", params![cycle, position, text])?;
    found(changed, cycle, position)
}

/// Notes that a step is done, with its output.
///
/// # Errors
/// There is no such step, or SQLite failed.
pub fn done(
    tx: &Transaction<'_>,
    cycle: CycleId,
    position: u32,
    output: &Value,
    at: DateTime<Utc>,
    wall_ms: u64,
) -> rusqlite::Result<()> {
    let changed = tx.execute(
        "UPDATE steps SET state = 'done', output = ?3, finished_at = ?4, wall_ms = ?5, error = NULL
         WHERE cycle = ?1 AND position = ?2",
        params![cycle, position, Json(output), At(at), Count(wall_ms)],
    )?;
    found(changed, cycle, position)
}

/// Notes that a step was not needed, and why.
///
/// # Errors
/// SQLite failed.
pub fn skipped(
    tx: &Transaction<'_>,
    cycle: CycleId,
    position: u32,
    name: &str,
    why: &str,
    at: DateTime<Utc>,
) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT INTO steps (cycle, position, name, state, attempt, started_at, finished_at, progress)
         VALUES (?1, ?2, ?3, 'skipped', 0, ?4, ?4, ?5)
         ON CONFLICT (cycle, position) DO UPDATE SET state = 'skipped', finished_at = ?4, progress = ?5",
        params![cycle, position, name, At(at), why],
    )?;
    Ok(())
}

/// Notes that a step failed for good.
///
/// # Errors
/// There is no such step, or SQLite failed.
pub fn failed(
    tx: &Transaction<'_>,
    cycle: CycleId,
    position: u32,
    error: &str,
    at: DateTime<Utc>,
    wall_ms: u64,
) -> rusqlite::Result<()> {
    let changed = tx.execute(
        "UPDATE steps SET state = 'failed', error = ?3, finished_at = ?4, wall_ms = ?5
         WHERE cycle = ?1 AND position = ?2",
        params![cycle, position, error, At(at), Count(wall_ms)],
    )?;
    found(changed, cycle, position)
}

/// Notes that a step was taken back. Its error, if it failed, stays.
///
/// # Errors
/// There is no such step, or SQLite failed.
pub fn undone(tx: &Transaction<'_>, cycle: CycleId, position: u32, at: DateTime<Utc>) -> rusqlite::Result<()> {
    end(tx, cycle, position, StepState::Undone, None, at)
}

/// Notes that taking a step back failed and will be tried again.
///
/// # Errors
/// There is no such step, or SQLite failed.
pub fn undo_failed(
    tx: &Transaction<'_>,
    cycle: CycleId,
    position: u32,
    error: &str,
    at: DateTime<Utc>,
) -> rusqlite::Result<()> {
    end(tx, cycle, position, StepState::UndoFailed, Some(error), at)
}

/// Notes that a step can neither be finished nor taken back.
///
/// # Errors
/// There is no such step, or SQLite failed.
pub fn stuck(
    tx: &Transaction<'_>,
    cycle: CycleId,
    position: u32,
    error: &str,
    at: DateTime<Utc>,
) -> rusqlite::Result<()> {
    end(tx, cycle, position, StepState::Stuck, Some(error), at)
}

fn end(
    tx: &Transaction<'_>,
    cycle: CycleId,
    position: u32,
    state: StepState,
    error: Option<&str>,
    at: DateTime<Utc>,
) -> rusqlite::Result<()> {
    let changed = tx.execute(
        "UPDATE steps SET state = ?3, error = coalesce(?4, error), finished_at = ?5 WHERE cycle = ?1 AND position = ?2",
        params![cycle, position, state, error, At(at)],
    )?;
    found(changed, cycle, position)
}

fn found(changed: usize, cycle: CycleId, position: u32) -> rusqlite::Result<()> {
    if changed == 1 {
        return Ok(());
    }
    Err(refuse(ErrorKind::NotFound, format!("{cycle} has no step at position {position}; it was never begun")))
}

fn get(connection: &Connection, cycle: CycleId, position: u32) -> rusqlite::Result<Option<Step>> {
    let sql = "SELECT * FROM steps WHERE cycle = ?1 AND position = ?2";
    query::one(connection, sql, params![cycle, position], Step::from_row)
}

impl Ledger {
    /// Notes that a step begins; answers which attempt it is, from 1.
    ///
    /// # Errors
    /// The step is done already, the position has another name, or SQLite failed.
    pub async fn step_started(
        &self,
        cycle: CycleId,
        position: u32,
        name: impl Into<String>,
        at: DateTime<Utc>,
    ) -> Result<u32, LedgerError> {
        let name = name.into();
        self.transact("noting that a step begins", move |tx| started(tx, cycle, position, &name, at)).await
    }

    /// Notes what a step does now, in one line.
    ///
    /// # Errors
    /// There is no such step, or SQLite failed.
    pub async fn step_progress(
        &self,
        cycle: CycleId,
        position: u32,
        text: impl Into<String>,
    ) -> Result<(), LedgerError> {
        let text = text.into();
        self.transact("noting a step's progress", move |tx| progress(tx, cycle, position, &text)).await
    }

    /// Notes that a step is done, with its output for the steps after it.
    ///
    /// # Errors
    /// There is no such step, or SQLite failed.
    pub async fn step_done(
        &self,
        cycle: CycleId,
        position: u32,
        output: Value,
        at: DateTime<Utc>,
        wall_ms: u64,
    ) -> Result<(), LedgerError> {
        self.transact("noting that a step is done", move |tx| done(tx, cycle, position, &output, at, wall_ms)).await
    }

    /// Notes that a step was not needed, and why.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn step_skipped(
        &self,
        cycle: CycleId,
        position: u32,
        name: impl Into<String>,
        why: impl Into<String>,
        at: DateTime<Utc>,
    ) -> Result<(), LedgerError> {
        let (name, why) = (name.into(), why.into());
        self.transact("noting that a step is skipped", move |tx| skipped(tx, cycle, position, &name, &why, at)).await
    }

    /// Notes that a step failed for good.
    ///
    /// # Errors
    /// There is no such step, or SQLite failed.
    pub async fn step_failed(
        &self,
        cycle: CycleId,
        position: u32,
        error: impl Into<String>,
        at: DateTime<Utc>,
        wall_ms: u64,
    ) -> Result<(), LedgerError> {
        let error = error.into();
        self.transact("noting that a step failed", move |tx| failed(tx, cycle, position, &error, at, wall_ms)).await
    }

    /// Notes that a step was taken back.
    ///
    /// # Errors
    /// There is no such step, or SQLite failed.
    pub async fn step_undone(&self, cycle: CycleId, position: u32, at: DateTime<Utc>) -> Result<(), LedgerError> {
        self.transact("noting that a step is undone", move |tx| undone(tx, cycle, position, at)).await
    }

    /// Notes that taking a step back failed and will be tried again.
    ///
    /// # Errors
    /// There is no such step, or SQLite failed.
    pub async fn step_undo_failed(
        &self,
        cycle: CycleId,
        position: u32,
        error: impl Into<String>,
        at: DateTime<Utc>,
    ) -> Result<(), LedgerError> {
        let error = error.into();
        self.transact("noting that an undo failed", move |tx| undo_failed(tx, cycle, position, &error, at)).await
    }

    /// Notes that a step can neither be finished nor taken back.
    ///
    /// # Errors
    /// There is no such step, or SQLite failed.
    pub async fn step_stuck(
        &self,
        cycle: CycleId,
        position: u32,
        error: impl Into<String>,
        at: DateTime<Utc>,
    ) -> Result<(), LedgerError> {
        let error = error.into();
        self.transact("noting that a step is stuck", move |tx| stuck(tx, cycle, position, &error, at)).await
    }

    /// A cycle's steps, in their order.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn steps_of(&self, cycle: CycleId) -> Result<Vec<Step>, LedgerError> {
        let sql = "SELECT * FROM steps WHERE cycle = ?1 ORDER BY position";
        self.read("reading a cycle's steps", move |c| query::all(c, sql, [cycle], Step::from_row)).await
    }
}
