//! Slack's webhook, good and bad.

use std::path::{Path, PathBuf};
use std::time::Duration;

use delayd_core::error::{ErrorKind, chain};
use delayd_core::http_client::HttpClientSettings;
use delayd_core::ports::{ChannelKind, Endpoint, Notifier, Undelivered};
use delayd_core::secret::Secret;
use delayd_outside::cloud::{WebhookNotifier, WebhookSettings};
use delayd_testkit::contracts::flaky_proxy::{FlakyProxy, Mood, TlsFront};
use delayd_testkit::receiver::{Receiver, SECRET_PATH, url_at};
use serde_json::json;

use crate::notification_world::{group, notice, slack_at, slack_endpoint, templates};

async fn deliver(url: &str) -> Result<(), Undelivered> {
    slack_at(url, Path::new("")).deliver(&slack_endpoint(), &notice("Drift", "wind_speed")).await
}

#[tokio::test]
async fn a_message_arrives_with_blocks_and_escaped_text() {
    let receiver = Receiver::start().await;
    let slack = slack_at(&receiver.url(), Path::new(""));
    let body = "PSI of <wind_speed> & more: see model_v4, Zürich";
    slack.deliver(&slack_endpoint(), &notice("Drift: <model_v4>", body)).await.unwrap();
    slack.deliver(&slack_endpoint(), &group()).await.unwrap();
    let messages = receiver.messages();
    assert_eq!(messages.len(), 2);
    let first = messages[0].json();
    assert_eq!(messages[0].header("content-type"), Some("application/json"));
    assert_eq!(first["blocks"][0]["text"]["text"], ":warning: Drift: &lt;model_v4&gt;");
    assert_eq!(first["blocks"][1]["text"]["text"], "PSI of &lt;wind_speed&gt; &amp; more: see model_v4, Zürich");
    let context = first["blocks"][2]["elements"][0]["text"].as_str().unwrap();
    assert!(context.contains("<https://delayd.example.org/api/v1/models/model_v4|model_v4>"), "{context}");
    let second = messages[1].json();
    assert_eq!(second["blocks"][0]["text"]["text"], ":warning: 2 × drift: one");
    let lines = second["blocks"][1]["text"]["text"].as_str().unwrap();
    for part in ["• 2013-07-01 12:00 UTC *warning* one (alert_4)", "two (alert_5)", "first", "second"] {
        assert!(lines.contains(part), "{part} is missing in {lines}");
    }
}

#[tokio::test]
async fn a_message_too_long_for_slack_is_cut_and_taken() {
    let receiver = Receiver::start().await;
    let slack = slack_at(&receiver.url(), Path::new(""));
    let long = "Ä line with <signs> & words\n".repeat(2000);
    slack.deliver(&slack_endpoint(), &notice(&"title & ".repeat(60), &long)).await.unwrap();
    let message = receiver.messages()[0].json().to_string();
    assert!(message.contains("characters were cut: `delayd alerts alert_4` shows the rest"), "{message}");
}

