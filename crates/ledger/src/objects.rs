//! Flight logs that were looked at: what became of each, and whether it was put right since.

use chrono::{DateTime, Utc};
use rusqlite::{Row, params};
use serde::{Deserialize, Serialize};

use super::alerts::outbox::NewAlert;
use super::columns::{At, Count, Json, text_enum};
use super::query::{self, Page};
use super::records::{Reads, Records, Tx, Writes};
use delayd_core::ids::Digest;

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
        self.read("reading a source object", move |c| query::all(c, sql, [key], IngestedObject::from_row))
    }

    /// Source objects, newest first; only those of a status where one is given.
    pub fn objects(&self, status: Option<ObjectStatus>, page: Page) -> R::Answer<Vec<IngestedObject>> {
        self.read("listing source objects", move |c| {
            let sql = "SELECT * FROM objects WHERE ?1 IS NULL OR status = ?1
                       ORDER BY ingested_at DESC, object_key DESC LIMIT ?2 OFFSET ?3";
            query::all(c, sql, params![status, Count(page.limit), Count(page.offset)], IngestedObject::from_row)
        })
    }
}
