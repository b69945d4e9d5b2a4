//! Alerts reach everybody they concern once, together where they belong together,
//! not at night, or are given up in the open.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc, Weekday};
use delayd::notify::Route;
use delayd::notify::quiet::{QuietHours, QuietPeriod};
use delayd::notify::{DeliveryPolicy, DeliveryReport, Outbox};
use delayd_core::clock::{Clock, ReplayClock};
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ids::AlertId;
use delayd_core::ports::{ChannelKind, Endpoint, Notice, NoticeKind, Notifier, Severity, Undelivered};
use delayd_ledger::{
    AuditEntry, DeliveryState, Ledger, NewAlert, NewSilence, OutboxAlert, OutboxState, Page, UndeliveredCount,
};
use delayd_testkit::records;

fn at(secs: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_372_680_000 + secs, 0).unwrap()
}

/// Channels that answer what they were told to, and deliver once they have nothing
/// left to say.
#[derive(Debug, Default)]
struct Scripted {
    failures: Mutex<BTreeMap<Endpoint, Vec<ErrorKind>>>,
    retry_after: Option<Duration>,
    hangs: Option<Endpoint>,
    endpoints: Vec<Endpoint>,
    told: Mutex<Vec<(Endpoint, Notice)>>,
}

impl Scripted {
    fn with(endpoints: &[&str]) -> Self {
        Self { endpoints: endpoints.iter().map(|text| text.parse().unwrap()).collect(), ..Self::default() }
    }

    fn failing(self, endpoint: &str, failures: &[ErrorKind]) -> Self {
        self.failures.lock().unwrap().insert(endpoint.parse().unwrap(), failures.to_vec());
        self
    }

    /// What an endpoint was told: the alerts' numbers, message by message.
    fn told(&self, endpoint: &str) -> Vec<Vec<u64>> {
        let endpoint: Endpoint = endpoint.parse().unwrap();
        let told = self.told.lock().unwrap();
        let notices = told.iter().filter(|(to, _)| *to == endpoint).map(|(_, notice)| notice);
        notices.map(|notice| notice.alerts.iter().map(|alert| alert.id.0).collect()).collect()
    }

    fn last_kind(&self) -> NoticeKind {
        self.told.lock().unwrap().last().unwrap().1.kind
    }
}

#[async_trait]
impl Notifier for Scripted {
    fn endpoints(&self) -> Vec<Endpoint> {
        self.endpoints.clone()
    }
    async fn deliver(&self, endpoint: &Endpoint, notice: &Notice) -> Result<(), Undelivered> {
        if self.hangs.as_ref() == Some(endpoint) {
            std::future::pending::<()>().await;
        }
        let failure = self.failures.lock().unwrap().get_mut(endpoint).and_then(Vec::pop);
        if let Some(kind) = failure {
            return Err(Undelivered::from(PortError::new(kind, "posting", "no")).after(self.retry_after));
        }
        self.told.lock().unwrap().push((endpoint.clone(), notice.clone()));
        Ok(())
    }
    async fn probe(&self) -> Result<String, PortError> {
        Ok("scripted".to_owned())
    }
}

fn alert(key: &str, severity: Severity, secs: i64) -> NewAlert {
    records::alert(key, severity, at(secs))
}

async fn ledger_with(keys: &[&str]) -> Ledger {
    let ledger = Ledger::in_memory().unwrap();
    for key in keys {
        ledger.enqueue_alert(alert(key, Severity::Warning, 0)).await.unwrap();
    }
    ledger
}

fn policy() -> DeliveryPolicy {
    DeliveryPolicy {
        max_refusals: 3,
        outage_patience: Duration::from_secs(10_000),
        initial_backoff: Duration::from_secs(10),
        attempt_timeout: Duration::from_millis(50),
        ..DeliveryPolicy::default()
    }
}

async fn stored(ledger: &Ledger, id: u64) -> OutboxAlert {
    ledger.alert(AlertId(id)).await.unwrap().unwrap()
}

fn word(secs: i64) -> AuditEntry {
    let (actor, action, subject, detail) = ("ops".into(), "retry_alert".into(), "alerts".into(), "repaired".into());
    AuditEntry { at: at(secs), actor, action, subject, detail }
}

