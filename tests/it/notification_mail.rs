//! Mail by a real server, good and bad.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use delayd::config::Settings;
use delayd::notify::{DeliveryPolicy, Outbox};
use delayd_core::error::{ErrorKind, chain};
use delayd_core::ports::{ChannelKind, Notifier, Severity, Undelivered};
use delayd_core::secret::Secret;
use delayd_ledger::{Ledger, Page};
use delayd_outside::Channels;
use delayd_outside::cloud::{MailSettings, SlackSettings, WebhookNotifier, WebhookSettings};
use delayd_testkit::contracts::flaky_proxy::{FlakyProxy, Mood};
use delayd_testkit::receiver::{Receiver, url_at};
use delayd_testkit::records;
use delayd_testkit::tools::CapturedLog;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::notification_world::{Exim, Flag, PASSWORD, group, mail_by, mail_to, notice, slack_at, templates};

/// Sends one mail to `ops`.
async fn send(settings: &MailSettings) -> Result<(), Undelivered> {
    mail_by(settings).deliver(&mail_to("ops@example.org"), &notice("Drift", "wind_speed")).await
}

#[tokio::test]
async fn a_mail_arrives_encrypted_with_both_parts_and_every_character() {
    let Some(exim) = Exim::start("a_mail_arrives_encrypted_with_both_parts_and_every_character") else { return };
    let settings =
        MailSettings { to: vec!["ops@example.org".into(), "Chefin Zoë <boss@example.org>".into()], ..exim.settings() };
    let mail = mail_by(&settings);
    let endpoints: Vec<String> = mail.endpoints().iter().map(ToString::to_string).collect();
    assert_eq!(endpoints, ["mail:ops@example.org", "mail:boss@example.org"]);
    let body = format!(
        "PSI of <wind_speed> & so on: Zürich 東京 ✈ model_v4\n.\nA line that begins with a dot above.\n{}",
        "x".repeat(2000)
    );
    mail.deliver(&mail_to("ops@example.org"), &notice("Drift: Zürich ✈ 東京", &body)).await.unwrap();
    let arrived = exim.mails("ops", 1).remove(0);
    assert_eq!(arrived.header("subject"), "[delayd] [warning] Drift: Zürich ✈ 東京");
    assert_eq!(arrived.header("to"), "ops@example.org, Chefin Zoë <boss@example.org>");
    assert_eq!(arrived.header("from"), "delayd <delayd@example.org>");
    assert_eq!(arrived.header("date"), "Mon, 01 Jul 2013 12:00:00 +0000");
    assert_eq!(arrived.header("auto-submitted"), "auto-generated");
    assert!(arrived.header("message-id").ends_with("@example.org>"), "{}", arrived.header("message-id"));
    let kinds: Vec<&str> = arrived.parts.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!((arrived.kind.as_str(), kinds), ("multipart/alternative", vec!["text/plain", "text/html"]));
    assert!(arrived.parts[0].1.replace("\r\n", "\n").contains(&body), "{}", arrived.parts[0].1);
    let html = &arrived.parts[1].1;
    assert!(html.contains("PSI of &lt;wind_speed&gt; &amp; so on: Zürich 東京 ✈"), "{html}");
    assert!(exim.log().contains("X=TLS1.3") && exim.log().contains("A=plain:delayd"), "{}", exim.log());
    assert!(exim.log().contains("H=(delayd.example.org)"), "{}", exim.log());
    assert!(exim.raw_mails("boss").is_empty(), "everybody is delivered to on their own");
}

#[tokio::test]
async fn implicit_tls_and_an_open_relay_on_this_machine_work_too() {
    let Some(exim) = Exim::start("implicit_tls_and_an_open_relay_on_this_machine_work_too") else { return };
    send(&exim.implicit()).await.unwrap();
    send(&exim.open_by(exim.smtp)).await.unwrap();
    exim.mails("ops", 2);
    let log = exim.log();
    assert!(
        log.contains("P=esmtpsa") && log.lines().any(|line| line.contains("<= ") && line.contains("P=esmtp S=")),
        "{log}"
    );
}

