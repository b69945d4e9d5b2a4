//! Alerts and silences as an administrator sees them: the `delayd` command and the
//! API, against a running daemon.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(unreachable_pub, dead_code, reason = "helpers are shared by inclusion")]

use delayd_testkit::receiver;
use delayd_testkit::site;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;

use delayd_core::ports::Severity;
use delayd_ledger::{Ledger, NewAlert};
use receiver::Receiver;
use serde_json::Value;
use site::{DatalessDaemon, text};
use tempfile::TempDir;

/// A daemon whose administrators are on its machine.
fn daemon(sections: &str) -> DatalessDaemon {
    DatalessDaemon::new("loopback_role = \"operator\"", &format!("[ingestion]\ninterval_secs = 1\n{sections}"))
}

/// The body of what the daemon's endpoint answers.
fn get(daemon: &DatalessDaemon, path: &str) -> String {
    let mut stream = std::net::TcpStream::connect(daemon.address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
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
    let id = ledger.transact_blocking("telling", {
        let alert = NewAlert {
            at: "2013-07-01T12:00:00Z".parse().unwrap(),
            severity: Severity::Warning,
            dedup_key: key.to_owned(),
            title: "Drift: model_v1 sees other data".into(),
            body: "wind_speed".into(),
        };
        move |tx| delayd_ledger::tx::enqueue_alert(tx, &alert)
    });
    id.unwrap();
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
async fn a_check_tells_of_every_channel_and_template() {
    let receiver = Receiver::start().await;
    tokio::task::spawn_blocking(move || check(&receiver)).await.unwrap();
}

fn check(receiver: &Receiver) {
    let templates = TempDir::new().unwrap();
    fs::write(templates.path().join("mail.txt"), "{{ alerts.titel }}").unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
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
fn wrong_notification_settings_are_told_together_by_key() {
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
