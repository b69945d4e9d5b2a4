//! Registered models, and the aliases that say which of them serves.
//!
//! A model is immutable: registering its number again with the same bundle
//! changes nothing, with another bundle it is refused. `live` and `previous` move
//! together, in one transaction.

use chrono::{DateTime, Utc};
use rusqlite::{Row, params};
use serde::{Deserialize, Serialize};

use super::columns::{At, text_enum};
use super::query::{self, Page};
use super::records::{Reads, Records, Tx, Writes};
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
            query::one(connection, "SELECT * FROM models WHERE version = ?1", [version], Model::from_row)
        })
    }

    /// Models, newest first.
    pub fn models(&self, page: Page) -> R::Answer<Vec<Model>> {
        self.read("listing models", move |c| query::page(c, "models", "version DESC", page, Model::from_row))
    }

    /// Where an alias points.
    pub fn alias(&self, name: Alias) -> R::Answer<Option<ModelVersion>> {
        let sql = "SELECT model FROM aliases WHERE alias = ?1";
        self.read("reading an alias", move |c| query::one(c, sql, [name], |row| row.get(0)))
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
            query::all(connection, "SELECT * FROM aliases ORDER BY alias", [], |row| {
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
            query::page(c, "alias_history", "id DESC", page, |row| {
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
