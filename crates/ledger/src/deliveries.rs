//! How an alert's delivery to each endpoint stands: a row per alert and endpoint,
//! so that a dead channel holds up nobody else's alerts.
//!
//! Rows that go out together share a `message`. It is given before the first
//! attempt: a message that is repeated after a crash holds the same alerts.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};

use super::records::{Reads, Records, Tx};
use super::rows::{self, At, Count, text_enum};
use delayd_core::ids::AlertId;
use delayd_core::ports::{Alert, ChannelKind, Endpoint};

text_enum! {
    /// Where a delivery is.
    DeliveryState {
        /// To be delivered.
        Pending = "pending",
        /// Delivered.
        Delivered = "delivered",
        /// Given up.
        Dead = "dead",
        /// An administrator did not want to be told.
        Silenced = "silenced",
    }
}

/// One alert's delivery to one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Delivery {
    /// To whom.
    #[schema(value_type = String, example = "mail:ops@example.org")]
    pub endpoint: Endpoint,
    /// Where it is.
    pub state: DeliveryState,
    /// The message it goes out with, once one was made; its lowest alert.
    pub message: Option<AlertId>,
    /// Whether it was held back by quiet hours or the rate limit.
    pub held: bool,
    /// How often it was tried.
    pub attempts: u32,
    /// How often the other side refused it; an outage is no refusal.
    pub refusals: u32,
    /// Since when it is tried.
    pub since: DateTime<Utc>,
    /// When it is due.
    pub next_attempt_at: DateTime<Utc>,
    /// When it was delivered.
    pub delivered_at: Option<DateTime<Utc>>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
}

impl Delivery {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            endpoint: row.get("endpoint")?,
            state: row.get("state")?,
            message: row.get("message")?,
            held: row.get("held")?,
            attempts: row.get("attempts")?,
            refusals: row.get("refusals")?,
            since: row.get::<_, At>("since")?.0,
            next_attempt_at: row.get::<_, At>("next_attempt_at")?.0,
            delivered_at: row.get::<_, Option<At>>("delivered_at")?.map(|at| at.0),
            last_error: row.get("last_error")?,
        })
    }
}

/// A delivery with its alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertDelivery {
    /// The alert.
    pub alert: Alert,
    /// How its delivery to the endpoint in question stands.
    pub delivery: Delivery,
}

impl AlertDelivery {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { alert: alert_from_row(row, "alert")?, delivery: Delivery::from_row(row)? })
    }
}

/// Every column of a delivery, and its alert's.
const WITH_ALERT: &str = "SELECT d.*, o.at, o.severity, o.dedup_key, o.title, o.body
    FROM deliveries d JOIN outbox o ON o.id = d.alert";

/// A message that an endpoint was told lately.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToldMessage {
    /// What sort of event.
    pub topic: String,
    /// Which message.
    pub message: AlertId,
    /// When it was delivered.
    pub at: DateTime<Utc>,
}

/// What came of a failed attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedAttempt {
    /// Why, with all causes.
    pub error: String,
    /// Whether the other side refused; an outage is no refusal.
    pub refused: bool,
    /// When to try again; `None` gives it up.
    pub retry_at: Option<DateTime<Utc>>,
}

pub(super) fn insert(tx: &Tx<'_>, alert: &Alert, endpoint: &Endpoint, now: DateTime<Utc>) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT INTO deliveries (alert, endpoint, topic, state, since, next_attempt_at)
         VALUES (?1, ?2, ?3, 'pending', ?4, ?4) ON CONFLICT DO NOTHING",
        params![alert.id, endpoint, alert.topic(), At(now)],
    )?;
    Ok(())
}

pub(super) fn of_alert(connection: &Connection, alert: AlertId) -> rusqlite::Result<Vec<Delivery>> {
    let sql = "SELECT * FROM deliveries WHERE alert = ?1 ORDER BY endpoint";
    rows::all(connection, sql, [alert], Delivery::from_row)
}

pub(super) fn revive(tx: &Tx<'_>, alert: AlertId, now: DateTime<Utc>) -> rusqlite::Result<usize> {
    tx.execute(
        "UPDATE deliveries SET state = 'pending', message = NULL, held = 0, attempts = 0, refusals = 0,
                since = ?2, next_attempt_at = ?2
         WHERE alert = ?1 AND state = 'dead'",
        params![alert, At(now)],
    )
}

pub(super) fn silence(tx: &Tx<'_>, alert: AlertId) -> rusqlite::Result<()> {
    tx.execute("UPDATE deliveries SET state = 'silenced' WHERE alert = ?1 AND state = 'pending'", [alert])?;
    Ok(())
}

