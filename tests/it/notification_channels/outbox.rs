//! The outbox with both channels, end to end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use delayd::stages::notify::{DeliveryPolicy, DeliveryReport, Outbox};
use delayd_core::error::PortError;
use delayd_core::ports::{ChannelKind, Endpoint, Notice, Notifier, Severity, Undelivered};
use delayd_ledger::{Ledger, NewAlert, OutboxState, Page};
use delayd_outside::Channels;
use delayd_outside::local::LogNotifier;

use crate::notification_channels::exim::{Exim, Flag};
use crate::notification_channels::support::{mail_by, slack_at};
use delayd_testkit::contracts::flaky_proxy::{FlakyProxy, Mood};
use delayd_testkit::receiver::{Receiver, url_at};

fn at(secs: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_372_680_000 + secs, 0).unwrap()
}

async fn enqueue(ledger: &Ledger, key: &str) {
    let (severity, title, body) = (Severity::Critical, format!("{key} is stuck"), "An undo did not finish.".to_owned());
    let alert = NewAlert { at: at(0), severity, dedup_key: format!("cycle/{key}"), title, body };
    ledger.enqueue_alert(alert).await.unwrap();
}

fn policy() -> DeliveryPolicy {
    DeliveryPolicy { initial_backoff: Duration::from_secs(10), ..DeliveryPolicy::default() }
}

async fn states(ledger: &Ledger) -> Vec<OutboxState> {
    ledger.alerts(Page::default()).await.unwrap().iter().map(|alert| alert.state).collect()
}

#[tokio::test]
async fn while_one_channel_is_down_the_other_delivers_and_afterwards_everybody_was_told_once() {
    let Some(exim) = Exim::start("while_one_channel_is_down_the_other_delivers") else { return };
    let receiver = Receiver::start().await;
    let to_slack = FlakyProxy::before(receiver.address).await;
    let to_mail = FlakyProxy::before(exim.smtp).await;
    let mut settings = exim.settings_by(to_mail.address());
    settings.to = vec!["ops@example.org".into(), "grey@example.org".into()];
    let channels = Channels::new([
        (ChannelKind::Log, Arc::new(LogNotifier) as Arc<dyn Notifier>),
        (ChannelKind::Slack, Arc::new(slack_at(&url_at(to_slack.address()), Path::new("")))),
        (ChannelKind::Mail, Arc::new(mail_by(&settings))),
    ]);
    let ledger = Ledger::in_memory().unwrap();
    let outbox = Outbox::new(ledger.clone(), policy());
    enqueue(&ledger, "cycle_1").await;
    to_slack.set(Mood::Down);
    exim.set(Flag::Greylisting, true);
    let report = outbox.deliver_due(&channels, at(0)).await.unwrap();
    assert_eq!(
        (report.delivered, report.failed, report.channels_unavailable),
        (2, 2, 1),
        "log and ops; slack, greylisted"
    );
    exim.mails("ops", 1);
    exim.set(Flag::Greylisting, false);
    to_slack.set(Mood::Pass);
    to_mail.set(Mood::Down);
    enqueue(&ledger, "cycle_2").await;
    outbox.deliver_due(&channels, at(10)).await.unwrap();
    assert_eq!(receiver.messages().len(), 2, "slack is back");
    to_mail.set(Mood::Pass);
    for now in [20, 40, 80, 160] {
        outbox.deliver_due(&channels, at(now)).await.unwrap();
    }
    assert_eq!(states(&ledger).await, [OutboxState::Delivered; 2]);
    assert_eq!(outbox.deliver_due(&channels, at(9999)).await.unwrap(), DeliveryReport::default());
    assert_eq!(receiver.messages().len(), 2);
    exim.mails("ops", 2);
    exim.mails("grey", 2);
}

/// Delivers, says so, and never comes back: the process dies before it can note it.
#[derive(Debug)]
struct DiesAfterDelivery {
    inner: Arc<dyn Notifier>,
    delivered: tokio::sync::Notify,
}

#[async_trait]
impl Notifier for DiesAfterDelivery {
    fn endpoints(&self) -> Vec<Endpoint> {
        self.inner.endpoints()
    }
    async fn deliver(&self, endpoint: &Endpoint, notice: &Notice) -> Result<(), Undelivered> {
        self.inner.deliver(endpoint, notice).await?;
        self.delivered.notify_one();
        std::future::pending().await
    }
    async fn probe(&self) -> Result<String, PortError> {
        self.inner.probe().await
    }
}

#[tokio::test]
async fn a_death_between_delivery_and_its_mark_repeats_the_same_mail() {
    let Some(exim) = Exim::start("a_death_between_delivery_and_its_mark_repeats_the_same_mail") else { return };
    let mail: Arc<dyn Notifier> = Arc::new(mail_by(&exim.settings()));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.sqlite");
    let ledger = Ledger::open(&path).unwrap();
    enqueue(&ledger, "cycle_1").await;
    let dying = DiesAfterDelivery { inner: mail.clone(), delivered: tokio::sync::Notify::new() };
    let outbox = Outbox::new(ledger.clone(), policy());
    tokio::select! {
        round = outbox.deliver_due(&dying, at(0)) => panic!("it came back: {round:?}"),
        () = dying.delivered.notified() => {}
    }
    drop((outbox, ledger));
    let ledger = Ledger::open(&path).unwrap();
    assert_eq!(states(&ledger).await, [OutboxState::Pending]);
    // What came meanwhile does not change the mail that is repeated.
    enqueue(&ledger, "cycle_2").await;
    let outbox = Outbox::new(ledger.clone(), policy());
    outbox.deliver_due(mail.as_ref(), at(1)).await.unwrap();
    outbox.deliver_due(mail.as_ref(), at(2)).await.unwrap();
    assert_eq!(states(&ledger).await, [OutboxState::Delivered; 2]);
    let mails = exim.mails("ops", 3);
    let mut ids: Vec<&str> = mails.iter().map(|mail| mail.header("message-id")).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 2, "the repeated mail is recognised as such");
}

#[tokio::test]
async fn a_channel_given_up_is_told_by_the_other() {
    let Some(exim) = Exim::start("a_channel_given_up_is_told_by_the_other") else { return };
    let receiver = Receiver::start().await;
    let settings = delayd_outside::cloud::MailSettings { to: vec!["nobody@example.org".into()], ..exim.settings() };
    let channels = Channels::new([
        (ChannelKind::Slack, Arc::new(slack_at(&receiver.url(), Path::new(""))) as Arc<dyn Notifier>),
        (ChannelKind::Mail, Arc::new(mail_by(&settings))),
    ]);
    let ledger = Ledger::in_memory().unwrap();
    let outbox = Outbox::new(ledger.clone(), policy());
    enqueue(&ledger, "cycle_1").await;
    outbox.deliver_due(&channels, at(0)).await.unwrap();
    outbox.deliver_due(&channels, at(1)).await.unwrap();
    let messages = receiver.messages();
    assert_eq!(messages.len(), 2);
    let told = messages[1].json().to_string();
    assert!(told.contains("mail:nobody@example.org cannot be delivered") && told.contains("no such user"), "{told}");
}
