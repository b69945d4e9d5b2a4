//! Alerts until everybody they concern was told, and what administrators do not want to be told for a while.
//!
//! Who is told, when to deliver and when to give up is the notification stage's to say; here they are only kept. A
//! silenced alert stays on record, with the silence that kept it back. How each delivery stands is in `deliveries`.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};

use super::deliveries::{self, Delivery, alert_from_row, settle, unroute};
use super::records::{Reads, Records, Tx, Writes};
use super::rows::{self, At, Count, Page, text_enum};
use super::{AuditEntry, refuse};
use delayd_core::error::ErrorKind;
use delayd_core::ids::{AlertId, SilenceId};
use delayd_core::ports::{Alert, Endpoint, Severity};

text_enum! {
    /// Where an alert is.
    OutboxState {
        /// To be delivered, to one endpoint at least.
        Pending = "pending",
        /// Delivered wherever it had to be.
        Delivered = "delivered",
        /// Given up at one endpoint at least, and no longer tried anywhere.
        Dead = "dead",
        /// An administrator did not want to be told.
        Silenced = "silenced",
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

/// An alert and how its deliveries stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OutboxAlert {
    /// The alert.
    pub alert: Alert,
    /// Where it is.
    pub state: OutboxState,
    /// The silence that keeps it from being told.
    pub silence: Option<SilenceId>,
    /// To whom, and how that stands; empty until it was routed.
    pub deliveries: Vec<Delivery>,
}

impl OutboxAlert {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            alert: alert_from_row(row, "id")?,
            state: row.get("state")?,
            silence: row.get("silence")?,
            deliveries: Vec::new(),
        })
    }

    fn with_deliveries(mut self, connection: &Connection) -> rusqlite::Result<Self> {
        self.deliveries = deliveries::of_alert(connection, self.alert.id)?;
        Ok(self)
    }
}

fn retry(tx: &Tx<'_>, id: AlertId, now: DateTime<Utc>) -> rusqlite::Result<usize> {
    let Some(found) = rows::one(tx, "SELECT * FROM outbox WHERE id = ?1", [id], OutboxAlert::from_row)? else {
        return Err(refuse(ErrorKind::NotFound, format!("there is no {id} in the outbox")));
    };
    let revived = deliveries::revive(tx, id, now)?;
    if revived > 0 {
        settle(tx, id)?;
        return Ok(revived);
    }
    if let Some(silence) = active_for(tx, &found.alert.dedup_key, now)? {
        let message = format!("{id} is silenced by {} until {}; end that first", silence.id, silence.until);
        return Err(refuse(ErrorKind::Conflict, message));
    }
    let untold = found.state == OutboxState::Silenced
        || (found.state == OutboxState::Dead && deliveries::of_alert(tx, id)?.is_empty());
    if !untold {
        return Err(refuse(ErrorKind::Conflict, format!("nothing of {id} was given up: it is {}", found.state)));
    }
    deliveries::remove_silenced(tx, id)?;
    unroute(tx, id)?;
    Ok(1)
}

impl Tx<'_> {
    /// Alerts of which nobody has decided yet who is told, oldest first.
    pub fn unrouted_alerts(&self, limit: u64) -> rusqlite::Result<Vec<Alert>> {
        let sql = "SELECT * FROM outbox WHERE routed_at IS NULL ORDER BY id LIMIT ?1";
        rows::all(self, sql, [Count(limit)], |row| alert_from_row(row, "id"))
    }

    /// Notes who is to be told of an alert, due at once. Told to nobody, it is dead.
    pub fn route_alert(&self, alert: &Alert, endpoints: &[Endpoint], now: DateTime<Utc>) -> rusqlite::Result<()> {
        for endpoint in endpoints {
            deliveries::insert(self, alert, endpoint, now)?;
        }
        self.execute("UPDATE outbox SET routed_at = ?2 WHERE id = ?1", params![alert.id, At(now)])?;
        settle(self, alert.id)
    }
}

