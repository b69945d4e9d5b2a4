//! Versions of the reference data, and how much of the weather a dataset had.

use chrono::{DateTime, Utc};
use rusqlite::{Row, params};
use serde::{Deserialize, Serialize};

use super::alerts::outbox::NewAlert;
use super::columns::{At, Count, text_enum};
use super::datasets::DatasetVersion;
use super::query::{self, Page};
use super::records::{Reads, Records, Writes};
use delayd_core::document::Document;
use delayd_core::ids::Digest;
pub use delayd_core::ports::ReferenceKind;

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
            query::one(connection, sql, [kind], ReferenceVersion::from_row)
        })
    }

    /// Versions of the reference data, newest first.
    pub fn reference_versions(&self, page: Page) -> R::Answer<Vec<ReferenceVersion>> {
        self.read("listing reference data", move |c| {
            query::page(c, "reference_versions", "id DESC", page, ReferenceVersion::from_row)
        })
    }

    /// The weather of datasets, newest first.
    pub fn dataset_weather(&self, page: Page) -> R::Answer<Vec<DatasetWeather>> {
        self.read("listing the weather of datasets", move |c| {
            query::page(c, "dataset_weather", "at DESC, dataset", page, DatasetWeather::from_row)
        })
    }
}