#[tokio::test]
async fn a_connection_is_used_again_until_it_breaks() {
    let Some(mut exim) = Exim::start("a_connection_is_used_again_until_it_breaks") else { return };
    let proxy = FlakyProxy::before(exim.smtp).await;
    let mail = mail_by(&exim.settings_by(proxy.address()));
    let to = mail_to("ops@example.org");
    mail.deliver(&to, &notice("one", "")).await.unwrap();
    mail.deliver(&to, &group()).await.unwrap();
    assert_eq!(proxy.connections(), 1);
    exim.mails("ops", 2);
    exim.stop();
    assert_eq!(mail.deliver(&to, &notice("two", "")).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(exim.restart(), "{}", exim.log());
    mail.deliver(&to, &notice("two", "")).await.unwrap();
    exim.mails("ops", 3);
}

#[tokio::test]
async fn a_wrong_password_is_denied_and_not_shown() {
    let Some(exim) = Exim::start("a_wrong_password_is_denied_and_not_shown") else { return };
    let settings = MailSettings { password: Secret::new("wr0ng-s3cret"), ..exim.settings() };
    let error = send(&settings).await.unwrap_err();
    let text = chain(&error);
    assert_eq!((error.kind(), error.is_channel_away()), (ErrorKind::Denied, true), "{text}");
    for part in ["mail to ops@example.org by 127.0.0.1:", "login", "535", "notification.mail.username"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    assert!(!text.contains("wr0ng"), "{text}");
    let missing = MailSettings { password: Secret::new("file:/nowhere/password"), ..exim.settings() };
    let error = send(&missing).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Denied && error.to_string().contains("/nowhere/password"), "{error}");
    assert!(exim.raw_mails("ops").is_empty());
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_named_and_nothing_is_sent() {
    let Some(exim) = Exim::start("a_certificate_that_is_not_trusted_is_named_and_nothing_is_sent") else { return };
    for settings in [exim.settings(), exim.implicit()] {
        let error = send(&MailSettings { ca_path: PathBuf::new(), ..settings }).await.unwrap_err();
        let text = chain(&error);
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{text}");
        assert!(text.contains("certificate") && text.contains("notification.mail.ca_path"), "{text}");
    }
    assert_eq!(exim.logged("A=plain"), 0, "the password was not given to a stranger");
}

#[tokio::test]
async fn without_starttls_nothing_is_sent() {
    let Some(exim) = Exim::start("without_starttls_nothing_is_sent") else { return };
    exim.set(Flag::Plain, true);
    exim.set(Flag::Open, true);
    let error = send(&exim.settings()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.to_string().contains("does not offer STARTTLS"), "{error}");
    assert!(exim.raw_mails("ops").is_empty());
}

#[tokio::test]
async fn one_refused_recipient_costs_the_others_nothing() {
    let Some(exim) = Exim::start("one_refused_recipient_costs_the_others_nothing") else { return };
    let to = ["nobody@example.org", "grey@example.org", "ops@example.org"].map(str::to_owned).to_vec();
    let mail = mail_by(&MailSettings { to, ..exim.settings() });
    exim.set(Flag::Greylisting, true);
    let refused = mail.deliver(&mail_to("nobody@example.org"), &group()).await.unwrap_err();
    assert_eq!((refused.kind(), refused.is_channel_away()), (ErrorKind::Invalid, false), "{refused}");
    assert!(refused.to_string().contains("550") && refused.to_string().contains("no such user"), "{refused}");
    let later = mail.deliver(&mail_to("grey@example.org"), &group()).await.unwrap_err();
    assert_eq!((later.kind(), later.is_channel_away()), (ErrorKind::Unavailable, false), "{later}");
    assert!(later.to_string().contains("451") && later.to_string().contains("greylisted"), "{later}");
    mail.deliver(&mail_to("ops@example.org"), &group()).await.unwrap();
    exim.set(Flag::Greylisting, false);
    mail.deliver(&mail_to("grey@example.org"), &group()).await.unwrap();
    let (ops, grey) = (exim.mails("ops", 1), exim.mails("grey", 1));
    assert_eq!(ops[0].header("message-id"), grey[0].header("message-id"));
}

#[tokio::test]
async fn a_server_that_is_unavailable_busy_or_slow_is_an_outage_and_ends() {
    let Some(exim) = Exim::start("a_server_that_is_unavailable_busy_or_slow_is_an_outage_and_ends") else { return };
    let proxy = FlakyProxy::before(exim.smtp).await;
    let settings = MailSettings { timeout_secs: 1, ..exim.settings_by(proxy.address()) };
    let slow = Mood::Slow(Duration::from_secs(30));
    let table = [
        (Mood::Down, ErrorKind::Unavailable),
        (slow, ErrorKind::Timeout),
        (Mood::CutAfter(10), ErrorKind::Unavailable),
    ];
    for (mood, kind) in table {
        proxy.set(mood);
        let error = send(&settings).await.unwrap_err();
        assert_eq!((error.kind(), error.is_channel_away()), (kind, true), "{mood:?}: {error}");
    }
    proxy.set(Mood::Pass);
    let settings = MailSettings { timeout_secs: 10, ..settings };
    exim.set(Flag::Busy, true);
    let error = send(&settings).await.unwrap_err();
    assert_eq!((error.kind(), error.is_channel_away()), (ErrorKind::Unavailable, true), "{error}");
    exim.set(Flag::Busy, false);
    exim.set(Flag::DeferData, true);
    let error = send(&settings).await.unwrap_err();
    assert_eq!((error.kind(), error.is_channel_away()), (ErrorKind::Unavailable, false), "{error}");
    exim.set(Flag::DeferData, false);
    send(&settings).await.unwrap();
    exim.mails("ops", 1);
}

/// A proxy that hangs up when the server is ready for the mail itself, so often.
async fn cutting_data(server: SocketAddr, times: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let left = Arc::new(AtomicUsize::new(times));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let left = left.clone();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(server).await.unwrap();
                let (mut from_client, mut to_client) = client.split();
                let (mut from_server, mut to_server) = server.split();
                let downward = async {
                    let mut part = [0_u8; 4096];
                    loop {
                        let read = from_server.read(&mut part).await.unwrap_or(0);
                        let ready = part[..read].starts_with(b"354");
                        if read == 0 || to_client.write_all(&part[..read]).await.is_err() {
                            return;
                        }
                        let cuts = |left: usize| left.checked_sub(1);
                        if ready && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, cuts).is_ok() {
                            return;
                        }
                    }
                };
                tokio::select! {
                    () = downward => {}
                    _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_connection_interrupted_within_the_mail_is_an_outage_and_the_mail_arrives_once() {
    let Some(exim) = Exim::start("a_connection_interrupted_within_the_mail_is_an_outage_and_the_mail_arrives_once")
    else {
        return;
    };
    let settings = exim.open_by(cutting_data(exim.smtp, 2).await);
    let mail = mail_by(&settings);
    for _ in 0..2 {
        let error = mail.deliver(&mail_to("ops@example.org"), &group()).await.unwrap_err();
        assert_eq!((error.kind(), error.is_channel_away()), (ErrorKind::Unavailable, true), "{error}");
    }
    mail.deliver(&mail_to("ops@example.org"), &group()).await.unwrap();
    exim.mails("ops", 1);
}

#[tokio::test]
async fn a_probe_logs_in_and_sends_nothing() {
    let Some(exim) = Exim::start("a_probe_logs_in_and_sends_nothing") else { return };
    let told = mail_by(&exim.settings()).probe().await.unwrap();
    for part in ["encrypted", "logged in as delayd", "ops@example.org"] {
        assert!(told.contains(part), "{part} is missing in {told}");
    }
    assert!(!told.contains(PASSWORD));
    assert!(mail_by(&exim.open_by(exim.smtp)).probe().await.unwrap().contains("not encrypted, without login"));
    let wrong = MailSettings { password: Secret::new("wr0ng"), ..exim.settings() };
    assert_eq!(mail_by(&wrong).probe().await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(exim.logged("<= "), 0, "no mail came: {}", exim.log());
}

// ----------------------------------------------------------------
// Nothing that is told or kept ever holds a secret.

const SECRETS: [&str; 4] = ["s3cret-hook", "s3cret-pa55", "s3cret-token", "s3cret-key"];

fn search(what: &str, text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{what} holds {secret}: {text}");
    }
    // As AUTH PLAIN and LOGIN send the password.
    for encoded in ["AGRlbGF5ZABzM2NyZXQtcGE1NQ", "czNjcmV0LXBhNTU"] {
        assert!(!text.contains(encoded), "{what} holds the encoded password: {text}");
    }
}

#[tokio::test]
async fn no_secret_reaches_a_log_an_error_the_ledger_or_an_answer() {
    let Some(exim) = Exim::start("no_secret_reaches_a_log_an_error_the_ledger_or_an_answer") else { return };
    let receiver = Receiver::start().await;
    let (to_slack, to_mail) = (FlakyProxy::before(receiver.address).await, FlakyProxy::before(exim.smtp).await);
    let log = CapturedLog::begin();
    let hook = WebhookSettings {
        url: Secret::new(url_at(to_slack.address())),
        bearer_token: Secret::new("s3cret-token"),
        signing_key: Secret::new("s3cret-key"),
        ..WebhookSettings::default()
    };
    let channels = Channels::new([
        (ChannelKind::Slack, Arc::new(slack_at(&url_at(to_slack.address()), Path::new(""))) as Arc<dyn Notifier>),
        (ChannelKind::Mail, Arc::new(mail_by(&exim.settings_by(to_mail.address())))),
        (ChannelKind::Webhook, Arc::new(WebhookNotifier::new(&hook, templates()).unwrap())),
    ]);
    search("Debug", &format!("{channels:?}"));
    let ledger = Ledger::in_memory().unwrap();
    let outbox = Outbox::new(ledger.clone(), DeliveryPolicy { max_refusals: 2, ..DeliveryPolicy::default() });
    let moods = [Mood::Down, Mood::Refuse(404), Mood::CutAfter(30), Mood::Refuse(500), Mood::Pass];
    for (round, mood) in moods.into_iter().enumerate() {
        to_slack.set(mood);
        to_mail.set(if mood == Mood::Pass { mood } else { Mood::CutAfter(200) });
        let now: DateTime<Utc> = DateTime::UNIX_EPOCH + chrono::Duration::hours(round as i64);
        let alert = records::alert(&format!("drift/{round}"), Severity::Critical, now);
        ledger.enqueue_alert(alert).await.unwrap();
        outbox.deliver_due(&channels, now).await.unwrap();
        match channels.probe().await {
            Ok(told) => search("a probe", &told),
            Err(error) => search("a probe's error", &format!("{error} {error:?}")),
        }
    }
    let alerts = ledger.alerts(Page::default()).await.unwrap();
    assert!(alerts.iter().any(|alert| alert.deliveries.iter().any(|delivery| delivery.last_error.is_some())));
    search("the ledger and the API", &serde_json::to_string(&alerts).unwrap());
    assert!(log.text().contains("alert not delivered") && log.text().contains("TRACE"), "the log was captured");
    search("the log", &log.text());
    exim.mails("ops", 5);
}

#[test]
fn the_printed_configuration_shows_where_a_secret_is_kept_or_nothing() {
    let mut settings = Settings::default();
    settings.notification.slack = SlackSettings {
        webhook_url: Secret::new("https://hooks.slack.com/services/s3cret-hook"),
        ..SlackSettings::default()
    };
    settings.notification.mail = MailSettings { password: Secret::new("s3cret-pa55"), ..MailSettings::default() };
    settings.notification.webhook = WebhookSettings {
        bearer_token: Secret::new("env:TOKEN"),
        signing_key: Secret::new("s3cret-key"),
        ..WebhookSettings::default()
    };
    let text = settings.to_toml().unwrap();
    search("the configuration", &text);
    search("Debug", &format!("{settings:?}"));
    assert!(text.contains("env:TOKEN") && text.contains("***"), "{text}");
}