impl<W: Writes> Records<W> {
    /// Puts an alert into the outbox, to be routed at the next look. A key that is
    /// there already, in whatever state, is the same alert: its id is answered and
    /// nothing changes.
    pub fn enqueue_alert(&self, alert: NewAlert) -> W::Answer<AlertId> {
        self.write("putting an alert into the outbox", move |tx| {
            let known =
                rows::one(tx, "SELECT id FROM outbox WHERE dedup_key = ?1", [&alert.dedup_key], |row| row.get(0))?;
            if let Some(id) = known {
                return Ok(id);
            }
            let id: AlertId = tx.mint()?;
            tx.execute(
                "INSERT INTO outbox (id, at, severity, dedup_key, title, body, state)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'pending')",
                params![id, At(alert.at), alert.severity, alert.dedup_key, alert.title, alert.body],
            )?;
            Ok(id)
        })
    }

    /// Makes due again, with all its attempts, what was given up of an alert, or what was silenced by a silence that has
    /// ended; notes who wanted that. Refuses where nothing was given up, or where it is silenced still. Answers how many
    /// deliveries.
    pub fn retry_alert(&self, id: AlertId, word: AuditEntry) -> W::Answer<usize> {
        self.write_durably("reviving an alert", move |tx| {
            tx.record_audit(&word)?;
            retry(tx, id, word.at)
        })
    }

    /// Makes due again everything that was given up: for after a long outage.
    /// Answers how many deliveries.
    pub fn retry_dead_alerts(&self, word: AuditEntry) -> W::Answer<usize> {
        self.write_durably("reviving dead alerts", move |tx| {
            tx.record_audit(&word)?;
            let sql = "SELECT id FROM outbox WHERE state = 'dead' ORDER BY id";
            let dead: Vec<AlertId> = rows::all(tx, sql, [], |row| row.get(0))?;
            let mut revived = 0;
            for id in dead {
                revived += deliveries::revive(tx, id, word.at)?;
                settle(tx, id)?;
            }
            Ok(revived)
        })
    }
}

impl<R: Reads> Records<R> {
    /// One alert with its deliveries.
    pub fn alert(&self, id: AlertId) -> R::Answer<Option<OutboxAlert>> {
        let sql = "SELECT * FROM outbox WHERE id = ?1";
        self.read("reading an alert", move |c| {
            rows::one(c, sql, [id], OutboxAlert::from_row)?.map(|alert| alert.with_deliveries(c)).transpose()
        })
    }

    /// How many alerts were given up at one endpoint at least.
    pub fn dead_alerts(&self) -> R::Answer<u64> {
        self.read("counting undelivered alerts", |c| {
            c.query_row("SELECT count(*) FROM outbox WHERE state = 'dead'", [], |row| row.get::<_, i64>(0))
                .map(|count| count.unsigned_abs())
        })
    }

    /// Alerts with their deliveries, newest first.
    pub fn alerts(&self, page: Page) -> R::Answer<Vec<OutboxAlert>> {
        self.read("listing alerts", move |c| {
            let alerts = rows::page(c, "outbox", "id DESC", page, OutboxAlert::from_row)?;
            alerts.into_iter().map(|alert| alert.with_deliveries(c)).collect()
        })
    }
}

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
    rows::all(connection, sql, [At(now)], Silence::from_row)
}

/// The silence that keeps a key's alerts back, if there is one.
pub(super) fn active_for(connection: &Connection, key: &str, now: DateTime<Utc>) -> rusqlite::Result<Option<Silence>> {
    Ok(active(connection, now)?.into_iter().find(|silence| key.starts_with(&silence.prefix)))
}

impl Tx<'_> {
    /// Silences what waits for delivery and should not be told now. Answers which.
    pub fn apply_silences(&self, now: DateTime<Utc>) -> rusqlite::Result<Vec<(AlertId, SilenceId)>> {
        let mut silenced = Vec::new();
        for silence in active(self, now)? {
            let sql = "UPDATE outbox SET silence = ?1, routed_at = coalesce(routed_at, ?3)
                   WHERE state = 'pending' AND substr(dedup_key, 1, length(?2)) = ?2 RETURNING id";
            let alerts: Vec<AlertId> =
                rows::all(self, sql, params![silence.id, silence.prefix, At(now)], |row| row.get(0))?;
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
            let Some(silence) = rows::one(tx, sql, [id], Silence::from_row)? else {
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
        self.read("listing silences", move |c| rows::page(c, "silences", "id DESC", page, Silence::from_row))
    }
}
