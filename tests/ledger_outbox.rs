//! Alerts reach people once, or are given up in the open.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "helpers are shared by inclusion")]

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use delayd::error::{ErrorKind, PortError};
use delayd::ledger::{Ledger, NewAlert, OutboxState};
use delayd::notification::{DeliveryPolicy, DeliveryReport, Outbox};
use delayd::ports::{Alert, Notifier, Severity};

fn at(secs: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(secs, 0).unwrap()
}

/// Answers what it was told to, and delivers once it has nothing left to say.
#[derive(Debug, Default)]
struct Scripted {
    failures: Mutex<Vec<ErrorKind>>,
    hangs: bool,
    delivered: Mutex<Vec<String>>,
}

impl Scripted {
    fn failing(failures: &[ErrorKind]) -> Self {
        Self { failures: Mutex::new(failures.to_vec()), ..Self::default() }
    }
}

#[async_trait]
impl Notifier for Scripted {
    async fn deliver(&self, alert: &Alert) -> Result<(), PortError> {
        if self.hangs {
            std::future::pending::<()>().await;
        }
        if let Some(kind) = self.failures.lock().unwrap().pop() {
            return Err(PortError::new(kind, "posting", "no"));
        }
        self.delivered.lock().unwrap().push(alert.dedup_key.clone());
        Ok(())
    }
    async fn probe(&self) -> Result<String, PortError> {
        Ok("scripted".to_owned())
    }
}

async fn ledger_with(alerts: &[&str]) -> Ledger {
    let ledger = Ledger::in_memory().unwrap();
    for key in alerts {
        let alert = NewAlert {
            at: at(0),
            severity: Severity::Critical,
            dedup_key: (*key).to_owned(),
            title: "t".into(),
            body: "b".into(),
        };
        ledger.enqueue_alert(alert).await.unwrap();
    }
    ledger
}

fn policy() -> DeliveryPolicy {
    DeliveryPolicy {
        max_attempts: 3,
        initial_backoff: Duration::from_secs(10),
        attempt_timeout: Duration::from_millis(50),
        ..DeliveryPolicy::default()
    }
}

#[tokio::test]
async fn an_alert_is_delivered_after_failures_and_then_never_again() {
    let ledger = ledger_with(&["a"]).await;
    let notifier = Scripted::failing(&[ErrorKind::Unavailable, ErrorKind::Unavailable]);
    let outbox = Outbox::new(ledger.clone(), policy());
    assert_eq!(outbox.deliver_due(&notifier, at(0)).await.unwrap().failed, 1);
    assert_eq!(outbox.deliver_due(&notifier, at(9)).await.unwrap(), DeliveryReport::default(), "not due yet");
    assert_eq!(outbox.deliver_due(&notifier, at(10)).await.unwrap().failed, 1);
    assert_eq!(outbox.deliver_due(&notifier, at(30)).await.unwrap().delivered, 1);
    assert_eq!(outbox.deliver_due(&notifier, at(9999)).await.unwrap(), DeliveryReport::default());
    assert_eq!(*notifier.delivered.lock().unwrap(), ["a"]);
}

#[tokio::test]
async fn an_alert_is_given_up_after_its_last_attempt_and_can_be_revived() {
    let ledger = ledger_with(&["a"]).await;
    let notifier = Scripted::failing(&[ErrorKind::Denied; 3]);
    let outbox = Outbox::new(ledger.clone(), policy());
    for now in [0, 100, 200] {
        outbox.deliver_due(&notifier, at(now)).await.unwrap();
    }
    let dead = ledger.alerts(Default::default()).await.unwrap().remove(0);
    assert_eq!((dead.state, dead.attempts, dead.last_error.as_deref()), (OutboxState::Dead, 3, Some("posting: no")));
    assert_eq!(ledger.revive_dead_alerts(at(300)).await.unwrap(), 1);
    assert_eq!(outbox.deliver_due(&notifier, at(300)).await.unwrap().delivered, 1);
}

#[tokio::test]
async fn a_notifier_that_hangs_ends_the_round_after_one_timeout() {
    let ledger = ledger_with(&["a", "b", "c"]).await;
    let hanging = Scripted { hangs: true, ..Scripted::default() };
    let outbox = Outbox::new(ledger.clone(), policy());
    let report = outbox.deliver_due(&hanging, at(0)).await.unwrap();
    assert_eq!((report.failed, report.interrupted), (1, true));
    let working = Scripted::default();
    assert_eq!(outbox.deliver_due(&working, at(10)).await.unwrap().delivered, 3);
}

#[tokio::test]
async fn a_delivery_that_cannot_be_marked_is_not_repeated() {
    let ledger = ledger_with(&["a"]).await;
    let notifier = Scripted::default();
    let outbox = Outbox::new(ledger.clone(), policy());
    let forbid = "CREATE TRIGGER full BEFORE UPDATE ON outbox BEGIN SELECT raise(ABORT, 'full'); END";
    ledger.transact("breaking", move |t| t.execute_batch(forbid)).await.unwrap();
    assert!(outbox.deliver_due(&notifier, at(0)).await.is_err());
    assert!(outbox.deliver_due(&notifier, at(1)).await.is_err());
    ledger.transact("mending", |t| t.execute_batch("DROP TRIGGER full")).await.unwrap();
    assert_eq!(outbox.deliver_due(&notifier, at(2)).await.unwrap(), DeliveryReport::default());
    assert_eq!(*notifier.delivered.lock().unwrap(), ["a"]);
    assert_eq!(ledger.alerts(Default::default()).await.unwrap()[0].state, OutboxState::Delivered);
}