pub(super) fn remove_silenced(tx: &Tx<'_>, alert: AlertId) -> rusqlite::Result<()> {
    tx.execute("DELETE FROM deliveries WHERE alert = ?1 AND state = 'silenced'", [alert])?;
    Ok(())
}

impl Tx<'_> {
    /// Drops what waits for endpoints that are no longer configured. An alert that
    /// was to be told to nobody else is routed again. Answers how many deliveries.
    pub fn withdraw_deliveries(&self, known: &[Endpoint]) -> rusqlite::Result<usize> {
        let sql = "SELECT DISTINCT endpoint FROM deliveries WHERE state = 'pending'";
        let waiting: Vec<String> = rows::all(self, sql, [], |row| row.get(0))?;
        let known: Vec<String> = known.iter().map(Endpoint::to_string).collect();
        let mut withdrawn = 0;
        for gone in waiting.iter().filter(|endpoint| !known.contains(endpoint)) {
            let sql = "DELETE FROM deliveries WHERE endpoint = ?1 AND state = 'pending' RETURNING alert";
            let alerts: Vec<AlertId> = rows::all(self, sql, [gone], |row| row.get(0))?;
            withdrawn += alerts.len();
            for alert in alerts {
                if of_alert(self, alert)?.is_empty() { unroute(self, alert)? } else { settle(self, alert)? }
            }
        }
        Ok(withdrawn)
    }

    /// What is due at an endpoint: the critical first, then the longest due.
    pub fn due_deliveries(
        &self,
        endpoint: &Endpoint,
        now: DateTime<Utc>,
        limit: u64,
    ) -> rusqlite::Result<Vec<AlertDelivery>> {
        let sql = format!(
            "{WITH_ALERT} WHERE d.endpoint = ?1 AND d.state = 'pending' AND d.next_attempt_at <= ?2
         ORDER BY o.severity = 'critical' DESC, d.next_attempt_at, d.alert LIMIT ?3"
        );
        rows::all(self, &sql, params![endpoint, At(now), Count(limit)], AlertDelivery::from_row)
    }

    /// What an endpoint was told since a moment, oldest first.
    pub fn told_since(&self, endpoint: &Endpoint, since: DateTime<Utc>) -> rusqlite::Result<Vec<ToldMessage>> {
        let sql = "SELECT DISTINCT topic, coalesce(message, alert) AS message, delivered_at FROM deliveries
               WHERE endpoint = ?1 AND state = 'delivered' AND delivered_at > ?2 ORDER BY delivered_at";
        rows::all(self, sql, params![endpoint, At(since)], |row| {
            Ok(ToldMessage {
                topic: row.get("topic")?,
                message: row.get("message")?,
                at: row.get::<_, At>("delivered_at")?.0,
            })
        })
    }

    /// Lets alerts wait at an endpoint. `held` marks them for a digest. What is kept
    /// back on purpose is no outage: it is tried since it may be told again.
    pub fn let_deliveries_wait(
        &self,
        endpoint: &Endpoint,
        alerts: &[AlertId],
        until: DateTime<Utc>,
        held: bool,
    ) -> rusqlite::Result<()> {
        let sql = "UPDATE deliveries SET next_attempt_at = ?3, since = ?3, held = max(held, ?4)
               WHERE endpoint = ?1 AND alert = ?2 AND state = 'pending'";
        for alert in alerts {
            self.execute(sql, params![endpoint, alert, At(until), held])?;
        }
        Ok(())
    }

    /// Lets everything that is due at an endpoint wait: its channel is away.
    pub fn hold_off_deliveries(
        &self,
        endpoint: &Endpoint,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> rusqlite::Result<()> {
        self.execute(
            "UPDATE deliveries SET next_attempt_at = ?3
         WHERE endpoint = ?1 AND state = 'pending' AND next_attempt_at <= ?2",
            params![endpoint, At(now), At(until)],
        )?;
        Ok(())
    }

    /// Makes a message of alerts, named after the lowest of them.
    pub fn claim_message(&self, endpoint: &Endpoint, message: AlertId, alerts: &[AlertId]) -> rusqlite::Result<()> {
        let sql = "UPDATE deliveries SET message = ?3 WHERE endpoint = ?1 AND alert = ?2 AND state = 'pending'";
        for alert in alerts {
            self.execute(sql, params![endpoint, alert, message])?;
        }
        Ok(())
    }

    /// What goes out with a message, oldest first.
    pub fn deliveries_of_message(&self, endpoint: &Endpoint, message: AlertId) -> rusqlite::Result<Vec<AlertDelivery>> {
        let sql =
            format!("{WITH_ALERT} WHERE d.endpoint = ?1 AND d.message = ?2 AND d.state = 'pending' ORDER BY d.alert");
        rows::all(self, &sql, params![endpoint, message], AlertDelivery::from_row)
    }

    /// Notes that a message was delivered. Nothing changes where that is known already.
    pub fn message_delivered(&self, endpoint: &Endpoint, message: AlertId, at: DateTime<Utc>) -> rusqlite::Result<()> {
        let sql =
            "UPDATE deliveries SET state = 'delivered', attempts = attempts + 1, delivered_at = ?3, last_error = NULL
               WHERE endpoint = ?1 AND message = ?2 AND state = 'pending' RETURNING alert";
        let alerts: Vec<AlertId> = rows::all(self, sql, params![endpoint, message, At(at)], |row| row.get(0))?;
        alerts.into_iter().try_for_each(|alert| settle(self, alert))
    }

    /// Notes that an attempt at a message failed.
    pub fn message_failed(
        &self,
        endpoint: &Endpoint,
        message: AlertId,
        failure: &FailedAttempt,
    ) -> rusqlite::Result<()> {
        let state = if failure.retry_at.is_some() { DeliveryState::Pending } else { DeliveryState::Dead };
        let sql =
            "UPDATE deliveries SET state = ?3, attempts = attempts + 1, refusals = refusals + ?4, last_error = ?5,
                      next_attempt_at = coalesce(?6, next_attempt_at)
               WHERE endpoint = ?1 AND message = ?2 AND state = 'pending' RETURNING alert";
        let values = params![endpoint, message, state, failure.refused, failure.error, failure.retry_at.map(At)];
        let alerts: Vec<AlertId> = rows::all(self, sql, values, |row| row.get(0))?;
        alerts.into_iter().try_for_each(|alert| settle(self, alert))
    }
}

