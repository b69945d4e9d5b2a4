//! Nothing that is told or kept ever holds a secret.

use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use delayd::config::Settings;
use delayd::stages::notify::{DeliveryPolicy, Outbox};
use delayd_core::ports::{ChannelKind, Notifier, Severity};
use delayd_core::secret::Secret;
use delayd_ledger::{Ledger, NewAlert, Page};
use delayd_outside::Channels;
use delayd_outside::cloud::{MailSettings, SlackSettings, WebhookNotifier, WebhookSettings};

use crate::notification_channels::exim::Exim;
use crate::notification_channels::support::{CapturedLog, mail_by, slack_at, templates};
use delayd_testkit::contracts::flaky_proxy::{FlakyProxy, Mood};
use delayd_testkit::receiver::{Receiver, url_at};

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
        let (dedup_key, title, body) = (format!("drift/{round}"), "t".to_owned(), "b".to_owned());
        let alert = NewAlert { at: now, severity: Severity::Critical, dedup_key, title, body };
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
