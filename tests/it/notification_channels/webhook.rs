//! The generic webhook.

use std::path::PathBuf;
use std::time::Duration;

use delayd_core::error::{ErrorKind, chain};
use delayd_core::http_client::HttpClientSettings;
use delayd_core::ports::{ChannelKind, Endpoint, Notifier};
use delayd_core::secret::Secret;
use delayd_outside::cloud::{WebhookNotifier, WebhookSettings};
use serde_json::json;

use crate::notification_channels::support::{group, templates};
use delayd_testkit::contracts::flaky_proxy::{FlakyProxy, Mood};
use delayd_testkit::receiver::{Receiver, url_at};

fn webhook(url: &str) -> WebhookNotifier {
    let http = HttpClientSettings { connect_timeout_secs: 2, read_timeout_secs: 1, ca_path: PathBuf::new() };
    let settings = WebhookSettings {
        url: Secret::new(url),
        bearer_token: Secret::new("s3cret-token"),
        signing_key: Secret::new("s3cret-key"),
        http,
        ..WebhookSettings::default()
    };
    WebhookNotifier::new(&settings, templates()).unwrap()
}

fn endpoint() -> Endpoint {
    Endpoint::of(ChannelKind::Webhook)
}

#[tokio::test]
async fn a_notice_arrives_whole_with_its_token_and_its_signature() {
    let receiver = Receiver::start().await;
    receiver.plan(202, "");
    webhook(&receiver.url()).deliver(&endpoint(), &group()).await.unwrap();
    let request = receiver.messages().remove(0);
    let body = request.json();
    assert_eq!((&body["kind"], &body["severity"], &body["version"]), (&json!("group"), &json!("warning"), &json!(1)));
    assert_eq!(body["alerts"][1]["id"], "alert_5");
    assert_eq!(body["id"].as_str(), request.header("idempotency-key"));
    assert_eq!(request.header("authorization"), Some("Bearer s3cret-token"));
    let signature = request.header("x-delayd-signature-256").unwrap();
    assert!(signature.starts_with("sha256=") && signature.len() == 7 + 64, "{signature}");
}

#[tokio::test]
async fn refusals_and_outages_have_their_kinds_and_end() {
    let receiver = Receiver::start().await;
    let proxy = FlakyProxy::before(receiver.address).await;
    let hook = webhook(&url_at(proxy.address()));
    let table = [
        (Mood::Down, ErrorKind::Unavailable, true),
        (Mood::Refuse(401), ErrorKind::Denied, true),
        (Mood::Refuse(404), ErrorKind::NotFound, true),
        (Mood::Refuse(422), ErrorKind::Invalid, false),
        (Mood::Refuse(500), ErrorKind::Unavailable, true),
        (Mood::Slow(Duration::from_secs(30)), ErrorKind::Timeout, true),
    ];
    for (mood, kind, away) in table {
        proxy.set(mood);
        let error = hook.deliver(&endpoint(), &group()).await.unwrap_err();
        assert_eq!((error.kind(), error.is_channel_away()), (kind, away), "{mood:?}: {error}");
        assert!(!chain(&error).contains("s3cret"), "{error}");
    }
    proxy.set(Mood::Pass);
    receiver.plan(200, "");
    hook.deliver(&endpoint(), &group()).await.unwrap();
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_no_success() {
    let (receiver, elsewhere) = (Receiver::start().await, Receiver::start().await);
    for status in [301, 302, 307] {
        receiver.plan_with(status, "", &format!("Location: {}", elsewhere.url()));
        let error = webhook(&receiver.url()).deliver(&endpoint(), &group()).await.unwrap_err();
        assert!(error.to_string().contains("redirects are not followed"), "{error}");
    }
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn a_probe_posts_nothing() {
    let receiver = Receiver::start().await;
    let hook = webhook(&receiver.url());
    receiver.plan(405, "");
    assert!(hook.probe().await.unwrap().contains("405"));
    receiver.plan(401, "who are you");
    assert_eq!(hook.probe().await.unwrap_err().kind(), ErrorKind::Denied);
    assert!(receiver.requests().iter().all(|request| request.method == "OPTIONS"));
}
