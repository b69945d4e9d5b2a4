//! Training runs: what was tried with what, and what came of it.

use chrono::{DateTime, Utc};
use rusqlite::{Row, params};
use serde::{Deserialize, Serialize};

use super::DatasetVersion;
use super::columns::{At, text_enum};
use super::query::{self, Page};
use super::records::{Reads, Records, Writes};
use delayd_core::document::Document;
use delayd_core::ids::{CycleId, RunId};

text_enum! {
    /// Where a run is.
    RunState {
        /// Training.
        Running = "running",
        /// Finished with a model.
        Succeeded = "succeeded",
        /// Finished without one.
        Failed = "failed",
        /// Stopped by somebody.
        Cancelled = "cancelled",
    }
}

/// One training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Run {
    /// Its identity, minted with the cycle.
    pub id: RunId,
    /// The cycle.
    pub cycle: CycleId,
    /// What it learns from.
    pub dataset: DatasetVersion,
    /// Every parameter; while the run goes on, those it began with.
    pub parameters: Document,
    /// The seed of everything random in it.
    pub seed: u64,
    /// `cpu` or `cuda:0`.
    pub device: String,
    /// Where it is.
    pub state: RunState,
    /// What each epoch measured.
    pub epochs: Document,
    /// Every trial of the tuning, the best marked.
    pub trials: Document,
    /// What the result measures.
    pub metrics: Document,
    /// The whole training record: the commit, library versions, rows, calibration, threshold; null until it succeeded.
    #[serde(default)]
    pub record: Document,
    /// When it was begun.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

impl Run {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            cycle: row.get("cycle")?,
            dataset: row.get("dataset")?,
            parameters: row.get("parameters")?,
            // A seed uses all 64 bits; SQLite's integers are the same bits with a sign.
            seed: row.get::<_, i64>("seed")?.cast_unsigned(),
            device: row.get("device")?,
            state: row.get("state")?,
            epochs: row.get("epochs")?,
            trials: row.get("trials")?,
            metrics: row.get("metrics")?,
            record: row.get("record")?,
            started_at: row.get::<_, At>("started_at")?.0,
            finished_at: row.get::<_, Option<At>>("finished_at")?.map(|at| at.0),
        })
    }
}

impl<W: Writes> Records<W> {
    /// Notes a run as it is now: at its begin, as it goes on, at its end.
    pub fn save_run(&self, run: Run) -> W::Answer<()> {
        self.write("noting a training run", move |tx| {
            tx.execute(
        "INSERT INTO runs (id, cycle, dataset, parameters, seed, device, state, epochs, trials, metrics, started_at,
         finished_at, record) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
         ON CONFLICT (id) DO UPDATE SET dataset = ?3, parameters = ?4, seed = ?5, device = ?6, state = ?7,
         epochs = ?8, trials = ?9, metrics = ?10, started_at = ?11, finished_at = ?12, record = ?13",
        params![
            run.id,
            run.cycle,
            run.dataset,
            run.parameters,
            run.seed.cast_signed(),
            run.device,
            run.state,
            run.epochs,
            run.trials,
            run.metrics,
            At(run.started_at),
            run.finished_at.map(At),
            run.record
        ],
    )?;
            Ok(())
        })
    }
}

impl<R: Reads> Records<R> {
    /// One run.
    pub fn run(&self, id: RunId) -> R::Answer<Option<Run>> {
        self.read("reading a training run", move |connection| {
            query::one(connection, "SELECT * FROM runs WHERE id = ?1", [id], Run::from_row)
        })
    }

    /// Runs, newest first.
    pub fn runs(&self, page: Page) -> R::Answer<Vec<Run>> {
        self.read("listing training runs", move |c| query::page(c, "runs", "id DESC", page, Run::from_row))
    }
}