/// Deliveries that did not arrive, at one channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndeliveredCount {
    /// Which channel.
    pub channel: ChannelKind,
    /// [`DeliveryState::Pending`] or [`DeliveryState::Dead`].
    pub state: DeliveryState,
    /// How many.
    pub count: u64,
}

impl<R: Reads> Records<R> {
    /// How many deliveries wait or were given up, by channel.
    pub fn undelivered(&self) -> R::Answer<Vec<UndeliveredCount>> {
        let sql = "SELECT endpoint, state, count(*) AS count FROM deliveries
                   WHERE state IN ('pending', 'dead') GROUP BY endpoint, state";
        self.read("counting undelivered alerts", move |c| {
            let counted = rows::all(c, sql, [], |row| {
                let endpoint: Endpoint = row.get("endpoint")?;
                Ok((endpoint.channel, row.get("state")?, row.get::<_, Count>("count")?.0))
            })?;
            let mut sums: Vec<UndeliveredCount> = Vec::new();
            for (channel, state, count) in counted {
                match sums.iter_mut().find(|sum| sum.channel == channel && sum.state == state) {
                    Some(sum) => sum.count += count,
                    None => sums.push(UndeliveredCount { channel, state, count }),
                }
            }
            Ok(sums)
        })
    }
}

/// An alert's columns, with `id` named as the caller's query names it.
pub(super) fn alert_from_row(row: &Row<'_>, id: &str) -> rusqlite::Result<Alert> {
    Ok(Alert {
        id: row.get(id)?,
        at: row.get::<_, At>("at")?.0,
        severity: row.get("severity")?,
        dedup_key: row.get("dedup_key")?,
        title: row.get("title")?,
        body: row.get("body")?,
    })
}

/// Lets an alert be routed again, as if it were new.
pub(super) fn unroute(tx: &Tx<'_>, id: AlertId) -> rusqlite::Result<()> {
    tx.execute("UPDATE outbox SET routed_at = NULL, silence = NULL, state = 'pending' WHERE id = ?1", [id])?;
    Ok(())
}

/// Brings an alert's state into line with its deliveries.
pub(super) fn settle(tx: &Tx<'_>, id: AlertId) -> rusqlite::Result<()> {
    tx.execute(
        "WITH states AS (SELECT DISTINCT state FROM deliveries WHERE alert = ?1)
         UPDATE outbox SET state = CASE
             WHEN 'pending' IN states THEN 'pending'
             WHEN 'dead' IN states THEN 'dead'
             WHEN 'delivered' IN states THEN 'delivered'
             WHEN silence IS NOT NULL THEN 'silenced'
             ELSE 'dead' END
         WHERE id = ?1",
        [id],
    )?;
    Ok(())
}
