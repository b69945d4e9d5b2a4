//! Any receiver of JSON by HTTP POST: a notice as it is, with a bearer token, a
//! signature over the body, or both. It knows nothing of who receives it.

use std::sync::Arc;

use async_trait::async_trait;
use hmac::{Hmac, Mac};
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::Sha256;

use super::slack::secret_url;
use crate::templates::Templates;
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::fault::Fault;
use delayd_core::http_client::{HttpClientSettings, read_beginning, refusal, retry_after, transport_error};
use delayd_core::ports::{ChannelKind, Endpoint, Notice, Notifier, Undelivered};
use delayd_core::secret::Secret;

const NOTIFYING: &str = "notifying the webhook";
const ASKING: &str = "asking the webhook";

/// `[notification.webhook]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookSettings {
    /// Where to post; treated as a secret, because many such addresses are.
    pub url: Secret,
    /// Sent as `Authorization: Bearer`; none when empty.
    pub bearer_token: Secret,
    /// Key of the signature `X-Delayd-Signature-256`; no signature when empty.
    pub signing_key: Secret,
    /// Messages per minute, critical ones not bound; 0 for no bound.
    pub messages_per_minute: u32,
    /// Deadlines and trust.
    pub http: HttpClientSettings,
}

impl Default for WebhookSettings {
    fn default() -> Self {
        let http = HttpClientSettings { read_timeout_secs: 20, ..HttpClientSettings::default() };
        Self {
            url: Secret::default(),
            bearer_token: Secret::default(),
            signing_key: Secret::default(),
            messages_per_minute: 60,
            http,
        }
    }
}

impl WebhookSettings {
    /// Everything that cannot be.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let missing = Fault {
            key: "notification.webhook.url".to_owned(),
            found: "empty".to_owned(),
            expected: "the receiver's address, https:// outside this machine".to_owned(),
        };
        if self.url.is_set() { Vec::new() } else { vec![missing] }
    }
}

/// Posts notices.
#[derive(Debug)]
pub struct WebhookNotifier {
    settings: WebhookSettings,
    http: reqwest::Client,
    templates: Arc<Templates>,
}

impl WebhookNotifier {
    /// A notifier; nothing is sent yet.
    pub fn new(settings: &WebhookSettings, templates: Arc<Templates>) -> Result<Self, PortError> {
        Ok(Self { settings: settings.clone(), http: settings.http.posting_client(NOTIFYING)?, templates })
    }

    fn request(&self, action: &str, method: reqwest::Method) -> Result<reqwest::RequestBuilder, PortError> {
        let mut request = self.http.request(method, secret_url(action, &self.settings.url)?);
        if self.settings.bearer_token.is_set() {
            request = request.bearer_auth(self.settings.bearer_token.reveal(action)?);
        }
        Ok(request)
    }

    fn signature(&self, body: &[u8]) -> Result<Option<String>, PortError> {
        if !self.settings.signing_key.is_set() {
            return Ok(None);
        }
        let key = self.settings.signing_key.reveal(NOTIFYING)?;
        let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes())
            .map_err(|error| PortError::new(ErrorKind::Invalid, NOTIFYING, format!("signing: {error}")))?;
        mac.update(body);
        Ok(Some(format!("sha256={}", hex::encode(mac.finalize().into_bytes()))))
    }
}

#[async_trait]
impl Notifier for WebhookNotifier {
    fn endpoints(&self) -> Vec<Endpoint> {
        vec![Endpoint::of(ChannelKind::Webhook)]
    }

    async fn deliver(&self, _: &Endpoint, notice: &Notice) -> Result<(), Undelivered> {
        let body = json!({
            "version": 1,
            "id": notice.identity(),
            "kind": notice.kind,
            "severity": notice.severity(),
            "headline": notice.headline(),
            "at": notice.at(),
            "link": self.templates.link(),
            "mentions": self.templates.mentions(notice),
            "alerts": notice.alerts,
        });
        let body = body.to_string().into_bytes();
        let mut request = self.request(NOTIFYING, reqwest::Method::POST)?;
        if let Some(signature) = self.signature(&body)? {
            request = request.header("X-Delayd-Signature-256", signature);
        }
        let request = request
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header("Idempotency-Key", notice.identity())
            .body(body);
        let response = request.send().await.map_err(|error| transport_error(NOTIFYING, error))?;
        let (status, wait) = (response.status(), retry_after(&response));
        if status.is_success() {
            return Ok(());
        }
        if status.is_redirection() {
            let message = format!("answered {status}; redirects are not followed: name the address it leads to");
            return Err(
                Undelivered::from(PortError::new(ErrorKind::NotFound, NOTIFYING, message)).with_channel_away(true)
            );
        }
        let body = read_beginning(response).await;
        let of_this_notice = matches!(status.as_u16(), 400 | 413 | 422);
        let error = Undelivered::from(refusal(NOTIFYING, status, &body));
        Err(error.with_channel_away(!of_this_notice).after(wait))
    }

    /// Asks with `OPTIONS`, which changes nothing: any answer but a refusal of us
    /// means that the receiver is there, also that it does not know the method.
    async fn probe(&self) -> Result<String, PortError> {
        let request = self.request(ASKING, reqwest::Method::OPTIONS)?;
        let response = request.send().await.map_err(|error| transport_error(ASKING, error))?;
        let status = response.status();
        match status.as_u16() {
            200..=299 | 400 | 405 | 415 | 501 => Ok(format!("it answers ({status})")),
            _ => {
                let body = read_beginning(response).await;
                Err(refusal(ASKING, status, &body))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_hmac_sha256_in_hex() {
        let settings = WebhookSettings {
            url: Secret::new("https://example.org/"),
            // RFC 4231, test case 2.
            signing_key: Secret::new("Jefe"),
            ..WebhookSettings::default()
        };
        let notifier = WebhookNotifier::new(&settings, Arc::new(Templates::built_in())).unwrap();
        let expected = "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(notifier.signature(b"what do ya want for nothing?").unwrap().as_deref(), Some(expected));
    }
}
