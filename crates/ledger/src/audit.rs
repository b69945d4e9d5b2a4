//! Who did what: every change that a person asked for.

use chrono::{DateTime, Utc};
use rusqlite::{Row, Transaction, params};
use serde::{Deserialize, Serialize};

use super::columns::{At, Count};
use super::query::{self, Page};
use super::{Ledger, LedgerError, refuse};
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

/// Notes who did what, in the same transaction as the deed.
///
/// # Errors
/// SQLite failed.
pub fn record(tx: &Transaction<'_>, entry: &AuditEntry) -> rusqlite::Result<()> {
    insert(tx, entry, "done").map(|_| ())
}

/// Notes what somebody asks for before it is done; answers the entry's number, for [`end`].
///
/// # Errors
/// SQLite failed.
fn begin(tx: &Transaction<'_>, entry: &AuditEntry) -> rusqlite::Result<u64> {
    insert(tx, entry, "asked")
}

/// Notes what came of an entry, and what it was about.
///
/// # Errors
/// There is no such entry, or SQLite failed.
fn end(tx: &Transaction<'_>, id: u64, subject: &str, outcome: &str) -> rusqlite::Result<()> {
    let changed =
        tx.execute("UPDATE audit SET subject = ?2, outcome = ?3 WHERE id = ?1", params![Count(id), subject, outcome])?;
    if changed == 1 { Ok(()) } else { Err(refuse(ErrorKind::NotFound, format!("the audit has no entry {id}"))) }
}

fn insert(tx: &Transaction<'_>, entry: &AuditEntry, outcome: &str) -> rusqlite::Result<u64> {
    tx.query_row(
        "INSERT INTO audit (at, actor, action, subject, detail, outcome) VALUES (?1, ?2, ?3, ?4, ?5, ?6) RETURNING id",
        params![At(entry.at), entry.actor, entry.action, entry.subject, entry.detail, outcome],
        |row| row.get::<_, Count>(0).map(|count| count.0),
    )
}

impl Ledger {
    /// Notes what somebody asks for before it is done; answers the entry's number.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn begin_audit(&self, entry: AuditEntry) -> Result<u64, LedgerError> {
        self.transact_durably("noting what an administrator asks for", move |tx| begin(tx, &entry)).await
    }

    /// Notes what came of an entry, and what it was about.
    ///
    /// # Errors
    /// There is no such entry, or SQLite failed.
    pub async fn end_audit(
        &self,
        id: u64,
        subject: impl Into<String>,
        outcome: impl Into<String>,
    ) -> Result<(), LedgerError> {
        let (subject, outcome) = (subject.into(), outcome.into());
        self.transact_durably("noting what came of a command", move |tx| end(tx, id, &subject, &outcome)).await
    }

    /// Who did what, newest first.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn audit(&self, page: Page) -> Result<Vec<AuditRecord>, LedgerError> {
        self.read("reading the audit", move |c| query::page(c, "audit", "id DESC", page, AuditRecord::from_row)).await
    }
}
