//! Slack, by an incoming webhook (docs.slack.dev, "Sending messages using incoming
//! webhooks"): one address that is a secret, to which a message is posted.
//!
//! It asks for nothing else of Slack: no token, no reading, no threads, no files.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::{StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::slack_message::{SlackMessage, plain_payload};
use crate::templates::Templates;
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::fault::Fault;
use delayd_core::http_client::read_beginning;
use delayd_core::http_client::{HttpClientSettings, refusal, retry_after, transport_error};
use delayd_core::ports::{ChannelKind, Endpoint, Notice, Notifier, Undelivered};
use delayd_core::secret::Secret;

const TELLING: &str = "telling Slack";
const ASKING: &str = "asking Slack";

/// `[notification.slack]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SlackSettings {
    /// The webhook's address, which is a secret as a whole.
    pub webhook_url: Secret,
    /// Messages per minute, critical ones not bound; 0 for no bound. Slack allows about one per second.
    pub messages_per_minute: u32,
    /// Deadlines and trust.
    pub http: HttpClientSettings,
}

impl Default for SlackSettings {
    fn default() -> Self {
        let http = HttpClientSettings { read_timeout_secs: 20, ..HttpClientSettings::default() };
        Self { webhook_url: Secret::default(), messages_per_minute: 20, http }
    }
}

impl SlackSettings {
    /// Everything that cannot be.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let missing = Fault {
            key: "notification.slack.webhook_url".to_owned(),
            found: "empty".to_owned(),
            expected: "the webhook's address, best as file:, env: or credential:".to_owned(),
        };
        if self.webhook_url.is_set() { Vec::new() } else { vec![missing] }
    }
}

/// Posts to a webhook.
#[derive(Debug)]
pub struct SlackNotifier {
    webhook_url: Secret,
    http: reqwest::Client,
    templates: Arc<Templates>,
}

impl SlackNotifier {
    /// A notifier; nothing is sent yet.
    ///
    /// # Errors
    /// When the authority's file cannot be read.
    pub fn new(settings: &SlackSettings, templates: Arc<Templates>) -> Result<Self, PortError> {
        let http = settings.http.posting_client(TELLING)?;
        Ok(Self { webhook_url: settings.webhook_url.clone(), http, templates })
    }

    async fn post(&self, action: &'static str, payload: &Value) -> Result<Answer, Undelivered> {
        let url = secret_url(action, &self.webhook_url)?;
        let sent = self.http.post(url).json(payload).send().await;
        let response = sent.map_err(|error| transport_error(action, error))?;
        let (status, wait) = (response.status(), retry_after(&response));
        Ok(Answer { action, status, retry_after: wait, body: read_beginning(response).await })
    }
}

struct Answer {
    action: &'static str,
    status: StatusCode,
    retry_after: Option<Duration>,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }

    /// Slack's `ok`, or what it is instead.
    fn accepted(self) -> Result<(), Undelivered> {
        if self.status == StatusCode::OK && self.text() == "ok" {
            return Ok(());
        }
        if self.status.is_success() || self.status.is_redirection() {
            let excerpt: String = self.text().chars().take(80).collect();
            let message =
                format!("answered {} and `{excerpt}`; Slack answers `ok`: is something in between?", self.status);
            return Err(PortError::new(ErrorKind::Unavailable, self.action, message).into());
        }
        // A webhook that is gone refuses every message alike.
        let of_this_message = self.status == StatusCode::BAD_REQUEST;
        let error = refusal(self.action, self.status, &self.body);
        let error = match advice(self.status) {
            Some(advice) => PortError::new(error.kind(), self.action, format!("{}; {advice}", error.message())),
            None => error,
        };
        Err(Undelivered::from(error).with_channel_away(!of_this_message).after(self.retry_after))
    }
}

/// What to do about a refusal (docs.slack.dev, "Handling errors" of incoming webhooks).
fn advice(status: StatusCode) -> Option<&'static str> {
    match status.as_u16() {
        403 => Some("the workspace does not let this webhook post: ask its administrator, or make a new webhook"),
        404 => Some("the webhook or its channel was removed: make a new one and set notification.slack.webhook_url"),
        410 => Some("the channel was archived: make a webhook for another one"),
        429 => Some("too many messages: nothing needs to be done, they wait"),
        _ => None,
    }
}

/// An address that is a secret: HTTPS, or HTTP to this machine. It is never shown.
pub(super) fn secret_url(action: &str, secret: &Secret) -> Result<Url, PortError> {
    let invalid = |message: &str| PortError::new(ErrorKind::Denied, action, message);
    let url = Url::parse(secret.reveal(action)?.trim())
        .map_err(|_| invalid("the configured address is no URL (it is a secret and not shown here)"))?;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    match url.scheme() {
        "https" => Ok(url),
        "http" if here => Ok(url),
        _ => Err(invalid("the configured address is not https:// (it is a secret and not shown here)")),
    }
}

#[async_trait]
impl Notifier for SlackNotifier {
    fn endpoints(&self) -> Vec<Endpoint> {
        vec![Endpoint::of(ChannelKind::Slack)]
    }

    /// Blocks that Slack does not take are sent again as plain text: an alert is not
    /// lost for its looks.
    async fn deliver(&self, _: &Endpoint, notice: &Notice) -> Result<(), Undelivered> {
        let message = SlackMessage { notice, templates: &self.templates };
        let answer = self.post(TELLING, &message.payload()).await?;
        if answer.status != StatusCode::BAD_REQUEST {
            return answer.accepted();
        }
        let answered = answer.text();
        tracing::error!(answered, "Slack does not take the message's blocks; it is sent as plain text");
        self.post(TELLING, &plain_payload(notice)).await?.accepted()
    }

    /// Posts an empty document. Slack refuses it without telling anybody anything:
    /// with 400 (`no_text`, `invalid_payload`) where the webhook is good, with 403,
    /// 404 or 410 where it is not.
    async fn probe(&self) -> Result<String, PortError> {
        let answer = self.post(ASKING, &json!({})).await.map_err(Undelivered::into_error)?;
        if answer.status == StatusCode::BAD_REQUEST {
            return Ok(format!("the webhook is there (it refuses an empty message: {})", answer.text()));
        }
        if answer.status.is_success() {
            let message = "an empty message was answered with success, which Slack never does: is this its address?";
            return Err(PortError::new(ErrorKind::Invalid, ASKING, message));
        }
        answer.accepted().map(|()| String::new()).map_err(Undelivered::into_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_is_asked_by_https_and_never_shown() {
        let table = [
            ("https://hooks.slack.com/services/T0/B0/s3cret", true),
            ("http://127.0.0.1:8080/services/s3cret", true),
            ("http://[::1]:8080/s3cret", true),
            ("http://hooks.slack.com/services/s3cret", false),
            ("http://127.0.0.1.example.org/s3cret", false),
            ("s3cret", false),
        ];
        for (address, good) in table {
            match secret_url(TELLING, &Secret::new(address)) {
                Ok(_) => assert!(good, "{address}"),
                Err(error) => {
                    assert!(!good && !format!("{error} {error:?}").contains("s3cret"), "{error}");
                }
            }
        }
    }
}
