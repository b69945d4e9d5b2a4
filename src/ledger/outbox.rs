//! Alerts until they are delivered. When to deliver and when to give up is
//! [`crate::notification`]'s to say; here they are only kept.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, Row, Transaction, params};
use serde::{Deserialize, Serialize};

use super::columns::{At, Count, text_enum};
use super::query::{self, Page};
use super::{Ledger, LedgerError, refuse};
use crate::error::ErrorKind;
use crate::ids::AlertId;
use crate::ports::{Alert, Severity};

text_enum! {
    /// Where an alert is.
    OutboxState {
        /// To be delivered.
        Pending = "pending",
        /// Delivered.
        Delivered = "delivered",
        /// Given up after too many attempts.
        Dead = "dead",
    }
}

/// An alert before it has an id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewAlert {
    /// When it happened.
    pub at: DateTime<Utc>,
    /// How urgent.
    pub severity: Severity,
    /// One event tells one thing once: a key that is there already is the same alert.
    pub dedup_key: String,
    /// One line.
    pub title: String,
    /// What happened, what it means, what to do.
    pub body: String,
}

/// An alert and how its delivery stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxAlert {
    /// The alert.
    pub alert: Alert,
    /// Where it is.
    pub state: OutboxState,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is due.
    pub next_attempt_at: DateTime<Utc>,
    /// When it was delivered.
    pub delivered_at: Option<DateTime<Utc>>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
}

impl OutboxAlert {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            alert: Alert {
                id: row.get("id")?,
                at: row.get::<_, At>("at")?.0,
                severity: row.get("severity")?,
                dedup_key: row.get("dedup_key")?,
                title: row.get("title")?,
                body: row.get("body")?,
            },
            state: row.get("state")?,
            attempts: row.get("attempts")?,
            next_attempt_at: row.get::<_, At>("next_attempt_at")?.0,
            delivered_at: row.get::<_, Option<At>>("delivered_at")?.map(|at| at.0),
            last_error: row.get("last_error")?,
        })
    }
}

/// Puts an alert into the outbox, due at once. A key that is there already, in
/// whatever state, is the same alert: its id is answered and nothing changes.
///
/// # Errors
/// SQLite failed.
pub fn enqueue(tx: &Transaction<'_>, alert: &NewAlert) -> rusqlite::Result<AlertId> {
    let known = query::one(tx, "SELECT id FROM outbox WHERE dedup_key = ?1", [&alert.dedup_key], |row| row.get(0))?;
    if let Some(id) = known {
        return Ok(id);
    }
    let id: AlertId = query::mint(tx)?;
    tx.execute(
        "INSERT INTO outbox (id, at, severity, dedup_key, title, body, state, attempts, next_attempt_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'pending', 0, ?2)",
        params![id, At(alert.at), alert.severity, alert.dedup_key, alert.title, alert.body],
    )?;
    Ok(id)
}

fn due(connection: &Connection, now: DateTime<Utc>, limit: u64) -> rusqlite::Result<Vec<OutboxAlert>> {
    let sql = "SELECT * FROM outbox WHERE state = 'pending' AND next_attempt_at <= ?1
               ORDER BY next_attempt_at, id LIMIT ?2";
    query::all(connection, sql, params![At(now), Count(limit)], OutboxAlert::from_row)
}

fn changed_one(changed: usize, id: AlertId) -> rusqlite::Result<()> {
    if changed == 1 { Ok(()) } else { Err(refuse(ErrorKind::NotFound, format!("there is no {id} in the outbox"))) }
}

impl Ledger {
    /// Puts an alert into the outbox; the same key again is the same alert.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn enqueue_alert(&self, alert: NewAlert) -> Result<AlertId, LedgerError> {
        self.transact("putting an alert into the outbox", move |tx| enqueue(tx, &alert)).await
    }

    /// Alerts that are due, the longest due first.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn due_alerts(&self, now: DateTime<Utc>, limit: u64) -> Result<Vec<OutboxAlert>, LedgerError> {
        self.read("reading the outbox", move |connection| due(connection, now, limit)).await
    }

    /// Notes that an alert was delivered.
    ///
    /// # Errors
    /// It is unknown, or SQLite failed.
    pub async fn mark_alert_delivered(&self, id: AlertId, at: DateTime<Utc>) -> Result<(), LedgerError> {
        let sql = "UPDATE outbox SET state = 'delivered', attempts = attempts + 1, delivered_at = ?2,
                   last_error = NULL WHERE id = ?1";
        self.transact("noting an alert's delivery", move |tx| changed_one(tx.execute(sql, params![id, At(at)])?, id))
            .await
    }

    /// Notes a failed attempt, and when to try again, or with `None` that it is given up.
    ///
    /// # Errors
    /// It is unknown, or SQLite failed.
    pub async fn mark_alert_failed(
        &self,
        id: AlertId,
        error: impl Into<String>,
        next_attempt_at: Option<DateTime<Utc>>,
    ) -> Result<(), LedgerError> {
        let error = error.into();
        let state = if next_attempt_at.is_some() { OutboxState::Pending } else { OutboxState::Dead };
        let sql = "UPDATE outbox SET state = ?2, attempts = attempts + 1, last_error = ?3,
                   next_attempt_at = coalesce(?4, next_attempt_at) WHERE id = ?1";
        self.transact("noting an alert's failed delivery", move |tx| {
            changed_one(tx.execute(sql, params![id, state, error, next_attempt_at.map(At)])?, id)
        })
        .await
    }

    /// Makes alerts that were given up due again, with all their attempts: for
    /// after the webhook was repaired. Answers how many.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn revive_dead_alerts(&self, now: DateTime<Utc>) -> Result<usize, LedgerError> {
        let sql = "UPDATE outbox SET state = 'pending', attempts = 0, next_attempt_at = ?1 WHERE state = 'dead'";
        self.transact("reviving dead alerts", move |tx| tx.execute(sql, [At(now)])).await
    }

    /// One alert.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn alert(&self, id: AlertId) -> Result<Option<OutboxAlert>, LedgerError> {
        let sql = "SELECT * FROM outbox WHERE id = ?1";
        self.read("reading an alert", move |c| query::one(c, sql, [id], OutboxAlert::from_row)).await
    }

    /// Alerts, newest first.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn alerts(&self, page: Page) -> Result<Vec<OutboxAlert>, LedgerError> {
        self.read("listing alerts", move |c| query::page(c, "outbox", "id DESC", page, OutboxAlert::from_row)).await
    }
}
