//! Delivery of what is in the outbox. A round silences, routes, and then works on
//! every channel at the same time: which of the due alerts go out as one message
//! and which wait is [`super::group`]'s to say, what follows a failure
//! [`super::policy`]'s.
//!
//! An alert is marked delivered after the notifier has succeeded, never before:
//! a crash in between delivers it twice, with the same identity, and that is the
//! lesser evil. In normal operation, also when the ledger cannot be written just
//! then, it is delivered once: what was delivered and not yet marked is
//! remembered, and marked before anything else is delivered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use chrono::{DateTime, Utc};
use futures::future::join_all;
use tokio::sync::Mutex;

use super::group::{DueAlert, Planned, SentMessage, kind_of, plan};
use super::policy::{AfterFailure, DeliveryPolicy, Failure, UNDELIVERABLE, after_failure, endpoints_of, is_refusal};
use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::ids::AlertId;
use delayd_core::ports::{ChannelKind, Endpoint, Notice, Notifier, Severity, Undelivered};
use delayd_ledger::{AlertDelivery, FailedAttempt, Ledger, LedgerError, NewAlert, ToldMessage};

/// What one round did, in messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeliveryReport {
    /// Alerts that were silenced.
    pub silenced: u32,
    /// Messages that were delivered.
    pub delivered: u32,
    /// Messages that failed and will be tried again.
    pub failed: u32,
    /// Messages that were given up.
    pub given_up: u32,
    /// Channels that could not be reached; the rest of their round waits.
    pub channels_unavailable: u32,
}

impl DeliveryReport {
    fn add(&mut self, other: Self) {
        self.silenced += other.silenced;
        self.delivered += other.delivered;
        self.failed += other.failed;
        self.given_up += other.given_up;
        self.channels_unavailable += other.channels_unavailable;
    }
}

/// A message at an endpoint.
type MessageKey = (Endpoint, AlertId);

/// Delivers alerts from the ledger. One per daemon.
#[derive(Debug)]
pub struct Outbox {
    ledger: Ledger,
    policy: Arc<DeliveryPolicy>,
    /// Keeps two rounds from running at once.
    round: Mutex<()>,
    /// Delivered, not yet marked so.
    unmarked: std::sync::Mutex<BTreeMap<MessageKey, DateTime<Utc>>>,
}

impl Outbox {
    /// Delivery from `ledger` by `policy`.
    pub fn new(ledger: Ledger, policy: DeliveryPolicy) -> Self {
        Self { ledger, policy: Arc::new(policy), round: Mutex::default(), unmarked: std::sync::Mutex::default() }
    }

    /// Delivers what is due, all channels at the same time. While a channel cannot
    /// be reached the rest of its round waits, so that a dead webhook does not cost
    /// one timeout per alert.
    pub async fn deliver_due(
        &self,
        notifier: &dyn Notifier,
        now: DateTime<Utc>,
    ) -> Result<DeliveryReport, LedgerError> {
        let _round = self.round.lock().await;
        self.mark_delivered().await?;
        let endpoints = notifier.endpoints();
        let mut report = self.prepare(endpoints.clone(), now).await?;
        let mut channels: BTreeMap<ChannelKind, Vec<Endpoint>> = BTreeMap::new();
        for endpoint in endpoints {
            channels.entry(endpoint.channel).or_default().push(endpoint);
        }
        let rounds = channels.values().map(|endpoints| self.work_channel(notifier, endpoints, now));
        for round in join_all(rounds).await {
            report.add(round?);
        }
        Ok(report)
    }

    /// Silences, routes, and drops what waits for endpoints that are gone.
    async fn prepare(&self, endpoints: Vec<Endpoint>, now: DateTime<Utc>) -> Result<DeliveryReport, LedgerError> {
        let policy = self.policy.clone();
        let prepared = self.ledger.write("routing alerts", move |tx| {
            let withdrawn = tx.withdraw_deliveries(&endpoints)?;
            let silenced = tx.apply_silences(now)?;
            for alert in tx.unrouted_alerts(policy.batch)? {
                let recipients = endpoints_of(&policy.routes, &endpoints, alert.severity, &alert.dedup_key);
                tx.route_alert(&alert, &recipients, now)?;
            }
            Ok((withdrawn, silenced))
        });
        let (withdrawn, silenced) = prepared.await?;
        if withdrawn > 0 {
            tracing::warn!(
                deliveries = withdrawn,
                "dropped alerts that were waiting for channels no longer configured"
            );
        }
        for (alert, silence) in &silenced {
            tracing::info!(alert.id = %alert, silence.id = %silence, "alert silenced");
        }
        Ok(DeliveryReport { silenced: u32::try_from(silenced.len()).unwrap_or(u32::MAX), ..DeliveryReport::default() })
    }

