//! What comes in: flight logs and what became of each, the datasets made of them, versions of the reference data, and how
//! much of the weather a dataset had.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};

use super::alerts::NewAlert;
use super::records::{Reads, Records, Tx, Writes};
use super::rows::{self, At, Count, Json, Page, text_enum};
use delayd_core::document::Document;
use delayd_core::ids::{CycleId, Digest};
pub use delayd_core::ports::ReferenceKind;

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

/// One source object, by what it held when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct IngestedObject {
    /// Its key in the object store.
    pub key: String,
    /// The digest of its bytes; the same key with other bytes is another entry. Of an
    /// object that could not be read, the digest of what the listing tells of it.
    pub digest: Digest,
    /// Its length.
    pub size_bytes: u64,
    /// Rows that were taken.
    pub rows_accepted: u64,
    /// Rows that were set aside.
    pub rows_quarantined: u64,
    /// Rows that said again what another row said.
    pub rows_duplicate: u64,
    /// Columns that nothing reads, where the contract wants them flagged.
    pub unused_columns: Vec<String>,
    /// The object with the rows that were set aside, and why.
    pub quarantine_key: Option<String>,
    /// What became of it.
    pub status: ObjectStatus,
    /// Why it was not ingested.
    pub error: Option<String>,
    /// When it was looked at last.
    pub ingested_at: DateTime<Utc>,
    /// When its key was read after all: nothing is left to do.
    pub resolved_at: Option<DateTime<Utc>>,
}

impl IngestedObject {
    pub(super) fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            key: row.get("object_key")?,
            digest: row.get("digest")?,
            size_bytes: row.get::<_, Count>("size_bytes")?.0,
            rows_accepted: row.get::<_, Count>("rows_accepted")?.0,
            rows_quarantined: row.get::<_, Count>("rows_quarantined")?.0,
            rows_duplicate: row.get::<_, Count>("rows_duplicate")?.0,
            unused_columns: row.get::<_, Json<_>>("unused_columns")?.0,
            quarantine_key: row.get("quarantine_key")?,
            status: row.get("status")?,
            error: row.get("error")?,
            ingested_at: row.get::<_, At>("ingested_at")?.0,
            resolved_at: row.get::<_, Option<At>>("resolved_at")?.map(|at| at.0),
        })
    }
}

/// Notes a source object; the same key and digest again replaces what was noted. One
/// that was taken in resolves what was refused under its key, and one that could be
/// read what could not.
fn record_object(tx: &Tx<'_>, object: &IngestedObject) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO objects (object_key, digest, size_bytes, rows_accepted, rows_quarantined, rows_duplicate,
                              unused_columns, quarantine_key, status, error, ingested_at, resolved_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
         ON CONFLICT (object_key, digest) DO UPDATE SET size_bytes = ?3, rows_accepted = ?4, rows_quarantined = ?5,
         rows_duplicate = ?6, unused_columns = ?7, quarantine_key = ?8, status = ?9, error = ?10, ingested_at = ?11,
         resolved_at = ?12",
    )?
    .execute(params![
        object.key,
        object.digest,
        Count(object.size_bytes),
        Count(object.rows_accepted),
        Count(object.rows_quarantined),
        Count(object.rows_duplicate),
        Json(&object.unused_columns),
        object.quarantine_key,
        object.status,
        object.error,
        At(object.ingested_at),
        object.resolved_at.map(At)
    ])?;
    match object.status {
        ObjectStatus::Ingested => resolve(tx, &object.key, object.ingested_at, "status IN ('failed', 'rejected')"),
        ObjectStatus::Rejected => resolve(tx, &object.key, object.ingested_at, "status = 'failed'"),
        ObjectStatus::Failed => Ok(()),
    }
}

fn resolve(tx: &Tx<'_>, key: &str, at: DateTime<Utc>, which: &str) -> rusqlite::Result<()> {
    let sql = format!("UPDATE objects SET resolved_at = ?2 WHERE object_key = ?1 AND resolved_at IS NULL AND {which}");
    tx.prepare_cached(&sql)?.execute(params![key, At(at)])?;
    Ok(())
}

/// What one look at the flight logs brought.
#[derive(Debug, Clone, Default)]
pub struct ObjectsLooked {
    /// Objects with news.
    pub objects: Vec<IngestedObject>,
    /// Keys whose bytes are those that were read before.
    pub unchanged: Vec<String>,
    /// Who has to be told of what was refused.
    pub alerts: Vec<NewAlert>,
    /// When.
    pub at: DateTime<Utc>,
}

