//! What was ingested, and the datasets made of it.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, Row, Transaction, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::columns::{At, Count, Json, text_enum};
use super::query::{self, Page};
use super::{Ledger, LedgerError};
use crate::ids::{CycleId, Digest};

/// A dataset's identity: the digest of the manifest of its sources.
pub type DatasetVersion = Digest;

text_enum! {
    /// What became of a source object.
    ObjectStatus {
        /// Its accepted rows are in the store.
        Ingested = "ingested",
        /// It broke the contract as a whole; none of its rows was taken.
        Rejected = "rejected",
        /// It could not be read.
        Failed = "failed",
    }
}

/// One source object, by what it held when it was ingested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngestedObject {
    /// Its key in the object store.
    pub key: String,
    /// The digest of its bytes; the same key with other bytes is another entry.
    pub digest: Digest,
    /// Its length.
    pub size_bytes: u64,
    /// Rows that were taken.
    pub rows_accepted: u64,
    /// Rows that were set aside.
    pub rows_quarantined: u64,
    /// What became of it.
    pub status: ObjectStatus,
    /// Why it was not ingested.
    pub error: Option<String>,
    /// When.
    pub ingested_at: DateTime<Utc>,
}

impl IngestedObject {
    pub(super) fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            key: row.get("object_key")?,
            digest: row.get("digest")?,
            size_bytes: row.get::<_, Count>("size_bytes")?.0,
            rows_accepted: row.get::<_, Count>("rows_accepted")?.0,
            rows_quarantined: row.get::<_, Count>("rows_quarantined")?.0,
            status: row.get("status")?,
            error: row.get("error")?,
            ingested_at: row.get::<_, At>("ingested_at")?.0,
        })
    }
}

/// A source object as a dataset names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ObjectRef {
    /// Its key.
    pub key: String,
    /// The digest of its bytes.
    pub digest: Digest,
}

/// One dataset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Dataset {
    /// Its identity.
    pub version: DatasetVersion,
    /// The cycle that made it first.
    pub cycle: CycleId,
    /// The sources it was made of, each recorded with [`Ledger::record_object`] before.
    pub sources: Vec<ObjectRef>,
    /// The manifest whose digest it is: enough to make the dataset again.
    pub manifest: Value,
    /// How many rows.
    pub rows: u64,
    /// The first scheduled departure in it.
    pub from: DateTime<Utc>,
    /// The end of its window, exclusive.
    pub until: DateTime<Utc>,
    /// What validation found.
    pub validation: Value,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

impl Dataset {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            version: row.get("version")?,
            cycle: row.get("cycle")?,
            sources: Vec::new(),
            manifest: row.get::<_, Json<_>>("manifest")?.0,
            rows: row.get::<_, Count>("row_count")?.0,
            from: row.get::<_, At>("from_time")?.0,
            until: row.get::<_, At>("until_time")?.0,
            validation: row.get::<_, Json<_>>("validation")?.0,
            created_at: row.get::<_, At>("created_at")?.0,
        })
    }
}

/// Notes a source object; the same key and digest again replaces what was noted.
///
/// # Errors
/// SQLite failed.
pub fn record_object(tx: &Transaction<'_>, object: &IngestedObject) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO objects (object_key, digest, size_bytes, rows_accepted, rows_quarantined, status, error, ingested_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (object_key, digest) DO UPDATE SET size_bytes = ?3, rows_accepted = ?4, rows_quarantined = ?5,
         status = ?6, error = ?7, ingested_at = ?8",
    )?
    .execute(params![
        object.key,
        object.digest,
        Count(object.size_bytes),
        Count(object.rows_accepted),
        Count(object.rows_quarantined),
        object.status,
        object.error,
        At(object.ingested_at)
    ])?;
    Ok(())
}

/// Notes a dataset. Its version is its content, so one that is there already is the same one.
///
/// # Errors
/// A source was never recorded, or SQLite failed.
pub fn insert(tx: &Transaction<'_>, dataset: &Dataset) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT INTO datasets (version, cycle, manifest, row_count, from_time, until_time, validation, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (version) DO NOTHING",
        params![
            dataset.version,
            dataset.cycle,
            Json(&dataset.manifest),
            Count(dataset.rows),
            At(dataset.from),
            At(dataset.until),
            Json(&dataset.validation),
            At(dataset.created_at)
        ],
    )?;
    let mut link = tx.prepare_cached(
        "INSERT INTO dataset_objects (dataset, object_key, digest) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
    )?;
    for source in &dataset.sources {
        link.execute(params![dataset.version, source.key, source.digest])?;
    }
    Ok(())
}

pub(super) fn get(connection: &Connection, version: &DatasetVersion) -> rusqlite::Result<Option<Dataset>> {
    let dataset = query::one(connection, "SELECT * FROM datasets WHERE version = ?1", [version], Dataset::from_row)?;
    dataset.map(|dataset| with_sources(connection, dataset)).transpose()
}

fn with_sources(connection: &Connection, mut dataset: Dataset) -> rusqlite::Result<Dataset> {
    let sql = "SELECT object_key, digest FROM dataset_objects WHERE dataset = ?1 ORDER BY object_key, digest";
    dataset.sources =
        query::all(connection, sql, [&dataset.version], |row| Ok(ObjectRef { key: row.get(0)?, digest: row.get(1)? }))?;
    Ok(dataset)
}

impl Ledger {
    /// Notes a source object; the same key and digest again replaces what was noted.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn record_object(&self, object: IngestedObject) -> Result<(), LedgerError> {
        self.transact("noting a source object", move |tx| record_object(tx, &object)).await
    }

    /// Notes many source objects in one transaction.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn record_objects(&self, objects: Vec<IngestedObject>) -> Result<(), LedgerError> {
        self.transact("noting source objects", move |tx| objects.iter().try_for_each(|o| record_object(tx, o))).await
    }

    /// What is known of a key, newest first: one entry per content it has had.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn objects_by_key(&self, key: impl Into<String>) -> Result<Vec<IngestedObject>, LedgerError> {
        let key = key.into();
        let sql = "SELECT * FROM objects WHERE object_key = ?1 ORDER BY ingested_at DESC";
        self.read("reading a source object", move |c| query::all(c, sql, [key], IngestedObject::from_row)).await
    }

    /// Source objects, newest first.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn objects(&self, page: Page) -> Result<Vec<IngestedObject>, LedgerError> {
        self.read("listing source objects", move |c| {
            query::page(c, "objects", "ingested_at DESC, object_key DESC", page, IngestedObject::from_row)
        })
        .await
    }

    /// Notes a dataset; the same version again changes nothing.
    ///
    /// # Errors
    /// A source was never recorded, or SQLite failed.
    pub async fn insert_dataset(&self, dataset: Dataset) -> Result<(), LedgerError> {
        self.transact("noting a dataset", move |tx| insert(tx, &dataset)).await
    }

    /// One dataset.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn dataset(&self, version: DatasetVersion) -> Result<Option<Dataset>, LedgerError> {
        self.read("reading a dataset", move |connection| get(connection, &version)).await
    }

    /// Datasets, newest first.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn datasets(&self, page: Page) -> Result<Vec<Dataset>, LedgerError> {
        self.read("listing datasets", move |c| {
            let datasets = query::page(c, "datasets", "created_at DESC, version", page, Dataset::from_row)?;
            datasets.into_iter().map(|dataset| with_sources(c, dataset)).collect()
        })
        .await
    }
}