#[tokio::test]
async fn an_alert_is_delivered_after_failures_and_then_never_again() {
    let ledger = ledger_with(&["a"]).await;
    let notifier = Scripted::with(&["slack"]).failing("slack", &[ErrorKind::Unavailable, ErrorKind::Unavailable]);
    let outbox = Outbox::new(ledger.clone(), policy());
    assert_eq!(outbox.deliver_due(&notifier, at(0)).await.unwrap().failed, 1);
    assert_eq!(outbox.deliver_due(&notifier, at(9)).await.unwrap(), DeliveryReport::default(), "not due yet");
    assert_eq!(outbox.deliver_due(&notifier, at(10)).await.unwrap().failed, 1);
    assert_eq!(outbox.deliver_due(&notifier, at(30)).await.unwrap().delivered, 1);
    assert_eq!(outbox.deliver_due(&notifier, at(9999)).await.unwrap(), DeliveryReport::default());
    assert_eq!(notifier.told("slack"), [[1]]);
    assert_eq!(stored(&ledger, 1).await.state, OutboxState::Delivered);
}

#[tokio::test]
async fn a_dead_channel_delays_nobody_else_and_its_failure_is_reported_by_another() {
    let ledger = ledger_with(&["drift/model_v1"]).await;
    let notifier =
        Scripted::with(&["slack", "mail:a@x.org", "mail:b@x.org"]).failing("mail:b@x.org", &[ErrorKind::Denied; 3]);
    let outbox = Outbox::new(ledger.clone(), policy());
    outbox.deliver_due(&notifier, at(0)).await.unwrap();
    assert_eq!(notifier.told("slack"), [[1]]);
    assert_eq!(notifier.told("mail:a@x.org"), [[1]], "nor does one recipient delay another");
    assert_eq!(stored(&ledger, 1).await.state, OutboxState::Pending, "not done until each channel is");
    let waiting = UndeliveredCount { channel: ChannelKind::Mail, state: DeliveryState::Pending, count: 1 };
    assert_eq!(ledger.undelivered().await.unwrap(), [waiting]);
    for now in [100, 200] {
        outbox.deliver_due(&notifier, at(now)).await.unwrap();
    }
    let dead = stored(&ledger, 1).await;
    assert_eq!(dead.state, OutboxState::Dead);
    let by: Vec<_> = dead.deliveries.iter().map(|d| (d.endpoint.to_string(), d.state, d.attempts)).collect();
    let expected = [
        ("mail:a@x.org".to_owned(), DeliveryState::Delivered, 1),
        ("mail:b@x.org".to_owned(), DeliveryState::Dead, 3),
        ("slack".to_owned(), DeliveryState::Delivered, 1),
    ];
    assert_eq!(by, expected);
    assert_eq!(dead.deliveries[1].last_error.as_deref(), Some("posting: no"));
    outbox.deliver_due(&notifier, at(201)).await.unwrap();
    assert_eq!(notifier.told("slack"), [[1], [2]]);
    assert_eq!(notifier.told("mail:a@x.org"), [[1]], "mail is not told that mail fails");
    let complaint = stored(&ledger, 2).await.alert;
    assert!(complaint.title.starts_with("mail:b@x.org cannot be delivered"), "{}", complaint.title);
    assert!(complaint.body.contains("posting: no") && complaint.body.contains("--retry alert_1"), "{}", complaint.body);
}

#[tokio::test]
async fn a_complaint_that_nobody_takes_is_not_complained_of_again() {
    let ledger = ledger_with(&["a"]).await;
    let notifier = Scripted::with(&["slack", "mail:a@x.org"])
        .failing("slack", &[ErrorKind::Invalid; 9])
        .failing("mail:a@x.org", &[ErrorKind::Invalid; 9]);
    let outbox = Outbox::new(ledger.clone(), policy());
    for now in 0..5 {
        outbox.deliver_due(&notifier, at(now * 1000)).await.unwrap();
    }
    let states: Vec<_> = ledger.alerts(Page::default()).await.unwrap().iter().map(|alert| alert.state).collect();
    assert_eq!(states, [OutboxState::Dead; 3], "the alert, and one complaint for each channel");
}