impl<W: Writes> Records<W> {
    /// Notes many source objects, and the alerts that tell of them, in one transaction.
    pub fn record_objects(&self, looked: ObjectsLooked) -> W::Answer<()> {
        self.write("noting source objects", move |tx| {
            looked.objects.iter().try_for_each(|object| record_object(tx, object))?;
            looked.unchanged.iter().try_for_each(|key| resolve(tx, key, looked.at, "status = 'failed'"))?;
            looked.alerts.into_iter().try_for_each(|alert| tx.enqueue_alert(alert).map(drop))
        })
    }
}

impl<R: Reads> Records<R> {
    /// What is known of a key, newest first: one entry per content it has had.
    pub fn objects_by_key(&self, key: impl Into<String>) -> R::Answer<Vec<IngestedObject>> {
        let key = key.into();
        let sql = "SELECT * FROM objects WHERE object_key = ?1 ORDER BY ingested_at DESC";
        self.read("reading a source object", move |c| rows::all(c, sql, [key], IngestedObject::from_row))
    }

    /// Source objects, newest first; only those of a status where one is given.
    pub fn objects(&self, status: Option<ObjectStatus>, page: Page) -> R::Answer<Vec<IngestedObject>> {
        self.read("listing source objects", move |c| {
            let sql = "SELECT * FROM objects WHERE ?1 IS NULL OR status = ?1
                       ORDER BY ingested_at DESC, object_key DESC LIMIT ?2 OFFSET ?3";
            rows::all(c, sql, params![status, Count(page.limit), Count(page.offset)], IngestedObject::from_row)
        })
    }
}

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
        rows::all(connection, sql, [&dataset.version], |row| Ok(ObjectRef { key: row.get(0)?, digest: row.get(1)? }))?;
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
                rows::one(connection, "SELECT * FROM datasets WHERE version = ?1", [&version], Dataset::from_row)?;
            dataset.map(|dataset| with_sources(connection, dataset)).transpose()
        })
    }

    /// Datasets, newest first.
    pub fn datasets(&self, page: Page) -> R::Answer<Vec<Dataset>> {
        self.read("listing datasets", move |c| {
            let datasets = rows::page(c, "datasets", "created_at DESC, version", page, Dataset::from_row)?;
            datasets.into_iter().map(|dataset| with_sources(c, dataset)).collect()
        })
    }

    /// Why a cycle's dataset was refused; `None` where it was not.
    pub fn refused_dataset(&self, cycle: CycleId) -> R::Answer<Option<RefusedDataset>> {
        let sql = "SELECT * FROM refused_datasets WHERE cycle = ?1";
        self.read("reading a refused dataset", move |c| rows::one(c, sql, [cycle], RefusedDataset::from_row))
    }

    /// Datasets that were refused, newest first.
    pub fn refused_datasets(&self, page: Page) -> R::Answer<Vec<RefusedDataset>> {
        self.read("listing refused datasets", move |c| {
            rows::page(c, "refused_datasets", "refused_at DESC, cycle DESC", page, RefusedDataset::from_row)
        })
    }
}

text_enum! {
    /// Where a version came from.
    ReferenceOrigin {
        /// Somebody put it into the object store.
        Store = "store",
        /// It was fetched from its URL.
        Url = "url",
    }
}

/// A version before it has a number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NewReferenceVersion {
    /// What it tells.
    pub kind: ReferenceKind,
    /// The digest of its bytes.
    pub digest: Digest,
    /// Where its copy lies in the object store.
    pub object_key: String,
    /// Where it came from.
    pub origin: ReferenceOrigin,
    /// Airports or days in it.
    pub entries: u64,
    /// How it differs from the version before.
    pub changes: Document,
    /// When it was noticed.
    pub noticed_at: DateTime<Utc>,
}

/// A noticed version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ReferenceVersion {
    /// Its number.
    pub id: u64,
    /// What is noted.
    #[serde(flatten)]
    pub version: NewReferenceVersion,
}

