//! Registered models, and the aliases that say which of them serves.
//!
//! A model is immutable: registering its number again with the same bundle
//! changes nothing, with another bundle it is refused. `live` and `previous` move
//! together, in one transaction.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, Row, Transaction, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::columns::{At, Json, text_enum};
use super::query::{self, Page};
use super::{DatasetVersion, Ledger, LedgerError, refuse};
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
    pub metrics: Value,
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
            metrics: row.get::<_, Json<_>>("metrics")?.0,
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

/// Registers a model. The same number with the same bundle again changes nothing.
///
/// # Errors
/// The number belongs to another bundle or would leave a gap, its dataset, run
/// or cycle is unknown, or SQLite failed.
pub fn register(tx: &Transaction<'_>, model: &Model) -> rusqlite::Result<()> {
    if let Some(existing) = get(tx, model.version)? {
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
        return Err(refuse(ErrorKind::Conflict, format!("{} would leave a gap; the next is {next}", model.version)));
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
            Json(&model.metrics),
            At(model.registered_at)
        ],
    )?;
    Ok(())
}

/// Makes `version` the candidate, or, with `None`, takes the alias away.
///
/// # Errors
/// The model is unknown, or SQLite failed.
pub fn set_candidate(tx: &Transaction<'_>, version: Option<ModelVersion>, at: DateTime<Utc>) -> rusqlite::Result<()> {
    move_alias(tx, Alias::Candidate, version, at)
}

/// Makes `version` live and what was live the previous one. For the model that
/// is live already nothing changes.
///
/// # Errors
/// The model is unknown, or SQLite failed.
pub fn promote(tx: &Transaction<'_>, version: ModelVersion, at: DateTime<Utc>) -> rusqlite::Result<()> {
    let live = alias(tx, Alias::Live)?;
    if live == Some(version) {
        return Ok(());
    }
    move_alias(tx, Alias::Previous, live, at)?;
    move_alias(tx, Alias::Live, Some(version), at)?;
    if alias(tx, Alias::Candidate)? == Some(version) {
        move_alias(tx, Alias::Candidate, None, at)?;
    }
    Ok(())
}

/// Takes `version` back: if it is live, the previous model is live again and
/// nothing is previous (the one taken back is no place to return to). If
/// another one is live nothing changes, so that repeating it is safe. Answers
/// which model is live now.
///
/// # Errors
/// SQLite failed.
pub fn rollback_alias(
    tx: &Transaction<'_>,
    version: ModelVersion,
    at: DateTime<Utc>,
) -> rusqlite::Result<Option<ModelVersion>> {
    if alias(tx, Alias::Live)? == Some(version) {
        let previous = alias(tx, Alias::Previous)?;
        move_alias(tx, Alias::Live, previous, at)?;
        move_alias(tx, Alias::Previous, None, at)?;
    }
    alias(tx, Alias::Live)
}

fn move_alias(tx: &Transaction<'_>, name: Alias, to: Option<ModelVersion>, at: DateTime<Utc>) -> rusqlite::Result<()> {
    let from = alias(tx, name)?;
    if from == to {
        return Ok(());
    }
    match to {
        Some(version) => {
            if get(tx, version)?.is_none() {
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

/// Where an alias points.
///
/// # Errors
/// SQLite failed.
pub fn alias(connection: &Connection, name: Alias) -> rusqlite::Result<Option<ModelVersion>> {
    query::one(connection, "SELECT model FROM aliases WHERE alias = ?1", [name], |row| row.get(0))
}

/// One model.
///
/// # Errors
/// SQLite failed.
pub fn get(connection: &Connection, version: ModelVersion) -> rusqlite::Result<Option<Model>> {
    query::one(connection, "SELECT * FROM models WHERE version = ?1", [version], Model::from_row)
}

fn aliases(connection: &Connection) -> rusqlite::Result<Vec<AliasRecord>> {
    query::all(connection, "SELECT * FROM aliases ORDER BY alias", [], |row| {
        Ok(AliasRecord {
            alias: row.get("alias")?,
            model: row.get("model")?,
            moved_at: row.get::<_, At>("moved_at")?.0,
        })
    })
}

impl Ledger {
    /// Registers a model; the same number with the same bundle again changes nothing.
    ///
    /// # Errors
    /// The number belongs to another bundle or would leave a gap, what it refers
    /// to is unknown, or SQLite failed.
    pub async fn register_model(&self, model: Model) -> Result<(), LedgerError> {
        self.transact("registering a model", move |tx| register(tx, &model)).await
    }

    /// One model.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn model(&self, version: ModelVersion) -> Result<Option<Model>, LedgerError> {
        self.read("reading a model", move |connection| get(connection, version)).await
    }

    /// Models, newest first.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn models(&self, page: Page) -> Result<Vec<Model>, LedgerError> {
        self.read("listing models", move |c| query::page(c, "models", "version DESC", page, Model::from_row)).await
    }

    /// The model that an alias points at.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn model_by_alias(&self, name: Alias) -> Result<Option<Model>, LedgerError> {
        self.read("reading an alias", move |connection| match alias(connection, name)? {
            Some(version) => get(connection, version),
            None => Ok(None),
        })
        .await
    }

    /// All aliases.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn aliases(&self) -> Result<Vec<AliasRecord>, LedgerError> {
        self.read("reading the aliases", aliases).await
    }

    /// Every move of every alias, newest first.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn alias_history(&self, page: Page) -> Result<Vec<AliasMove>, LedgerError> {
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
        .await
    }

    /// Makes a model the candidate, or takes that alias away.
    ///
    /// # Errors
    /// The model is unknown, or SQLite failed.
    pub async fn set_candidate(&self, version: Option<ModelVersion>, at: DateTime<Utc>) -> Result<(), LedgerError> {
        self.transact("moving the alias candidate", move |tx| set_candidate(tx, version, at)).await
    }

    /// Makes a model live, and what was live the previous one.
    ///
    /// # Errors
    /// The model is unknown, or SQLite failed.
    pub async fn promote(&self, version: ModelVersion, at: DateTime<Utc>) -> Result<(), LedgerError> {
        self.transact_durably("promoting a model", move |tx| promote(tx, version, at)).await
    }

    /// Takes a live model back; answers which is live now. Safe to repeat.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn rollback_alias(
        &self,
        version: ModelVersion,
        at: DateTime<Utc>,
    ) -> Result<Option<ModelVersion>, LedgerError> {
        self.transact_durably("rolling back the alias live", move |tx| rollback_alias(tx, version, at)).await
    }
}
