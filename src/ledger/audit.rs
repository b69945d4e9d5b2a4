//! Who did what: every change that a person asked for.

use chrono::{DateTime, Utc};
use rusqlite::{Row, Transaction, params};
use serde::{Deserialize, Serialize};

use super::columns::{At, Count};
use super::query::{self, Page};
use super::{Ledger, LedgerError};

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
        })
    }
}

/// Notes who did what; best in the same transaction as the deed.
///
/// # Errors
/// SQLite failed.
pub fn record(tx: &Transaction<'_>, entry: &AuditEntry) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT INTO audit (at, actor, action, subject, detail) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![At(entry.at), entry.actor, entry.action, entry.subject, entry.detail],
    )?;
    Ok(())
}

impl Ledger {
    /// Notes who did what.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn record_audit(&self, entry: AuditEntry) -> Result<(), LedgerError> {
        self.transact("noting an administrator's deed", move |tx| record(tx, &entry)).await
    }

    /// Who did what, newest first.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn audit(&self, page: Page) -> Result<Vec<AuditRecord>, LedgerError> {
        self.read("reading the audit", move |c| query::page(c, "audit", "id DESC", page, AuditRecord::from_row)).await
    }
}