    /// One channel's round: its endpoints one after the other.
    async fn work_channel(
        &self,
        notifier: &dyn Notifier,
        endpoints: &[Endpoint],
        now: DateTime<Utc>,
    ) -> Result<DeliveryReport, LedgerError> {
        let mut report = DeliveryReport::default();
        for endpoint in endpoints {
            for message in self.claim(endpoint, now).await? {
                let alerts = self.alerts_of(endpoint, message).await?;
                let Some(failure) = self.attempt(notifier, endpoint, &alerts).await else {
                    report.delivered += 1;
                    self.unmarked().insert((endpoint.clone(), message), now);
                    self.mark_delivered().await?;
                    continue;
                };
                let next = self.note_failure(endpoint, message, &alerts, &failure, now).await?;
                match next {
                    AfterFailure::RetryAt(_) => report.failed += 1,
                    AfterFailure::GiveUp => report.given_up += 1,
                }
                if failure.is_channel_away() {
                    report.channels_unavailable += 1;
                    let until = match next {
                        AfterFailure::RetryAt(at) => at,
                        AfterFailure::GiveUp => now + self.policy.initial_backoff,
                    };
                    self.hold_off(endpoints.to_vec(), now, until).await?;
                    return Ok(report);
                }
            }
        }
        Ok(report)
    }

    /// Makes messages of what is due at an endpoint, in one transaction.
    async fn claim(&self, endpoint: &Endpoint, now: DateTime<Utc>) -> Result<Vec<AlertId>, LedgerError> {
        let (endpoint, batch) = (endpoint.clone(), self.policy.batch);
        let pace = self.policy.pace_of(&endpoint);
        self.ledger
            .write("making messages of alerts", move |tx| {
                let due: Vec<DueAlert> = tx.due_deliveries(&endpoint, now, batch)?.into_iter().map(due_alert).collect();
                if due.is_empty() {
                    return Ok(Vec::new());
                }
                let sent = sent_messages(tx.told_since(&endpoint, now - pace.memory())?);
                let mut messages = Vec::new();
                for planned in plan(&due, &sent, &pace, now) {
                    match planned {
                        Planned::Wait { alerts, until, held } => {
                            tx.let_deliveries_wait(&endpoint, &alerts, until, held)?;
                        }
                        Planned::Send(alerts) => {
                            let tried = due.iter().find(|due| alerts.contains(&due.alert)).and_then(|due| due.message);
                            if let Some(message) = tried.or_else(|| alerts.first().copied()) {
                                tx.claim_message(&endpoint, message, &alerts)?;
                                messages.push(message);
                            }
                        }
                    }
                }
                Ok(messages)
            })
            .await
    }

    async fn alerts_of(&self, endpoint: &Endpoint, message: AlertId) -> Result<Vec<AlertDelivery>, LedgerError> {
        let endpoint = endpoint.clone();
        self.ledger.write("reading a message", move |tx| tx.deliveries_of_message(&endpoint, message)).await
    }

    /// Tries once; answers why it failed.
    async fn attempt(
        &self,
        notifier: &dyn Notifier,
        endpoint: &Endpoint,
        alerts: &[AlertDelivery],
    ) -> Option<Undelivered> {
        let kind = kind_of(alerts.iter().map(|due| (due.alert.topic(), due.delivery.held)));
        let notice = Notice { kind, alerts: alerts.iter().map(|due| due.alert.clone()).collect() };
        let limit = self.policy.attempt_timeout;
        match tokio::time::timeout(limit, notifier.deliver(endpoint, &notice)).await {
            Ok(answer) => answer.err(),
            Err(_) => {
                let message = format!("no answer within {} s", limit.as_secs_f32());
                Some(PortError::new(ErrorKind::Timeout, format!("delivering to {endpoint}"), message).into())
            }
        }
    }

