//! Alerts and silences as an administrator sees them: the `delayd` command and the
//! API, against a running daemon.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use delayd::notify::{DeliveryPolicy, DeliveryReport, Outbox};
use delayd_core::error::PortError;
use delayd_core::ports::{ChannelKind, Endpoint, Notice, Notifier, Severity, Undelivered};
use delayd_ledger::{Ledger, NewAlert, OutboxState, Page};
use delayd_outside::Channels;
use delayd_outside::local::LogNotifier;
use delayd_testkit::contracts::flaky_proxy::{FlakyProxy, Mood};
use delayd_testkit::receiver::{Receiver, url_at};
use delayd_testkit::records;
use delayd_testkit::site::{DatalessDaemon, text};
use delayd_testkit::tools;
use serde_json::Value;
use tempfile::TempDir;

use crate::notification_world::{Exim, Flag, mail_by, slack_at};

/// A daemon whose administrators are on its machine.
fn daemon(sections: &str) -> DatalessDaemon {
    DatalessDaemon::new("loopback_role = \"operator\"", &format!("[ingestion]\ninterval_secs = 1\n{sections}"))
}

/// The body of what the daemon's endpoint answers.
fn get(daemon: &DatalessDaemon, path: &str) -> String {
    let (status, body) = tools::get(daemon.address, path).unwrap();
    assert_eq!(status, 200, "{path}: {body}");
    body
}

/// Waits for an alert whose key begins so to be in a state; answers its id.
fn wait_for(daemon: &DatalessDaemon, key: &str, state: &str) -> String {
    daemon.wait(&format!("{key} to be {state}"), || {
        let alerts: Vec<Value> = serde_json::from_str(&daemon.says(&["alerts", "--json"])).unwrap();
        let found = alerts
            .iter()
            .find(|alert| alert["alert"]["dedup_key"].as_str().unwrap().starts_with(key) && alert["state"] == state)?;
        Some(found["alert"]["id"].as_str().unwrap().to_owned())
    })
}

/// Alerts go to Slack, whose webhook a file names.
const SLACK: &str = "[notification]\nchannels = [\"log\", \"slack\"]\nattempts = 1\ninterval_secs = 1\n\
                     group_window_secs = 0\n[notification.slack]\nwebhook_url = \"file:{place}/hook\"\n";