impl ReferenceVersion {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get::<_, Count>("id")?.0,
            version: NewReferenceVersion {
                kind: row.get("kind")?,
                digest: row.get("digest")?,
                object_key: row.get("object_key")?,
                origin: row.get("origin")?,
                entries: row.get::<_, Count>("entries")?.0,
                changes: row.get("changes")?,
                noticed_at: row.get::<_, At>("noticed_at")?.0,
            },
        })
    }
}

/// How much of the weather was known to a dataset's examples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DatasetWeather {
    /// The dataset.
    pub dataset: DatasetVersion,
    /// When its examples were assembled last.
    pub at: DateTime<Utc>,
    /// Share of the airport-hours that were known, in the worse of the whole and the fresh window.
    pub share: f64,
    /// The numbers and the failures.
    pub coverage: Document,
}

impl DatasetWeather {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            dataset: row.get("dataset")?,
            at: row.get::<_, At>("at")?.0,
            share: row.get("share")?,
            coverage: row.get("coverage")?,
        })
    }
}

impl<W: Writes> Records<W> {
    /// Notes a version of the reference data and the alert that tells of it, both
    /// or neither. The newest version again changes nothing and answers `false`.
    pub fn record_reference(&self, version: NewReferenceVersion, alert: Option<NewAlert>) -> W::Answer<bool> {
        self.write("noting reference data", move |tx| {
            if tx.newest_reference(version.kind)?.is_some_and(|known| known.version.digest == version.digest) {
                return Ok(false);
            }
            tx.execute(
                "INSERT INTO reference_versions (kind, digest, object_key, origin, entries, changes, noticed_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    version.kind,
                    version.digest,
                    version.object_key,
                    version.origin,
                    Count(version.entries),
                    version.changes,
                    At(version.noticed_at)
                ],
            )?;
            if let Some(alert) = alert {
                tx.enqueue_alert(alert)?;
            }
            Ok(true)
        })
    }

    /// Notes how much of the weather a dataset's examples had; the last time counts.
    pub fn record_dataset_weather(&self, weather: DatasetWeather) -> W::Answer<()> {
        self.write("noting a dataset's weather", move |tx| {
            tx.execute(
                "INSERT INTO dataset_weather (dataset, at, share, coverage) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (dataset) DO UPDATE SET at = ?2, share = ?3, coverage = ?4",
                params![weather.dataset, At(weather.at), weather.share, weather.coverage],
            )?;
            Ok(())
        })
    }
}

impl<R: Reads> Records<R> {
    /// The newest version of a kind.
    pub fn newest_reference(&self, kind: ReferenceKind) -> R::Answer<Option<ReferenceVersion>> {
        self.read("reading reference data", move |connection| {
            let sql = "SELECT * FROM reference_versions WHERE kind = ?1 ORDER BY id DESC LIMIT 1";
            rows::one(connection, sql, [kind], ReferenceVersion::from_row)
        })
    }

    /// Versions of the reference data, newest first.
    pub fn reference_versions(&self, page: Page) -> R::Answer<Vec<ReferenceVersion>> {
        self.read("listing reference data", move |c| {
            rows::page(c, "reference_versions", "id DESC", page, ReferenceVersion::from_row)
        })
    }

    /// The weather of datasets, newest first.
    pub fn dataset_weather(&self, page: Page) -> R::Answer<Vec<DatasetWeather>> {
        self.read("listing the weather of datasets", move |c| {
            rows::page(c, "dataset_weather", "at DESC, dataset", page, DatasetWeather::from_row)
        })
    }
}

// Canonical parts: to the ledger each is a text.

impl<W: Writes> Records<W> {
    /// Notes what was made of sources; what was noted of them before is replaced.
    pub fn save_parts(&self, parts: Vec<(Digest, String)>) -> W::Answer<()> {
        self.write("noting canonical parts", move |tx| {
            let sql = "INSERT INTO parts (source, body) VALUES (?1, ?2) ON CONFLICT (source) DO UPDATE SET body = ?2";
            let mut statement = tx.prepare_cached(sql)?;
            parts.iter().try_for_each(|(source, part)| statement.execute(params![source, part]).map(drop))
        })
    }
}

impl<R: Reads> Records<R> {
    /// What was made of each source.
    pub fn parts(&self) -> R::Answer<Vec<(Digest, String)>> {
        self.read("reading canonical parts", |c| {
            rows::all(c, "SELECT source, body FROM parts", [], |row| Ok((row.get("source")?, row.get("body")?)))
        })
    }
}