    async fn note_failure(
        &self,
        endpoint: &Endpoint,
        message: AlertId,
        alerts: &[AlertDelivery],
        error: &Undelivered,
        now: DateTime<Utc>,
    ) -> Result<AfterFailure, LedgerError> {
        let refused = is_refusal(error.kind());
        let worst = |of: fn(&AlertDelivery) -> u32| alerts.iter().map(of).max().unwrap_or_default();
        let failure = Failure {
            kind: error.kind(),
            attempts: worst(|due| due.delivery.attempts) + 1,
            refusals: worst(|due| due.delivery.refusals) + u32::from(refused),
            since: alerts.iter().map(|due| due.delivery.since).max().unwrap_or(now),
            retry_after: error.retry_after(),
        };
        let (attempt, reason) = (failure.attempts, chain(error));
        let next = after_failure(&self.policy, &failure, now);
        let (retry_at, new_alerts) = match next {
            AfterFailure::RetryAt(at) => {
                tracing::warn!(%endpoint, message = %message, attempt, error = reason, retry_at = %at, "alert not delivered; it is retried");
                (Some(at), Vec::new())
            }
            AfterFailure::GiveUp => {
                for due in alerts {
                    let (id, title) = (due.alert.id, &due.alert.title);
                    tracing::error!(%endpoint, alert.id = %id, alert.title = title, attempt, error = reason, "alert not delivered and given up");
                }
                (None, undeliverable(endpoint, alerts, &reason, now))
            }
        };
        let (endpoint, failed) = (endpoint.clone(), FailedAttempt { error: reason, refused, retry_at });
        let noted = self.ledger.write("noting an alert's failed delivery", move |tx| {
            tx.message_failed(&endpoint, message, &failed)?;
            new_alerts.into_iter().try_for_each(|alert| tx.enqueue_alert(alert).map(|_| ()))
        });
        noted.await?;
        Ok(next)
    }

    async fn hold_off(
        &self,
        endpoints: Vec<Endpoint>,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<(), LedgerError> {
        let held_off = self.ledger.write("letting a channel's alerts wait", move |tx| {
            endpoints.iter().try_for_each(|endpoint| tx.hold_off_deliveries(endpoint, now, until))
        });
        held_off.await
    }

    fn unmarked(&self) -> std::sync::MutexGuard<'_, BTreeMap<MessageKey, DateTime<Utc>>> {
        self.unmarked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks what was delivered. What another channel delivered meanwhile may be
    /// marked twice, which changes nothing.
    async fn mark_delivered(&self) -> Result<(), LedgerError> {
        let unmarked = self.unmarked().clone();
        for ((endpoint, message), at) in unmarked {
            let key = (endpoint.clone(), message);
            self.ledger
                .write("noting an alert's delivery", move |tx| tx.message_delivered(&endpoint, message, at))
                .await?;
            self.unmarked().remove(&key);
        }
        Ok(())
    }
}

fn due_alert(due: AlertDelivery) -> DueAlert {
    DueAlert {
        alert: due.alert.id,
        topic: due.alert.topic().to_owned(),
        severity: due.alert.severity,
        message: due.delivery.message,
        held: due.delivery.held,
    }
}

fn sent_messages(messages: Vec<ToldMessage>) -> Vec<SentMessage> {
    let mut sent: BTreeMap<AlertId, SentMessage> = BTreeMap::new();
    for ToldMessage { topic, message, at } in messages {
        sent.entry(message).or_insert_with(|| SentMessage { topics: BTreeSet::new(), at }).topics.insert(topic);
    }
    sent.into_values().collect()
}

/// The alerts which say, through another channel, that these were given up. Giving up one of them raises no further
/// one.
fn undeliverable(endpoint: &Endpoint, alerts: &[AlertDelivery], reason: &str, now: DateTime<Utc>) -> Vec<NewAlert> {
    let alerts = alerts.iter().filter(|due| due.alert.topic() != UNDELIVERABLE);
    let about = |due: &AlertDelivery| {
        let alert = &due.alert;
        NewAlert {
            at: now,
            severity: alert.severity.max(Severity::Warning),
            dedup_key: format!("{UNDELIVERABLE}/{}/{endpoint}/{}/{}", endpoint.channel, alert.id, now.timestamp()),
            title: format!("{endpoint} cannot be delivered: {}", alert.title),
            body: format!(
                "{} ({}) was given up at {endpoint} after {} attempts; the last failed with: {reason}. Its text: {} \
                 Once the cause is fixed, `delayd alerts --retry {}` sends it.",
                alert.id,
                alert.severity,
                due.delivery.attempts + 1,
                alert.body,
                alert.id
            ),
        }
    };
    alerts.map(about).collect()
}
