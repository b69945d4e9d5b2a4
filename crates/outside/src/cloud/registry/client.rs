//! Calls to one registry: addresses, authorization, and being asked to wait.
//! Calls are small enough to lie in memory, so that each can be sent again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION, WWW_AUTHENTICATE};
use reqwest::{Method, StatusCode, Url};

use super::answer::{Answer, no_answer};
use super::authorization::{Authorization, Scope};
use super::login::LoginSource;
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::http_client::retry_after;

/// The longest wait that a registry may ask for in the middle of a push, in
/// seconds; one who asks for more is away, and the saga waits.
const MAX_WAIT_SECS: u64 = 30;

/// One call.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) scope: Scope,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Call {
    pub(super) fn new(method: Method, url: Url, scope: &Scope) -> Self {
        Self { method, url, scope: scope.clone(), headers: HeaderMap::new(), body: Bytes::new() }
    }

    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    pub(super) fn body(mut self, body: Bytes) -> Self {
        self.body = body;
        self
    }
}

/// A registry that calls go to.
#[derive(Debug)]
pub(super) struct RegistryClient {
    http: reqwest::Client,
    base: Url,
    authorization: Authorization,
}

impl RegistryClient {
    /// For the registry at `host`.
    ///
    /// # Errors
    /// When `host` is no host.
    pub(super) fn new(
        http: reqwest::Client,
        host: &str,
        plain_http: bool,
        source: Arc<dyn LoginSource>,
    ) -> Result<Self, PortError> {
        let scheme = if plain_http { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{host}/v2/")).map_err(|error| {
            PortError::new(ErrorKind::Invalid, "opening the image registry", format!("host `{host}`: {error}"))
        })?;
        Ok(Self { http, base, authorization: Authorization::new(source, plain_http) })
    }

    /// The address of `path` below `/v2/`.
    pub(super) fn url(&self, path: &str) -> Result<Url, PortError> {
        let action = format!("asking the registry for {path}");
        self.base.join(path).map_err(|error| PortError::new(ErrorKind::Internal, action, error.to_string()))
    }

    /// Where an answer says to go on. A registry behind a TLS proxy may not know
    /// that it is: its own address is always spoken to as configured.
    pub(super) fn location(&self, answer: &Answer) -> Option<Url> {
        let mut url = self.base.join(answer.header(LOCATION)?).ok()?;
        if url.host() == self.base.host() && url.port() == self.base.port() && url.scheme() != self.base.scheme() {
            url.set_scheme(self.base.scheme()).ok()?;
        }
        Some(url)
    }

    /// Sends a call and reads its answer, which may be a refusal. Answers a
    /// challenge once, and waits once where the registry asks for a short pause.
    pub(super) async fn send(&self, action: &str, call: Call) -> Result<Answer, PortError> {
        // Logins go to the registry alone, wherever it sends us (OCI distribution spec 1.1, "Pushing blobs").
        let at_home = call.url.origin() == self.base.origin();
        if !at_home && self.base.scheme() == "https" && call.url.scheme() != "https" {
            let message = "the registry sends us to an address without TLS; that is not followed";
            return Err(PortError::new(ErrorKind::Invalid, action, message));
        }
        let mut authorization = if at_home { self.authorization.header(action, &call.scope).await? } else { None };
        let (mut may_answer, mut may_wait) = (at_home, true);
        loop {
            let response = self.send_once(action, &call, authorization.clone()).await?;
            let pause = retry_after(&response).filter(|pause| pause.as_secs() <= MAX_WAIT_SECS);
            let answer = Answer::read(action, response).await?;
            match (answer.status, pause) {
                (status, _) if may_answer && is_challenge(status, &answer) => {
                    may_answer = false;
                    let challenges = texts(&answer.headers);
                    let header =
                        self.authorization.answer_challenge(&self.http, action, &call.scope, &challenges).await?;
                    if header.is_none() {
                        return Ok(answer);
                    }
                    authorization = header;
                }
                (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE, Some(pause)) if may_wait => {
                    may_wait = false;
                    tracing::debug!(pause_secs = pause.as_secs(), "the registry asks for a pause");
                    tokio::time::sleep(pause.max(Duration::from_millis(1))).await;
                }
                _ => return Ok(answer),
            }
        }
    }

    /// Who is logged in, for people.
    pub(super) async fn who(&self, action: &str) -> Result<String, PortError> {
        self.authorization.who(action).await
    }

    async fn send_once(
        &self,
        action: &str,
        call: &Call,
        authorization: Option<HeaderValue>,
    ) -> Result<reqwest::Response, PortError> {
        let mut request = self
            .http
            .request(call.method.clone(), call.url.clone())
            .headers(call.headers.clone())
            .body(call.body.clone());
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        request.send().await.map_err(|error| no_answer(action, error))
    }
}

/// A refusal that a fresh login may turn. ECR says 403 where a token has expired.
fn is_challenge(status: StatusCode, answer: &Answer) -> bool {
    status == StatusCode::UNAUTHORIZED || (status == StatusCode::FORBIDDEN && answer.says("expired"))
}

fn texts(headers: &HeaderMap) -> Vec<String> {
    headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| Some(value.to_str().ok()?.to_owned())).collect()
}
