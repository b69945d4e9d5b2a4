//! Calls to one registry: addresses, authorization, and being asked to wait.
//! Calls are small enough to lie in memory, so that each can be sent again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, AsHeaderName, HeaderMap, HeaderName, HeaderValue, LOCATION, WWW_AUTHENTICATE};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;

use super::authorization::{Authorization, LoginSource, Scope};
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::http_client::{kind_of_status, read_limited, refusal, retry_after, transport_error};

/// The longest wait that a registry may ask for in the middle of a push, in
/// seconds; one that asks for more is unavailable, and the saga waits.
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

    /// Where an answer says to continue. A registry behind a TLS proxy may not know
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

/// Longest answer that is read: the size of a manifest that every registry must take
/// (OCI distribution spec 1.1, "Pushing Manifests").
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// The longest part of a registry's own words that goes into an error, in characters.
const EXCERPT_CHARS: usize = 300;

/// An answer, read to its end.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// The body of a refusal (OCI distribution spec 1.1, "Error Codes").
#[derive(Deserialize)]
struct Refusals {
    errors: Vec<RefusalEntry>,
}

#[derive(Deserialize)]
struct RefusalEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Answer {
    pub(super) async fn read(action: &str, mut response: reqwest::Response) -> Result<Self, PortError> {
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        let body = read_limited(response, MAX_ANSWER_BYTES, action).await?;
        Ok(Self { status, headers, body: body.into() })
    }

    /// A header's text, where there is one.
    pub(super) fn header(&self, name: impl AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The answer itself if it is a success, its refusal otherwise.
    pub(super) fn accepted(self, action: &str) -> Result<Self, PortError> {
        if self.status.is_success() { Ok(self) } else { Err(self.refusal(action)) }
    }

    /// Whether a refusal names this code.
    pub(super) fn has_code(&self, code: &str) -> bool {
        self.entries().iter().any(|entry| entry.code == code)
    }

    /// Whether what the registry says holds these words, in any case.
    pub(super) fn says(&self, words: &str) -> bool {
        String::from_utf8_lossy(&self.body).to_lowercase().contains(words)
    }

    fn entries(&self) -> Vec<RefusalEntry> {
        // Something else than the spec's document, such as a proxy's page, has no codes.
        serde_json::from_slice::<Refusals>(&self.body).map(|refusals| refusals.errors).unwrap_or_default()
    }

    fn kind(&self) -> ErrorKind {
        let status = self.status.as_u16();
        if self.has_code("TAG_INVALID") && self.says("immutable") {
            ErrorKind::Conflict
        } else if self.has_code("MANIFEST_BLOB_UNKNOWN") {
            // A blob was collected between our look and the manifest: the next attempt sends it.
            ErrorKind::Interrupted
        } else if self.has_code("TOOMANYREQUESTS") {
            ErrorKind::Unavailable
        } else if status == 413 {
            ErrorKind::Exhausted
        } else {
            kind_of_status(status)
        }
    }

    fn advice(&self, kind: ErrorKind) -> &'static str {
        match (kind, self.status.as_u16()) {
            (ErrorKind::Conflict, _) => {
                "; the tag cannot move: push under another tag, or let the repository's tags be moved"
            }
            (ErrorKind::Denied, 407) => "; the proxy on the way wants a login",
            (ErrorKind::Denied, 401) => "; check the login: username and password, or docker_config",
            (ErrorKind::Denied, _) => "; the login needs pull and push on this repository, and delete to undo a push",
            (ErrorKind::NotFound, _) => {
                "; the repository is not there: create it, or correct repository_prefix or packaging.repository"
            }
            (ErrorKind::Exhausted, 413) => "; a proxy on the way takes no request as large: lower upload.chunk_bytes",
            (ErrorKind::Exhausted, _) => "; the registry has no room left",
            (ErrorKind::Invalid, 405) => "; the registry does not offer this",
            _ => "",
        }
    }

    /// The error that a refusal stands for.
    pub(super) fn refusal(&self, action: &str) -> PortError {
        let kind = self.kind();
        let entries = self.entries();
        if entries.is_empty() {
            let plain = refusal(action, self.status, &self.body);
            let text = plain.to_string();
            let said = text.strip_prefix(action).map_or(text.as_str(), |rest| rest.trim_start_matches(": "));
            return PortError::new(kind, action, format!("{said}{}", self.advice(kind)));
        }
        let told: Vec<String> = entries.iter().map(|entry| format!("{}: {}", entry.code, entry.message)).collect();
        let told: String = told.join("; ").chars().take(EXCERPT_CHARS).collect();
        PortError::new(kind, action, format!("answered {}: {told}{}", self.status, self.advice(kind)))
    }
}

/// A call that got no answer, or not all of it.
pub(super) fn no_answer(action: &str, error: reqwest::Error) -> PortError {
    let error = transport_error(action, error);
    let text = error.to_string();
    if !text.to_lowercase().contains("certificate") {
        return error;
    }
    let said = text.strip_prefix(action).map_or(text.as_str(), |rest| rest.trim_start_matches(": "));
    let message = format!("{said}; the registry's certificate is not trusted: name its authority by http.ca_path");
    PortError::new(error.kind(), action, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        let status = StatusCode::from_u16(status).unwrap();
        Answer { status, headers: HeaderMap::new(), body: Bytes::from(body.to_owned()) }
    }

    #[test]
    fn a_refusal_tells_the_registrys_words_and_what_to_do() {
        let body = r#"{"errors":[{"code":"NAME_UNKNOWN","message":"no such repository","detail":{}}]}"#;
        let error = answer(404, body).refusal("pushing a:b");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let text = error.to_string();
        assert!(text.starts_with("pushing a:b: answered 404 Not Found: NAME_UNKNOWN: no such repository;"), "{text}");
        assert!(text.contains("create it"), "{text}");
    }

    #[test]
    fn the_kind_comes_from_the_code_where_the_status_does_not_tell() {
        let immutable =
            r#"{"errors":[{"code":"TAG_INVALID","message":"tag v1 exists and the repository is immutable"}]}"#;
        let blob = r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"gone"}]}"#;
        for (status, body, kind) in [
            (400, immutable, ErrorKind::Conflict),
            (404, blob, ErrorKind::Interrupted),
            (401, "", ErrorKind::Denied),
            (403, "<html>no</html>", ErrorKind::Denied),
            (409, "", ErrorKind::Conflict),
            (413, "", ErrorKind::Exhausted),
            (429, "", ErrorKind::Unavailable),
            (500, "", ErrorKind::Unavailable),
            (503, "", ErrorKind::Unavailable),
            (507, "", ErrorKind::Exhausted),
        ] {
            assert_eq!(answer(status, body).refusal("pushing").kind(), kind, "{status} {body}");
        }
    }
}
