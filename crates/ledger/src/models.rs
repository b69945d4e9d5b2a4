//! Training runs, the models registered of them, and the aliases that say which model serves.
//!
//! A model is immutable: registering its number again with the same bundle changes nothing, with another bundle it is
//! refused. `live` and `previous` move together, in one transaction.

use chrono::{DateTime, Utc};
use rusqlite::{Row, params};
use serde::{Deserialize, Serialize};

use super::records::{Reads, Records, Tx, Writes};
use super::rows::{self, At, Page, text_enum};
use super::{DatasetVersion, refuse};
use delayd_core::document::Document;
use delayd_core::error::ErrorKind;
use delayd_core::ids::{CycleId, Digest, ModelVersion, RunId};

/// One registered model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Model {
    /// Its number.
    pub version: ModelVersion,
    /// The digest of its bundle.
    pub bundle: Digest,
    /// Where the bundle is: its key in the object store.
    pub bundle_key: String,
    /// What it learnt from.
    pub dataset: DatasetVersion,
    /// The run that made it.
    pub run: RunId,
    /// The cycle that made it.
    pub cycle: CycleId,
    /// Why the cycle that made it was begun, in one sentence.
    pub reason: Option<String>,
    /// The model that was live when it was made.
    pub parent: Option<ModelVersion>,
    /// What it measured before it was registered.
    pub metrics: Document,
    /// When.
    pub registered_at: DateTime<Utc>,
}

impl Model {
    pub(super) fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            version: row.get("version")?,
            bundle: row.get("bundle")?,
            bundle_key: row.get("bundle_key")?,
            dataset: row.get("dataset")?,
            run: row.get("run")?,
            cycle: row.get("cycle")?,
            reason: row.get("reason")?,
            parent: row.get("parent")?,
            metrics: row.get("metrics")?,
            registered_at: row.get::<_, At>("registered_at")?.0,
        })
    }
}

text_enum! {
    /// A name that points at a model and can move.
    Alias {
        /// The newest that passed the gate and is on its way.
        Candidate = "candidate",
        /// The one that serves.
        Live = "live",
        /// The one that served before, and would again.
        Previous = "previous",
    }
}

/// Where an alias points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AliasRecord {
    /// The alias.
    pub alias: Alias,
    /// The model.
    pub model: ModelVersion,
    /// Since when.
    pub moved_at: DateTime<Utc>,
}

/// One move of an alias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AliasMove {
    /// The alias.
    pub alias: Alias,
    /// Where it pointed.
    pub from: Option<ModelVersion>,
    /// Where it points since.
    pub to: Option<ModelVersion>,
    /// When.
    pub moved_at: DateTime<Utc>,
}

fn move_alias(tx: &Tx<'_>, name: Alias, to: Option<ModelVersion>, at: DateTime<Utc>) -> rusqlite::Result<()> {
    let from = tx.alias(name)?;
    if from == to {
        return Ok(());
    }
    match to {
        Some(version) => {
            if tx.model(version)?.is_none() {
                return Err(refuse(
                    ErrorKind::NotFound,
                    format!("{version} is not registered, so it cannot be {name}"),
                ));
            }
            tx.execute(
                "INSERT INTO aliases (alias, model, moved_at) VALUES (?1, ?2, ?3)
                 ON CONFLICT (alias) DO UPDATE SET model = ?2, moved_at = ?3",
                params![name, version, At(at)],
            )?
        }
        None => tx.execute("DELETE FROM aliases WHERE alias = ?1", [name])?,
    };
    tx.execute(
        "INSERT INTO alias_history (alias, from_model, to_model, moved_at) VALUES (?1, ?2, ?3, ?4)",
        params![name, from, to, At(at)],
    )?;
    Ok(())
}

impl<W: Writes> Records<W> {
    /// Registers a model; the same number with the same bundle again changes nothing.
    pub fn register_model(&self, model: Model) -> W::Answer<()> {
        self.write("registering a model", move |tx| {
            if let Some(existing) = tx.model(model.version)? {
                if existing.bundle == model.bundle {
                    return Ok(());
                }
                let message =
                    format!("{} is {}, not {}; a model is never changed", model.version, existing.bundle, model.bundle);
                return Err(refuse(ErrorKind::Conflict, message));
            }
            let newest: Option<ModelVersion> = tx.query_row("SELECT max(version) FROM models", [], |row| row.get(0))?;
            let next = ModelVersion(newest.map_or(0, |version| version.0) + 1);
            if model.version != next {
                return Err(refuse(
                    ErrorKind::Conflict,
                    format!("{} would leave a gap; the next is {next}", model.version),
                ));
            }
            tx.execute(
                "INSERT INTO models (version, bundle, bundle_key, dataset, run, cycle, reason, parent, metrics,
         registered_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                params![
                    model.version,
                    model.bundle,
                    model.bundle_key,
                    model.dataset,
                    model.run,
                    model.cycle,
                    model.reason,
                    model.parent,
                    model.metrics,
                    At(model.registered_at)
                ],
            )?;
            Ok(())
        })
    }