fn enqueue(state: &Path, key: &str) {
    let ledger = Ledger::open(&state.join("ledger.sqlite")).unwrap();
    let at = "2013-07-01T12:00:00Z".parse().unwrap();
    let (title, body) = ("Drift: model_v1 sees other data".to_owned(), "wind_speed".to_owned());
    let alert = NewAlert { title, body, ..records::alert(key, Severity::Warning, at) };
    ledger.blocking().enqueue_alert(alert).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_administrator_sees_retries_and_silences_alerts() {
    let receiver = Receiver::start().await;
    tokio::task::spawn_blocking(move || administrate(&receiver)).await.unwrap();
}

fn administrate(receiver: &Receiver) {
    let mut daemon = daemon(SLACK);
    let hook = daemon.place.path().join("hook");
    fs::write(&hook, format!("http://{}/services/gone/s3cret-hook", receiver.address)).unwrap();
    enqueue(&daemon.state(), "drift/model_v1");
    daemon.start();

    let silence = daemon.says(&["silence", "timer/", "--for", "2h", "--why", "no data yet", "--by", "ops"]);
    assert!(silence.starts_with("silence_1: alerts under `timer/` are not told until "), "{silence}");
    assert_eq!(wait_for(&daemon, "drift/", "dead"), "alert_1");
    let shown = daemon.says(&["alerts", "alert_1"]);
    for part in ["Drift: model_v1 sees other data", "wind_speed", "key drift/model_v1", "no_service", "delivered"] {
        assert!(shown.contains(part), "{part} is missing in {shown}");
    }
    assert!(!shown.contains("s3cret"), "{shown}");
    wait_for(&daemon, "undeliverable/slack/", "delivered");
    assert!(get(&daemon, "/metrics").contains("delayd_undelivered_alerts{channel=\"slack\",state=\"dead\"} 1"));
    let api: Value = serde_json::from_str(&get(&daemon, "/api/v1/alerts/alert_1")).unwrap();
    assert_eq!(api["deliveries"][1]["state"], "dead", "{api}");
    assert!(!api.to_string().contains("s3cret"), "{api}");

    fs::write(&hook, receiver.url()).unwrap();
    assert_eq!(daemon.says(&["alerts", "--retry", "alert_1"]).trim(), "1 deliveries are tried again");
    wait_for(&daemon, "drift/", "delivered");
    assert!(receiver.messages().iter().any(|message| message.json().to_string().contains("model_v1 sees other data")));
    let again = daemon.run(&["alerts", "--retry", "alert_1"]);
    assert_eq!(again.status.code(), Some(5), "{}", text(&again.stderr));
    assert_eq!(daemon.run(&["alerts", "--retry", "alert_999"]).status.code(), Some(4));

    let silenced = wait_for(&daemon, "timer/ingestion/", "silenced");
    let told = daemon.says(&["silences"]);
    assert!(told.contains("timer/") && told.contains("no data yet") && told.contains("ops"), "{told}");
    let refused = daemon.run(&["alerts", "--retry", &silenced]);
    assert!(text(&refused.stderr).contains("silence_1"), "{}", text(&refused.stderr));
    daemon.says(&["silences", "--end", "silence_1", "--by", "boss"]);
    assert!(daemon.says(&["silences"]).contains("by boss"));
    daemon.says(&["alerts", "--retry", &silenced]);
    wait_for(&daemon, "timer/ingestion/", "delivered");
    // Too long a time is seen before anybody is asked.
    for (wrong, code) in [(["silence", "", "--for", "2h"], 5), (["silence", "drift/", "--for", "99d"], 2)] {
        assert_eq!(daemon.run(&wrong).status.code(), Some(code), "{wrong:?}");
    }

    daemon.running = None;
    assert!(daemon.says(&["alerts"]).contains("alert_1"), "the ledger answers without a daemon");
    assert_eq!(daemon.run(&["silence", "drift/", "--for", "2h"]).status.code(), Some(3));
    let log = fs::read_to_string(daemon.log()).unwrap();
    assert!(log.contains("alert not delivered and given up") && !log.contains("s3cret"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_reports_every_channel_and_template() {
    let receiver = Receiver::start().await;
    tokio::task::spawn_blocking(move || check(&receiver)).await.unwrap();
}

fn check(receiver: &Receiver) {
    let templates = TempDir::new().unwrap();
    fs::write(templates.path().join("mail.txt"), "{{ alerts.titel }}").unwrap();
    let nobody = tools::free_address();
    let daemon = daemon(&format!(
        "[notification]\nchannels = [\"log\", \"slack\", \"mail\"]\ntemplates_dir = \"{}\"\n\
         [notification.slack]\nwebhook_url = \"{}\"\n\
         [notification.mail]\nserver = \"127.0.0.1\"\nport = {}\nfrom = \"d@example.org\"\nto = [\"ops@example.org\"]\n",
        templates.path().display(),
        receiver.url(),
        nobody.port()
    ));
    let output = daemon.run(&["check"]);
    let told = text(&output.stderr);
    let line = |what: &str| told.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("{what}: {told}"));
    assert!(line("alerts: log").starts_with("ok"), "{told}");
    assert!(line("alerts: slack").starts_with("ok") && line("alerts: slack").contains("no_text"), "{told}");
    assert!(line("alerts: mail").starts_with("FAIL") && line("alerts: mail").contains("connecting"), "{told}");
    assert!(line("alert templates").starts_with("FAIL") && line("alert templates").contains("mail.txt"), "{told}");
    assert!(!told.contains("s3cret"), "{told}");
}

#[test]
fn wrong_notification_settings_are_reported_together_by_key() {
    let daemon = daemon(
        "[notification]\nchannels = [\"mail\"]\n[[notification.routes]]\nchannels = [\"slack\"]\n\
         [notification.quiet_hours]\ntime_zone = \"Mars\"\n[notification.slack]\nwebhook_url = \"\"\n",
    );
    let output = daemon.run(&["alerts"]);
    assert_eq!(output.status.code(), Some(2));
    let told = text(&output.stderr);
    for key in ["routes[0].channels", "quiet_hours.time_zone", "mail.server", "mail.from", "mail.to"] {
        assert!(told.contains(&format!("notification.{key} is ")), "{key} is missing in {told}");
    }
    assert!(!told.contains("webhook_url"), "a channel that is off has no faults: {told}");
}

// ----------------------------------------------------------------
// The outbox with both channels, end to end.

fn at(secs: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_372_680_000 + secs, 0).unwrap()
}

async fn enqueue_stuck(ledger: &Ledger, key: &str) {
    let alert = records::alert(&format!("cycle/{key}"), Severity::Critical, at(0));
    ledger.enqueue_alert(alert).await.unwrap();
}

fn policy() -> DeliveryPolicy {
    DeliveryPolicy { initial_backoff: Duration::from_secs(10), ..DeliveryPolicy::default() }
}

async fn states(ledger: &Ledger) -> Vec<OutboxState> {
    ledger.alerts(Page::default()).await.unwrap().iter().map(|alert| alert.state).collect()
}

#[tokio::test]
async fn while_one_channel_is_down_the_other_delivers_and_afterwards_everybody_was_alerted_once() {
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
    enqueue_stuck(&ledger, "cycle_1").await;
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
    enqueue_stuck(&ledger, "cycle_2").await;
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
    enqueue_stuck(&ledger, "cycle_1").await;
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
    enqueue_stuck(&ledger, "cycle_2").await;
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
async fn a_channel_given_up_is_reported_by_the_other() {
    let Some(exim) = Exim::start("a_channel_given_up_is_reported_by_the_other") else { return };
    let receiver = Receiver::start().await;
    let settings = delayd_outside::cloud::MailSettings { to: vec!["nobody@example.org".into()], ..exim.settings() };
    let channels = Channels::new([
        (ChannelKind::Slack, Arc::new(slack_at(&receiver.url(), Path::new(""))) as Arc<dyn Notifier>),
        (ChannelKind::Mail, Arc::new(mail_by(&settings))),
    ]);
    let ledger = Ledger::in_memory().unwrap();
    let outbox = Outbox::new(ledger.clone(), policy());
    enqueue_stuck(&ledger, "cycle_1").await;
    outbox.deliver_due(&channels, at(0)).await.unwrap();
    outbox.deliver_due(&channels, at(1)).await.unwrap();
    let messages = receiver.messages();
    assert_eq!(messages.len(), 2);
    let told = messages[1].json().to_string();
    assert!(told.contains("mail:nobody@example.org cannot be delivered") && told.contains("no such user"), "{told}");
}
