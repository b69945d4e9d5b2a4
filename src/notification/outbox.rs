//! Delivery of what is in the outbox: when, how often, and when to give up.
//!
//! An alert is marked delivered after the notifier has succeeded, never before:
//! a crash in between delivers it twice, and that is the lesser evil. In normal
//! operation, also when the ledger cannot be written just then, it is delivered
//! once: what was delivered and not yet marked is remembered, and marked before
//! anything else is delivered.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::Mutex;

use crate::error::{ErrorKind, PortError, chain};
use crate::ids::AlertId;
use crate::ledger::{Ledger, LedgerError, OutboxAlert};
use crate::ports::Notifier;

/// How patient delivery is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryPolicy {
    /// After so many failed attempts an alert is given up.
    pub max_attempts: u32,
    /// The pause after the first failure; it doubles with each further one.
    pub initial_backoff: Duration,
    /// The longest pause.
    pub max_backoff: Duration,
    /// How long one attempt may take.
    pub attempt_timeout: Duration,
    /// How many alerts one round takes at most.
    pub batch: u64,
}

impl Default for DeliveryPolicy {
    /// Twelve attempts over about five hours.
    fn default() -> Self {
        Self {
            max_attempts: 12,
            initial_backoff: Duration::from_secs(15),
            max_backoff: Duration::from_secs(3600),
            attempt_timeout: Duration::from_secs(20),
            batch: 50,
        }
    }
}

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterFailure {
    /// Try again then.
    RetryAt(DateTime<Utc>),
    /// Give it up; an administrator can revive it.
    GiveUp,
}

/// Decides what follows the failure of attempt number `attempt` (from 1). An
/// alert that the notifier calls invalid will stay so; every other failure may be
/// repaired from outside, wrong credentials too, and is tried again.
#[must_use]
pub fn after_failure(policy: &DeliveryPolicy, attempt: u32, kind: ErrorKind, now: DateTime<Utc>) -> AfterFailure {
    if attempt >= policy.max_attempts || kind == ErrorKind::Invalid {
        return AfterFailure::GiveUp;
    }
    let doublings = attempt.saturating_sub(1).min(30);
    let pause = policy.initial_backoff.saturating_mul(1 << doublings).min(policy.max_backoff);
    AfterFailure::RetryAt(now + pause)
}

/// What one round did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeliveryReport {
    /// Alerts that were delivered.
    pub delivered: u32,
    /// Alerts that failed and will be tried again.
    pub failed: u32,
    /// Alerts that were given up.
    pub given_up: u32,
    /// Whether the round ended early because the notifier cannot be reached.
    pub interrupted: bool,
}

/// Delivers alerts from the ledger. One per daemon.
#[derive(Debug)]
pub struct Outbox {
    ledger: Ledger,
    policy: DeliveryPolicy,
    /// Delivered, not yet marked so. The lock also keeps two rounds from running at once.
    unmarked: Mutex<BTreeMap<AlertId, DateTime<Utc>>>,
}

impl Outbox {
    /// Delivery from `ledger` by `policy`.
    #[must_use]
    pub fn new(ledger: Ledger, policy: DeliveryPolicy) -> Self {
        Self { ledger, policy, unmarked: Mutex::default() }
    }

    /// Delivers what is due, the longest due first. While the notifier cannot be
    /// reached the rest of the round waits, so that a dead webhook does not cost
    /// one timeout per alert.
    ///
    /// # Errors
    /// The ledger failed. Nothing is delivered that could not be marked before.
    pub async fn deliver_due(
        &self,
        notifier: &dyn Notifier,
        now: DateTime<Utc>,
    ) -> Result<DeliveryReport, LedgerError> {
        let mut unmarked = self.unmarked.lock().await;
        self.mark(&mut unmarked).await?;
        let mut report = DeliveryReport::default();
        for due in self.ledger.due_alerts(now, self.policy.batch).await? {
            match self.attempt(notifier, &due).await {
                Ok(()) => {
                    report.delivered += 1;
                    unmarked.insert(due.alert.id, now);
                    self.mark(&mut unmarked).await?;
                }
                Err(error) => {
                    self.note_failure(&due, &error, now, &mut report).await?;
                    if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout) {
                        report.interrupted = true;
                        break;
                    }
                }
            }
        }
        Ok(report)
    }

    async fn mark(&self, unmarked: &mut BTreeMap<AlertId, DateTime<Utc>>) -> Result<(), LedgerError> {
        while let Some((&id, &at)) = unmarked.first_key_value() {
            self.ledger.mark_alert_delivered(id, at).await?;
            unmarked.remove(&id);
        }
        Ok(())
    }

    async fn attempt(&self, notifier: &dyn Notifier, due: &OutboxAlert) -> Result<(), PortError> {
        match tokio::time::timeout(self.policy.attempt_timeout, notifier.deliver(&due.alert)).await {
            Ok(answer) => answer,
            Err(_) => Err(PortError::new(
                ErrorKind::Timeout,
                format!("delivering {}", due.alert.id),
                format!("no answer within {} s", self.policy.attempt_timeout.as_secs_f32()),
            )),
        }
    }

    async fn note_failure(
        &self,
        due: &OutboxAlert,
        error: &PortError,
        now: DateTime<Utc>,
        report: &mut DeliveryReport,
    ) -> Result<(), LedgerError> {
        let attempt = due.attempts + 1;
        let (alert, reason) = (&due.alert, chain(error));
        let next = match after_failure(&self.policy, attempt, error.kind(), now) {
            AfterFailure::RetryAt(at) => {
                report.failed += 1;
                tracing::warn!(alert.id = %alert.id, attempt, error = reason, retry_at = %at, "alert not delivered");
                Some(at)
            }
            AfterFailure::GiveUp => {
                report.given_up += 1;
                tracing::error!(alert.id = %alert.id, alert.title, attempt, error = reason, "alert given up");
                None
            }
        };
        self.ledger.mark_alert_failed(alert.id, reason, next).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_the_last_attempt_or_an_invalid_alert_gives_up() {
        let policy = DeliveryPolicy {
            max_attempts: 5,
            initial_backoff: Duration::from_secs(10),
            max_backoff: Duration::from_secs(60),
            ..DeliveryPolicy::default()
        };
        let now = DateTime::<Utc>::UNIX_EPOCH;
        let at = |secs| AfterFailure::RetryAt(now + Duration::from_secs(secs));
        let table = [
            (1, ErrorKind::Unavailable, at(10), "the first pause"),
            (2, ErrorKind::Timeout, at(20), "twice that"),
            (3, ErrorKind::Denied, at(40), "a webhook can be repaired from outside"),
            (4, ErrorKind::Internal, at(60), "never above the longest"),
            (5, ErrorKind::Unavailable, AfterFailure::GiveUp, "five attempts are all there are"),
            (1, ErrorKind::Invalid, AfterFailure::GiveUp, "it will stay invalid"),
        ];
        for (attempt, kind, expected, reason) in table {
            assert_eq!(after_failure(&policy, attempt, kind, now), expected, "{reason}");
        }
    }
}