#[tokio::test]
async fn what_was_given_up_can_be_revived_where_it_was_given_up() {
    let ledger = ledger_with(&["a", "b"]).await;
    let notifier = Scripted::with(&["log", "slack"]).failing("slack", &[ErrorKind::Invalid; 2]);
    let outbox = Outbox::new(ledger.clone(), policy());
    outbox.deliver_due(&notifier, at(0)).await.unwrap();
    assert_eq!(ledger.retry_alert(AlertId(1), word(5)).await.unwrap(), 1);
    assert_eq!(ledger.audit(Page::default()).await.unwrap().len(), 1);
    outbox.deliver_due(&notifier, at(5)).await.unwrap();
    assert_eq!(notifier.told("slack"), [[1]]);
    assert_eq!(notifier.told("log").iter().filter(|told| told.contains(&1)).count(), 1, "the log knows it already");
    assert_eq!(ledger.retry_dead_alerts(word(6)).await.unwrap(), 1, "the other one");
    outbox.deliver_due(&notifier, at(1000)).await.unwrap();
    assert_eq!(notifier.told("slack"), [[1], [2]]);
    let refused = ledger.retry_alert(AlertId(1), word(7)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
    assert_eq!(ledger.retry_alert(AlertId(99), word(7)).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_channel_that_hangs_ends_its_round_after_one_timeout() {
    let ledger = ledger_with(&["a/1", "b/1", "c/1"]).await;
    let hanging = Scripted { hangs: Some("slack".parse().unwrap()), ..Scripted::with(&["slack", "mail:a@x.org"]) };
    let outbox = Outbox::new(ledger.clone(), policy());
    let report = outbox.deliver_due(&hanging, at(0)).await.unwrap();
    assert_eq!((report.failed, report.channels_unavailable, report.delivered), (1, 1, 3));
    assert_eq!(outbox.deliver_due(&hanging, at(9)).await.unwrap(), DeliveryReport::default(), "the channel rests");
    let working = Scripted::with(&["slack", "mail:a@x.org"]);
    assert_eq!(outbox.deliver_due(&working, at(10)).await.unwrap().delivered, 3);
    assert_eq!(working.told("slack"), [[1], [2], [3]]);
}

#[tokio::test]
async fn the_other_sides_retry_after_is_respected() {
    let ledger = ledger_with(&["a"]).await;
    let mut notifier = Scripted::with(&["slack"]).failing("slack", &[ErrorKind::Unavailable]);
    notifier.retry_after = Some(Duration::from_secs(120));
    let outbox = Outbox::new(ledger.clone(), policy());
    outbox.deliver_due(&notifier, at(0)).await.unwrap();
    assert_eq!(stored(&ledger, 1).await.deliveries[0].next_attempt_at, at(120));
    assert_eq!(outbox.deliver_due(&notifier, at(119)).await.unwrap(), DeliveryReport::default());
    assert_eq!(outbox.deliver_due(&notifier, at(120)).await.unwrap().delivered, 1);
}

#[tokio::test]
async fn an_outage_is_waited_out_however_many_attempts_it_takes() {
    let ledger = ledger_with(&["a"]).await;
    let notifier = Scripted::with(&["slack"]).failing("slack", &[ErrorKind::Unavailable; 12]);
    let outbox = Outbox::new(ledger.clone(), policy());
    let mut now = 0;
    while notifier.told("slack").is_empty() && now < 10_000 {
        outbox.deliver_due(&notifier, at(now)).await.unwrap();
        now += 15;
    }
    let delivered = stored(&ledger, 1).await;
    assert_eq!((delivered.state, delivered.deliveries[0].attempts), (OutboxState::Delivered, 13));
}

#[tokio::test]
async fn a_delivery_that_cannot_be_marked_is_not_repeated() {
    let ledger = ledger_with(&["a"]).await;
    let notifier = Scripted::with(&["slack"]);
    let outbox = Outbox::new(ledger.clone(), policy());
    let forbid = "CREATE TRIGGER full BEFORE UPDATE ON deliveries WHEN NEW.state = 'delivered'
                  BEGIN SELECT raise(ABORT, 'full'); END";
    ledger.write("breaking", move |t| t.execute_batch(forbid)).await.unwrap();
    assert!(outbox.deliver_due(&notifier, at(0)).await.is_err());
    assert!(outbox.deliver_due(&notifier, at(1)).await.is_err());
    ledger.write("mending", |t| t.execute_batch("DROP TRIGGER full")).await.unwrap();
    assert_eq!(outbox.deliver_due(&notifier, at(2)).await.unwrap(), DeliveryReport::default());
    assert_eq!(notifier.told("slack"), [[1]]);
    assert_eq!(stored(&ledger, 1).await.state, OutboxState::Delivered);
}

#[tokio::test]
async fn routes_say_who_is_alerted() {
    let ledger = Ledger::in_memory().unwrap();
    for (key, severity) in [("a", Severity::Info), ("b", Severity::Warning), ("c", Severity::Critical)] {
        ledger.enqueue_alert(alert(key, severity, 0)).await.unwrap();
    }
    let route = |severity, channels: &[ChannelKind]| Route {
        severities: vec![severity],
        key_prefix: String::new(),
        channels: channels.to_vec(),
    };
    let routes = vec![
        route(Severity::Critical, &[ChannelKind::Slack, ChannelKind::Mail]),
        route(Severity::Warning, &[ChannelKind::Slack]),
        route(Severity::Info, &[ChannelKind::Log]),
    ];
    let notifier = Scripted::with(&["log", "slack", "mail:a@x.org"]);
    let outbox = Outbox::new(ledger.clone(), DeliveryPolicy { routes, ..policy() });
    outbox.deliver_due(&notifier, at(0)).await.unwrap();
    assert_eq!(notifier.told("log"), [[1]]);
    assert_eq!(notifier.told("slack"), [[3], [2]], "the critical one first");
    assert_eq!(notifier.told("mail:a@x.org"), [[3]]);
}

#[tokio::test]
async fn what_waits_for_a_channel_that_is_switched_off_is_routed_again() {
    let ledger = ledger_with(&["a", "b"]).await;
    let slack = Scripted::with(&["slack"]).failing("slack", &[ErrorKind::Unavailable]);
    Outbox::new(ledger.clone(), policy()).deliver_due(&slack, at(0)).await.unwrap();
    let mail = Scripted::with(&["mail:a@x.org"]);
    Outbox::new(ledger.clone(), policy()).deliver_due(&mail, at(1)).await.unwrap();
    assert_eq!(mail.told("mail:a@x.org"), [[1], [2]]);
    let endpoints: Vec<_> = stored(&ledger, 1).await.deliveries.iter().map(|d| d.endpoint.to_string()).collect();
    assert_eq!(endpoints, ["mail:a@x.org"]);
}

#[tokio::test]
async fn a_storm_of_one_topic_is_two_messages_and_the_log_hears_each() {
    let ledger = ledger_with(&["outage/1"]).await;
    let notifier = Scripted::with(&["log", "slack"]);
    let outbox = Outbox::new(ledger.clone(), policy());
    outbox.deliver_due(&notifier, at(0)).await.unwrap();
    for n in 2..=5 {
        ledger.enqueue_alert(alert(&format!("outage/{n}"), Severity::Warning, n)).await.unwrap();
        outbox.deliver_due(&notifier, at(n)).await.unwrap();
    }
    ledger.enqueue_alert(alert("cycle/9", Severity::Info, 9)).await.unwrap();
    outbox.deliver_due(&notifier, at(9)).await.unwrap();
    assert_eq!(notifier.told("slack"), vec![vec![1], vec![6]], "another topic does not wait");
    outbox.deliver_due(&notifier, at(300)).await.unwrap();
    assert_eq!(notifier.told("slack"), vec![vec![1], vec![6], vec![2, 3, 4, 5]]);
    assert_eq!(notifier.last_kind(), NoticeKind::Group);
    assert_eq!(notifier.told("log"), [[1], [2], [3], [4], [5], [6]]);
}

#[tokio::test]
async fn a_message_that_is_tried_again_holds_the_same_alerts() {
    let ledger = ledger_with(&["outage/1", "outage/2"]).await;
    let notifier = Scripted::with(&["slack"]).failing("slack", &[ErrorKind::Internal]);
    let outbox = Outbox::new(ledger.clone(), policy());
    outbox.deliver_due(&notifier, at(0)).await.unwrap();
    ledger.enqueue_alert(alert("outage/3", Severity::Warning, 5)).await.unwrap();
    outbox.deliver_due(&notifier, at(10)).await.unwrap();
    assert_eq!(notifier.told("slack"), vec![vec![1, 2], vec![3]]);
}

#[tokio::test]
async fn at_night_only_the_critical_is_sent_and_the_rest_in_the_morning_as_one() {
    // Noon in UTC; five in the morning in Los Angeles.
    let clock: Arc<ReplayClock> = Arc::new(ReplayClock::starting_at(at(0)));
    let nights = QuietPeriod { days: vec![Weekday::Sun, Weekday::Mon], from: "22:00".into(), until: "07:00".into() };
    let quiet = QuietHours { time_zone: "America/Los_Angeles".into(), periods: vec![nights] }.schedule().unwrap();
    let ledger = ledger_with(&["drift/1", "cycle/1"]).await;
    ledger.enqueue_alert(alert("cycle/2", Severity::Critical, 0)).await.unwrap();
    let notifier = Scripted::with(&["log", "slack"]);
    let outbox = Outbox::new(ledger.clone(), DeliveryPolicy { quiet, ..policy() });
    outbox.deliver_due(&notifier, clock.now()).await.unwrap();
    assert_eq!(notifier.told("slack"), [[2, 3]], "it takes along what waits of its topic");
    assert_eq!(notifier.told("log").concat().len(), 3, "the log is never quiet");
    ledger.enqueue_alert(alert("traffic/1", Severity::Info, 60)).await.unwrap();
    clock.advance_to(at(7199));
    outbox.deliver_due(&notifier, clock.now()).await.unwrap();
    assert_eq!(notifier.told("slack").len(), 1);
    clock.advance_to(at(7200));
    outbox.deliver_due(&notifier, clock.now()).await.unwrap();
    assert_eq!(notifier.told("slack"), vec![vec![2, 3], vec![1, 4]]);
    assert_eq!(notifier.last_kind(), NoticeKind::Digest);
}

#[tokio::test]
async fn a_quiet_weekend_is_not_an_outage() {
    let weekend = QuietPeriod { days: vec![Weekday::Mon], from: "00:00".into(), until: "24:00".into() };
    let quiet = QuietHours { periods: vec![weekend], ..QuietHours::default() }.schedule().unwrap();
    let ledger = ledger_with(&["drift/1"]).await;
    let notifier = Scripted::with(&["slack"]).failing("slack", &[ErrorKind::Unavailable]);
    let patience = Duration::from_secs(3600);
    let outbox = Outbox::new(ledger.clone(), DeliveryPolicy { quiet, outage_patience: patience, ..policy() });
    outbox.deliver_due(&notifier, at(0)).await.unwrap();
    let midnight = 12 * 3600;
    assert_eq!(outbox.deliver_due(&notifier, at(midnight)).await.unwrap().failed, 1, "not given up");
    assert_eq!(outbox.deliver_due(&notifier, at(midnight + 10)).await.unwrap().delivered, 1);
}

#[tokio::test]
async fn an_endpoint_gets_so_many_messages_a_minute_and_the_rest_as_one() {
    let ledger = ledger_with(&["a/1", "b/1", "c/1", "d/1"]).await;
    let notifier = Scripted::with(&["slack"]);
    let limit = BTreeMap::from([(ChannelKind::Slack, 2)]);
    let outbox = Outbox::new(ledger.clone(), DeliveryPolicy { messages_per_minute: limit, ..policy() });
    outbox.deliver_due(&notifier, at(0)).await.unwrap();
    assert_eq!(notifier.told("slack"), [[1], [2]]);
    outbox.deliver_due(&notifier, at(59)).await.unwrap();
    assert_eq!(notifier.told("slack").len(), 2);
    outbox.deliver_due(&notifier, at(60)).await.unwrap();
    assert_eq!(notifier.told("slack"), vec![vec![1], vec![2], vec![3, 4]]);
}

#[tokio::test]
async fn what_is_silenced_stays_on_record_and_is_not_sent() {
    let ledger = ledger_with(&["drift/1", "cycle/1"]).await;
    let begin = |prefix: &str, until: i64| NewSilence {
        prefix: prefix.to_owned(),
        begins: at(0),
        until: at(until),
        by: "ops".into(),
        why: "known".into(),
    };
    let silence = ledger.begin_silence(begin("drift/", 3600)).await.unwrap();
    ledger.begin_silence(begin("Drift", 3600)).await.unwrap();
    let notifier = Scripted::with(&["slack"]);
    let outbox = Outbox::new(ledger.clone(), policy());
    let report = outbox.deliver_due(&notifier, at(1)).await.unwrap();
    assert_eq!((report.silenced, report.delivered), (1, 1));
    assert_eq!(notifier.told("slack"), [[2]]);
    let silenced = stored(&ledger, 1).await;
    assert_eq!((silenced.state, silenced.silence), (OutboxState::Silenced, Some(silence.id)));
    let refused = ledger.retry_alert(AlertId(1), word(2)).await.unwrap_err();
    assert!(refused.to_string().contains(&silence.id.to_string()), "{refused}");
    let ended = ledger.end_silence(silence.id, word(10)).await.unwrap();
    assert_eq!((ended.ended_at, ended.is_active(at(11))), (Some(at(10)), false));
    assert_eq!(ledger.end_silence(silence.id, word(11)).await.unwrap_err().kind(), ErrorKind::Conflict);
    ledger.enqueue_alert(alert("drift/2", Severity::Warning, 12)).await.unwrap();
    outbox.deliver_due(&notifier, at(12)).await.unwrap();
    assert_eq!(notifier.told("slack"), [[2], [3]], "what was silenced does not come after the silence");
    ledger.retry_alert(AlertId(1), word(400)).await.unwrap();
    outbox.deliver_due(&notifier, at(400)).await.unwrap();
    assert_eq!(notifier.told("slack"), [[2], [3], [1]], "unless somebody asks for it");
}

#[tokio::test]
async fn a_silence_also_stops_what_is_tried_already() {
    let ledger = ledger_with(&["outage/1"]).await;
    let notifier = Scripted::with(&["log", "slack"]).failing("slack", &[ErrorKind::Unavailable; 9]);
    let outbox = Outbox::new(ledger.clone(), policy());
    outbox.deliver_due(&notifier, at(0)).await.unwrap();
    let (prefix, by, why) = ("outage/".to_owned(), "ops".to_owned(), String::new());
    ledger.begin_silence(NewSilence { prefix, begins: at(1), until: at(9999), by, why }).await.unwrap();
    outbox.deliver_due(&notifier, at(20)).await.unwrap();
    let alert = stored(&ledger, 1).await;
    let states: Vec<_> = alert.deliveries.iter().map(|delivery| delivery.state).collect();
    assert_eq!(states, [DeliveryState::Delivered, DeliveryState::Silenced]);
    assert_eq!(alert.state, OutboxState::Delivered, "the log was told before");
}

#[tokio::test]
async fn a_ledger_of_the_version_before_keeps_its_alerts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.sqlite");
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute_batch(include_str!("../../crates/ledger/src/migrations/001.sql")).unwrap();
    old.execute_batch(
        "PRAGMA user_version = 1;
         INSERT INTO sequences (name, last) VALUES ('alert', 3);
         INSERT INTO outbox VALUES
             (1, 1372680000000000, 'info', 'cycle/cycle_1', 't', 'b', 'delivered', 2, 1, 1372680001000000, NULL),
             (2, 1372680000000000, 'warning', 'drift', 't', 'b', 'dead', 10, 1, NULL, 'no answer'),
             (3, 1372680000000000, 'critical', 'cycle/cycle_2', 't', 'b', 'pending', 4, 1, NULL, 'no answer');",
    )
    .unwrap();
    drop(old);
    let ledger = Ledger::open(&path).unwrap();
    let delivered = stored(&ledger, 1).await;
    assert_eq!((delivered.state, delivered.deliveries[0].delivered_at), (OutboxState::Delivered, Some(at(1))));
    let dead = stored(&ledger, 2).await;
    assert_eq!((dead.deliveries[0].state, dead.deliveries[0].attempts), (DeliveryState::Dead, 10));
    let notifier = Scripted::with(&["log", "slack"]);
    Outbox::new(ledger.clone(), policy()).deliver_due(&notifier, at(60)).await.unwrap();
    assert_eq!((notifier.told("slack"), notifier.told("log")), (vec![vec![3]], vec![vec![3]]));
    assert_eq!(ledger.enqueue_alert(alert("new", Severity::Info, 61)).await.unwrap(), AlertId(4));
}
