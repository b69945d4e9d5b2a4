//! The journal of a cycle's steps: written before a step and after it, so that a
//! start after a crash knows what was done, what was being done, and what must
//! be undone.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};

use super::records::{Reads, Records, Tx, Writes};
use super::refuse;
use super::rows::{self, At, Count, text_enum};
use delayd_core::document::Document;
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
    pub output: Option<Document>,
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
            output: row.get("output")?,
            error: row.get("error")?,
        })
    }
}

fn end(
    tx: &Tx<'_>,
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

fn step(connection: &Connection, cycle: CycleId, position: u32) -> rusqlite::Result<Option<Step>> {
    let sql = "SELECT * FROM steps WHERE cycle = ?1 AND position = ?2";
    rows::one(connection, sql, params![cycle, position], Step::from_row)
}

impl<W: Writes> Records<W> {
    /// Notes that a step begins; every further beginning is one more attempt. The
    /// error of the attempt before stays readable until this one ends.
    pub fn step_started(
        &self,
        cycle: CycleId,
        position: u32,
        name: impl Into<String>,
        at: DateTime<Utc>,
    ) -> W::Answer<u32> {
        let name = name.into();
        self.write("noting that a step begins", move |tx| {
    if let Some(step) = step(tx, cycle, position)? {
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
})
    }

    /// Notes what a step does now, in one line.
    pub fn step_progress(&self, cycle: CycleId, text: impl Into<String>) -> W::Answer<()> {
        let text = text.into();
        self.write("noting a step's progress", move |tx| {
            let sql = "UPDATE steps SET progress = ?3 WHERE cycle = ?1 AND state = ?2";
            tx.execute(sql, params![cycle, StepState::Running, text]).map(drop)
        })
    }

    /// Notes that a step is done, with its output for the steps after it.
    pub fn step_done(
        &self,
        cycle: CycleId,
        position: u32,
        output: Document,
        at: DateTime<Utc>,
        wall_ms: u64,
    ) -> W::Answer<()> {
        self.write("noting that a step is done", move |tx| {
            let changed = tx.execute(
                "UPDATE steps SET state = 'done', output = ?3, finished_at = ?4, wall_ms = ?5, error = NULL
         WHERE cycle = ?1 AND position = ?2",
                params![cycle, position, output, At(at), Count(wall_ms)],
            )?;
            found(changed, cycle, position)
        })
    }

    /// Notes that a step failed for good.
    pub fn step_failed(
        &self,
        cycle: CycleId,
        position: u32,
        error: impl Into<String>,
        at: DateTime<Utc>,
        wall_ms: u64,
    ) -> W::Answer<()> {
        let error = error.into();
        self.write("noting that a step failed", move |tx| {
            let changed = tx.execute(
                "UPDATE steps SET state = 'failed', error = ?3, finished_at = ?4, wall_ms = ?5
         WHERE cycle = ?1 AND position = ?2",
                params![cycle, position, error, At(at), Count(wall_ms)],
            )?;
            found(changed, cycle, position)
        })
    }

    /// Notes that a step was taken back. Its error, if it failed, stays.
    pub fn step_undone(&self, cycle: CycleId, position: u32, at: DateTime<Utc>) -> W::Answer<()> {
        self.write("noting that a step is undone", move |tx| end(tx, cycle, position, StepState::Undone, None, at))
    }

    /// Notes that taking a step back failed and will be tried again.
    pub fn step_undo_failed(
        &self,
        cycle: CycleId,
        position: u32,
        error: impl Into<String>,
        at: DateTime<Utc>,
    ) -> W::Answer<()> {
        let error = error.into();
        self.write("noting that an undo failed", move |tx| {
            end(tx, cycle, position, StepState::UndoFailed, Some(&error), at)
        })
    }

    /// Notes that a step can neither be finished nor taken back.
    pub fn step_stuck(
        &self,
        cycle: CycleId,
        position: u32,
        error: impl Into<String>,
        at: DateTime<Utc>,
    ) -> W::Answer<()> {
        let error = error.into();
        self.write("noting that a step is stuck", move |tx| {
            end(tx, cycle, position, StepState::Stuck, Some(&error), at)
        })
    }
}

impl<R: Reads> Records<R> {
    /// A cycle's steps, in their order.
    pub fn steps_of(&self, cycle: CycleId) -> R::Answer<Vec<Step>> {
        let sql = "SELECT * FROM steps WHERE cycle = ?1 ORDER BY position";
        self.read("reading a cycle's steps", move |c| rows::all(c, sql, [cycle], Step::from_row))
    }
}
