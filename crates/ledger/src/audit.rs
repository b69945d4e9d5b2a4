//! Who did what: every change that a person asked for.

use chrono::{DateTime, Utc};
use rusqlite::{Row, params};
use serde::{Deserialize, Serialize};

use super::columns::{At, Count};
use super::query::{self, Page};
use super::records::{Reads, Records, Tx, Writes};
use super::refuse;
use delayd_core::error::ErrorKind;

/// What is noted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditEntry {
    /// When.
    pub at: DateTime<Utc>,
    /// Who: the user behind the command line or the HTTP token.
    pub actor: String,
    /// What: `pause`, `approve`, `rollback`, …
    pub action: String,
    /// To what: `cycle_7`, `model_v3`.
    pub subject: String,
    /// Why, in the person's words.
    pub detail: String,
}

/// A noted entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditRecord {
    /// Its number.
    pub id: u64,
    /// What is noted.
    #[serde(flatten)]
    pub entry: AuditEntry,
    /// What came of it: `done` with a sentence perhaps, `refused: …` or `failed: …`; `asked` while that is open,
    /// empty where an older delayd did not note it.
    #[serde(default)]
    pub outcome: String,
}

impl AuditRecord {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get::<_, Count>("id")?.0,
            entry: AuditEntry {
                at: row.get::<_, At>("at")?.0,
                actor: row.get("actor")?,
                action: row.get("action")?,
                subject: row.get("subject")?,
                detail: row.get("detail")?,
            },
            outcome: row.get("outcome")?,
        })
    }
}

impl Tx<'_> {
    /// Notes who did what, in the same transaction as the deed.
    ///
    /// # Errors
    /// SQLite failed.
    pub fn record_audit(&self, entry: &AuditEntry) -> rusqlite::Result<()> {
        insert(self, entry, "done").map(drop)
    }
}

fn insert(tx: &Tx<'_>, entry: &AuditEntry, outcome: &str) -> rusqlite::Result<u64> {
    tx.query_row(
        "INSERT INTO audit (at, actor, action, subject, detail, outcome) VALUES (?1, ?2, ?3, ?4, ?5, ?6) RETURNING id",
        params![At(entry.at), entry.actor, entry.action, entry.subject, entry.detail, outcome],
        |row| row.get::<_, Count>(0).map(|count| count.0),
    )
}

impl<W: Writes> Records<W> {
    /// Notes what somebody asks for before it is done; answers the entry's number, for [`Records::end_audit`].
    pub fn begin_audit(&self, entry: AuditEntry) -> W::Answer<u64> {
        self.write_durably("noting what an administrator asks for", move |tx| insert(tx, &entry, "asked"))
    }

    /// Notes what came of an entry, and what it was about.
    pub fn end_audit(&self, id: u64, subject: impl Into<String>, outcome: impl Into<String>) -> W::Answer<()> {
        let (subject, outcome) = (subject.into(), outcome.into());
        self.write_durably("noting what came of a command", move |tx| {
            let changed = tx.execute(
                "UPDATE audit SET subject = ?2, outcome = ?3 WHERE id = ?1",
                params![Count(id), subject, outcome],
            )?;
            if changed == 1 { Ok(()) } else { Err(refuse(ErrorKind::NotFound, format!("the audit has no entry {id}"))) }
        })
    }
}

impl<R: Reads> Records<R> {
    /// Who did what, newest first.
    pub fn audit(&self, page: Page) -> R::Answer<Vec<AuditRecord>> {
        self.read("reading the audit", move |c| query::page(c, "audit", "id DESC", page, AuditRecord::from_row))
    }
}
