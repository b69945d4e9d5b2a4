//! The datasets made of what was ingested, and those that were refused.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};

use super::columns::{At, Count};
use super::query::{self, Page};
use super::records::{Reads, Records, Writes};
use delayd_core::document::Document;
use delayd_core::ids::{CycleId, Digest};

/// A dataset's identity: the digest of the manifest of its sources.
pub type DatasetVersion = Digest;

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
    /// The sources it was made of, each recorded with [`Ledger::record_objects`] before.
    pub sources: Vec<ObjectRef>,
    /// The manifest whose digest it is: enough to make the dataset again.
    pub manifest: Document,
    /// How many rows.
    pub rows: u64,
    /// The first scheduled departure in it.
    pub from: DateTime<Utc>,
    /// The end of its window, exclusive.
    pub until: DateTime<Utc>,
    /// What validation found.
    pub validation: Document,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

impl Dataset {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            version: row.get("version")?,
            cycle: row.get("cycle")?,
            sources: Vec::new(),
            manifest: row.get("manifest")?,
            rows: row.get::<_, Count>("row_count")?.0,
            from: row.get::<_, At>("from_time")?.0,
            until: row.get::<_, At>("until_time")?.0,
            validation: row.get("validation")?,
            created_at: row.get::<_, At>("created_at")?.0,
        })
    }
}

/// What was found in a dataset that broke the contract: no version was made of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RefusedDataset {
    /// The cycle that would have learnt from it.
    pub cycle: CycleId,
    /// How many rows it would have had.
    pub rows: u64,
    /// What validation found; `failures` says why it was refused.
    pub validation: Document,
    /// When.
    pub refused_at: DateTime<Utc>,
}

impl RefusedDataset {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            cycle: row.get("cycle")?,
            rows: row.get::<_, Count>("row_count")?.0,
            validation: row.get("validation")?,
            refused_at: row.get::<_, At>("refused_at")?.0,
        })
    }
}

fn with_sources(connection: &Connection, mut dataset: Dataset) -> rusqlite::Result<Dataset> {
    let sql = "SELECT object_key, digest FROM dataset_objects WHERE dataset = ?1 ORDER BY object_key, digest";
    dataset.sources =
        query::all(connection, sql, [&dataset.version], |row| Ok(ObjectRef { key: row.get(0)?, digest: row.get(1)? }))?;
    Ok(dataset)
}

impl<W: Writes> Records<W> {
    /// Notes a dataset. Its version is its content, so one that is there already is the same one.
    pub fn insert_dataset(&self, dataset: Dataset) -> W::Answer<()> {
        self.write("noting a dataset", move |tx| {
            tx.execute(
        "INSERT INTO datasets (version, cycle, manifest, row_count, from_time, until_time, validation, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (version) DO NOTHING",
        params![
            dataset.version,
            dataset.cycle,
            dataset.manifest,
            Count(dataset.rows),
            At(dataset.from),
            At(dataset.until),
            dataset.validation,
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
        })
    }

    /// Notes why a cycle's dataset was refused; the same cycle again replaces what was noted.
    pub fn record_refused_dataset(&self, refused: RefusedDataset) -> W::Answer<()> {
        self.write("noting a refused dataset", move |tx| {
            tx.execute(
                "INSERT INTO refused_datasets (cycle, row_count, validation, refused_at) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (cycle) DO UPDATE SET row_count = ?2, validation = ?3, refused_at = ?4",
                params![refused.cycle, Count(refused.rows), refused.validation, At(refused.refused_at)],
            )?;
            Ok(())
        })
    }
}

impl<R: Reads> Records<R> {
    /// One dataset.
    pub fn dataset(&self, version: DatasetVersion) -> R::Answer<Option<Dataset>> {
        self.read("reading a dataset", move |connection| {
            let dataset =
                query::one(connection, "SELECT * FROM datasets WHERE version = ?1", [&version], Dataset::from_row)?;
            dataset.map(|dataset| with_sources(connection, dataset)).transpose()
        })
    }

    /// Datasets, newest first.
    pub fn datasets(&self, page: Page) -> R::Answer<Vec<Dataset>> {
        self.read("listing datasets", move |c| {
            let datasets = query::page(c, "datasets", "created_at DESC, version", page, Dataset::from_row)?;
            datasets.into_iter().map(|dataset| with_sources(c, dataset)).collect()
        })
    }

    /// Why a cycle's dataset was refused; `None` where it was not.
    pub fn refused_dataset(&self, cycle: CycleId) -> R::Answer<Option<RefusedDataset>> {
        let sql = "SELECT * FROM refused_datasets WHERE cycle = ?1";
        self.read("reading a refused dataset", move |c| query::one(c, sql, [cycle], RefusedDataset::from_row))
    }

    /// Datasets that were refused, newest first.
    pub fn refused_datasets(&self, page: Page) -> R::Answer<Vec<RefusedDataset>> {
        self.read("listing refused datasets", move |c| {
            query::page(c, "refused_datasets", "refused_at DESC, cycle DESC", page, RefusedDataset::from_row)
        })
    }
}