    /// Makes `version` the candidate, or, with `None`, takes the alias away.
    pub fn set_candidate(&self, version: Option<ModelVersion>, at: DateTime<Utc>) -> W::Answer<()> {
        self.write_durably("moving the alias candidate", move |tx| move_alias(tx, Alias::Candidate, version, at))
    }

    /// Makes `version` live and what was live the previous one. For the model that
    /// is live already nothing changes.
    pub fn promote(&self, version: ModelVersion, at: DateTime<Utc>) -> W::Answer<()> {
        self.write_durably("promoting a model", move |tx| {
            let live = tx.alias(Alias::Live)?;
            if live == Some(version) {
                return Ok(());
            }
            move_alias(tx, Alias::Previous, live, at)?;
            move_alias(tx, Alias::Live, Some(version), at)?;
            if tx.alias(Alias::Candidate)? == Some(version) {
                move_alias(tx, Alias::Candidate, None, at)?;
            }
            Ok(())
        })
    }

    /// Takes `version` back: if it is live, the previous model is live again and
    /// nothing is previous (the one taken back is no place to return to). If
    /// another one is live nothing changes, so that repeating it is safe. Answers
    /// which model is live now.
    pub fn rollback_alias(&self, version: ModelVersion, at: DateTime<Utc>) -> W::Answer<Option<ModelVersion>> {
        self.write_durably("rolling back the alias live", move |tx| {
            if tx.alias(Alias::Live)? == Some(version) {
                let previous = tx.alias(Alias::Previous)?;
                move_alias(tx, Alias::Live, previous, at)?;
                move_alias(tx, Alias::Previous, None, at)?;
            }
            tx.alias(Alias::Live)
        })
    }
}

impl<R: Reads> Records<R> {
    /// One model.
    pub fn model(&self, version: ModelVersion) -> R::Answer<Option<Model>> {
        self.read("reading a model", move |connection| {
            rows::one(connection, "SELECT * FROM models WHERE version = ?1", [version], Model::from_row)
        })
    }

    /// Models, newest first.
    pub fn models(&self, page: Page) -> R::Answer<Vec<Model>> {
        self.read("listing models", move |c| rows::page(c, "models", "version DESC", page, Model::from_row))
    }

    /// Where an alias points.
    pub fn alias(&self, name: Alias) -> R::Answer<Option<ModelVersion>> {
        let sql = "SELECT model FROM aliases WHERE alias = ?1";
        self.read("reading an alias", move |c| rows::one(c, sql, [name], |row| row.get(0)))
    }

    /// The model that an alias points at.
    pub fn model_by_alias(&self, name: Alias) -> R::Answer<Option<Model>> {
        self.read("reading an alias", move |snapshot| match snapshot.alias(name)? {
            Some(version) => snapshot.model(version),
            None => Ok(None),
        })
    }

    /// All aliases.
    pub fn aliases(&self) -> R::Answer<Vec<AliasRecord>> {
        self.read("reading the aliases", |connection| {
            rows::all(connection, "SELECT * FROM aliases ORDER BY alias", [], |row| {
                Ok(AliasRecord {
                    alias: row.get("alias")?,
                    model: row.get("model")?,
                    moved_at: row.get::<_, At>("moved_at")?.0,
                })
            })
        })
    }

    /// Every move of every alias, newest first.
    pub fn alias_history(&self, page: Page) -> R::Answer<Vec<AliasMove>> {
        self.read("reading the aliases' history", move |c| {
            rows::page(c, "alias_history", "id DESC", page, |row| {
                Ok(AliasMove {
                    alias: row.get("alias")?,
                    from: row.get("from_model")?,
                    to: row.get("to_model")?,
                    moved_at: row.get::<_, At>("moved_at")?.0,
                })
            })
        })
    }
}

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
            rows::one(connection, "SELECT * FROM runs WHERE id = ?1", [id], Run::from_row)
        })
    }

    /// Runs, newest first.
    pub fn runs(&self, page: Page) -> R::Answer<Vec<Run>> {
        self.read("listing training runs", move |c| rows::page(c, "runs", "id DESC", page, Run::from_row))
    }
}