#[tokio::test]
async fn each_of_slacks_refusals_has_its_kind_and_says_what_to_do() {
    let table = [
        (403, "action_prohibited", ErrorKind::Denied, true, "ask its administrator"),
        (403, "invalid_token", ErrorKind::Denied, true, "invalid_token"),
        (404, "no_service", ErrorKind::NotFound, true, "make a new one"),
        (410, "channel_is_archived", ErrorKind::NotFound, true, "another one"),
        (429, "rate_limited", ErrorKind::Unavailable, true, "they wait"),
        (500, "rollup_error", ErrorKind::Unavailable, true, "rollup_error"),
        (503, "", ErrorKind::Unavailable, true, "503"),
        (302, "", ErrorKind::Unavailable, true, "something in between"),
        (200, "<html>log in</html>", ErrorKind::Unavailable, true, "something in between"),
    ];
    for (status, body, kind, away, advice) in table {
        let receiver = Receiver::start().await;
        receiver.plan(status, body);
        let error = deliver(&receiver.url()).await.unwrap_err();
        let text = chain(&error);
        assert_eq!((error.kind(), error.is_channel_away()), (kind, away), "{status}: {text}");
        assert!(text.starts_with("notifying Slack: ") && text.contains(advice), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
}

#[tokio::test]
async fn slacks_retry_after_is_passed_on() {
    let receiver = Receiver::start().await;
    receiver.plan_with(429, "rate_limited", "Retry-After: 37");
    assert_eq!(deliver(&receiver.url()).await.unwrap_err().retry_after(), Some(Duration::from_secs(37)));
}

#[tokio::test]
async fn a_message_whose_blocks_are_refused_is_sent_as_plain_text() {
    let receiver = Receiver::start().await;
    receiver.plan(400, "invalid_blocks");
    deliver(&receiver.url()).await.unwrap();
    let message = receiver.messages()[0].json();
    assert!(message["text"].as_str().unwrap().contains("wind_speed") && message.get("blocks").is_none(), "{message}");
    receiver.plan(400, "invalid_blocks");
    receiver.plan(400, "invalid_payload");
    let error = deliver(&receiver.url()).await.unwrap_err();
    assert_eq!((error.kind(), error.is_channel_away()), (ErrorKind::Invalid, false), "{error}");
}

#[tokio::test]
async fn an_outage_is_reported_as_one_and_ends() {
    let receiver = Receiver::start().await;
    let proxy = FlakyProxy::before(receiver.address).await;
    let url = url_at(proxy.address());
    let table = [
        (Mood::Down, ErrorKind::Unavailable),
        (Mood::Refuse(503), ErrorKind::Unavailable),
        (Mood::Refuse(401), ErrorKind::Denied),
        (Mood::Refuse(409), ErrorKind::Conflict),
        (Mood::Slow(Duration::from_secs(30)), ErrorKind::Timeout),
        (Mood::CutAfter(20), ErrorKind::Unavailable),
    ];
    for (mood, kind) in table {
        proxy.set(mood);
        let error = deliver(&url).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{mood:?}: {error}");
        assert!(!chain(&error).contains("s3cret"), "{error}");
    }
    proxy.set(Mood::Pass);
    deliver(&url).await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_named_and_one_of_our_own_is_trusted() {
    let receiver = Receiver::start().await;
    let front = TlsFront::before(receiver.address).await;
    let url = format!("https://{}{SECRET_PATH}", front.address);
    let error = deliver(&url).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(chain(&error).contains("certificate"), "{}", chain(&error));
    slack_at(&url, &front.ca_path).deliver(&slack_endpoint(), &group()).await.unwrap();
    assert_eq!(receiver.messages().len(), 1);
}

#[tokio::test]
async fn a_probe_alerts_nobody_and_knows_a_good_webhook_from_a_bad_one() {
    let receiver = Receiver::start().await;
    let slack = slack_at(&receiver.url(), Path::new(""));
    let told = slack.probe().await.unwrap();
    assert!(told.contains("no_text"), "{told}");
    let gone = slack_at(&format!("http://{}/services/other/s3cret", receiver.address), Path::new(""));
    let error = gone.probe().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("no_service") && !error.to_string().contains("s3cret"), "{error}");
    receiver.plan(200, "welcome");
    assert_eq!(slack.probe().await.unwrap_err().kind(), ErrorKind::Invalid, "something else lives there");
    receiver.plan(403, "invalid_token");
    assert_eq!(slack.probe().await.unwrap_err().kind(), ErrorKind::Denied);
    assert!(receiver.messages().iter().all(|message| message.json() == serde_json::json!({})), "nothing was told");
}

#[tokio::test]
async fn a_webhook_kept_in_a_file_can_be_changed_while_the_daemon_runs() {
    let receiver = Receiver::start().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let slack = slack_at(&format!("file:{}", file.path().display()), Path::new(""));
    let missing = slack.deliver(&slack_endpoint(), &group()).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Denied, "{missing}");
    std::fs::write(file.path(), format!("{}\n", receiver.url())).unwrap();
    slack.deliver(&slack_endpoint(), &group()).await.unwrap();
}

// ----------------------------------------------------------------
// The generic webhook.

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
