//! What administrators do not want to be told for a while. A silenced alert stays
//! on record, with the silence that kept it back.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};

use super::deliveries;
use super::outbox::settle;
use crate::columns::At;
use crate::query::{self, Page};
use crate::records::{Reads, Records, Tx, Writes};
use crate::{AuditEntry, refuse};
use delayd_core::error::ErrorKind;
use delayd_core::ids::{AlertId, SilenceId};

/// One silence: alerts whose key begins with `prefix` are not told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Silence {
    /// Its id.
    pub id: SilenceId,
    /// How the keys of the alerts in question begin: `drift/`, `outage/cycle_7`.
    pub prefix: String,
    /// From when.
    pub begins: DateTime<Utc>,
    /// Until when.
    pub until: DateTime<Utc>,
    /// Who wanted it.
    pub by: String,
    /// Why.
    pub why: String,
    /// When it was ended early.
    pub ended_at: Option<DateTime<Utc>>,
    /// Who ended it.
    pub ended_by: Option<String>,
}

impl Silence {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            prefix: row.get("prefix")?,
            begins: row.get::<_, At>("begins")?.0,
            until: row.get::<_, At>("until")?.0,
            by: row.get("actor")?,
            why: row.get("why")?,
            ended_at: row.get::<_, Option<At>>("ended_at")?.map(|at| at.0),
            ended_by: row.get("ended_by")?,
        })
    }

    /// Whether it keeps alerts back at a moment.
    #[must_use]
    pub fn is_active(&self, now: DateTime<Utc>) -> bool {
        self.ended_at.is_none() && self.begins <= now && now < self.until
    }
}

/// A silence that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSilence {
    /// How the keys of the alerts in question begin.
    pub prefix: String,
    /// From when.
    pub begins: DateTime<Utc>,
    /// Until when.
    pub until: DateTime<Utc>,
    /// Who wants it.
    pub by: String,
    /// Why.
    pub why: String,
}

fn active(connection: &Connection, now: DateTime<Utc>) -> rusqlite::Result<Vec<Silence>> {
    let sql = "SELECT * FROM silences WHERE ended_at IS NULL AND begins <= ?1 AND until > ?1 ORDER BY id";
    query::all(connection, sql, [At(now)], Silence::from_row)
}

/// The silence that keeps a key's alerts back, if there is one.
pub(super) fn active_for(connection: &Connection, key: &str, now: DateTime<Utc>) -> rusqlite::Result<Option<Silence>> {
    Ok(active(connection, now)?.into_iter().find(|silence| key.starts_with(&silence.prefix)))
}

impl Tx<'_> {
    /// Silences what waits for delivery and should not be told now. Answers which.
    ///
    /// # Errors
    /// SQLite failed.
    pub fn apply_silences(&self, now: DateTime<Utc>) -> rusqlite::Result<Vec<(AlertId, SilenceId)>> {
        let mut silenced = Vec::new();
        for silence in active(self, now)? {
            let sql = "UPDATE outbox SET silence = ?1, routed_at = coalesce(routed_at, ?3)
                   WHERE state = 'pending' AND substr(dedup_key, 1, length(?2)) = ?2 RETURNING id";
            let alerts: Vec<AlertId> =
                query::all(self, sql, params![silence.id, silence.prefix, At(now)], |row| row.get(0))?;
            for alert in alerts {
                deliveries::silence(self, alert)?;
                settle(self, alert)?;
                silenced.push((alert, silence.id));
            }
        }
        Ok(silenced)
    }
}

impl<W: Writes> Records<W> {
    /// Begins a silence, and notes who wanted it.
    pub fn begin_silence(&self, wanted: NewSilence) -> W::Answer<Silence> {
        self.write_durably("beginning a silence", move |tx| {
            let id: SilenceId = tx.mint()?;
            tx.execute(
                "INSERT INTO silences (id, prefix, begins, until, actor, why) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![id, wanted.prefix, At(wanted.begins), At(wanted.until), wanted.by, wanted.why],
            )?;
            let word = AuditEntry {
                at: wanted.begins,
                actor: wanted.by.clone(),
                action: "silence".to_owned(),
                subject: wanted.prefix.clone(),
                detail: wanted.why.clone(),
            };
            tx.record_audit(&word)?;
            let NewSilence { prefix, begins, until, by, why } = wanted;
            Ok(Silence { id, prefix, begins, until, by, why, ended_at: None, ended_by: None })
        })
    }

    /// Ends a silence, and notes who wanted that.
    pub fn end_silence(&self, id: SilenceId, word: AuditEntry) -> W::Answer<Silence> {
        self.write_durably("ending a silence", move |tx| {
            let sql = "SELECT * FROM silences WHERE id = ?1";
            let Some(silence) = query::one(tx, sql, [id], Silence::from_row)? else {
                return Err(refuse(ErrorKind::NotFound, format!("there is no {id}")));
            };
            if silence.ended_at.is_some() || silence.until <= word.at {
                return Err(refuse(ErrorKind::Conflict, format!("{id} has ended already")));
            }
            tx.execute(
                "UPDATE silences SET ended_at = ?2, ended_by = ?3 WHERE id = ?1",
                params![id, At(word.at), word.actor],
            )?;
            tx.record_audit(&word)?;
            Ok(Silence { ended_at: Some(word.at), ended_by: Some(word.actor), ..silence })
        })
    }
}

impl<R: Reads> Records<R> {
    /// Silences, newest first.
    pub fn silences(&self, page: Page) -> R::Answer<Vec<Silence>> {
        self.read("listing silences", move |c| query::page(c, "silences", "id DESC", page, Silence::from_row))
    }
}
