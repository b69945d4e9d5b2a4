//! HTTP towards the outside: one way to set up clients, one reading of what goes
//! wrong. Addresses never reach an error, because some of them are secrets.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, PortError, chain};

/// The longest part of an answer's body that goes into an error, in characters.
const EXCERPT_CHARS: usize = 300;

/// How much of an answer is read that is only quoted.
const BEGINNING_BYTES: usize = 64 * 1024;

/// Deadlines and trust of the clients of one outside system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpClientSettings {
    /// Seconds until a connection must stand.
    pub connect_timeout_secs: u64,
    /// Seconds in which at least one byte must come: a transfer may take as long as it moves.
    pub read_timeout_secs: u64,
    /// PEM file of a certificate authority to trust besides the system's; none when empty.
    pub ca_path: std::path::PathBuf,
}

impl Default for HttpClientSettings {
    fn default() -> Self {
        Self { connect_timeout_secs: 10, read_timeout_secs: 60, ca_path: std::path::PathBuf::new() }
    }
}

impl HttpClientSettings {
    /// A client for `action`'s system, which goes through the environment's proxy
    /// (`HTTPS_PROXY`, `NO_PROXY`) where there is one.
    pub fn client(&self, action: &str) -> Result<reqwest::Client, PortError> {
        self.builder(action)?.build().map_err(|error| transport_error(action, error))
    }

    /// [`HttpClientSettings::client`] that follows no redirects: a message that is
    /// posted would be lost on the way (a redirected POST becomes a GET).
    pub fn posting_client(&self, action: &str) -> Result<reqwest::Client, PortError> {
        let builder = self.builder(action)?.redirect(reqwest::redirect::Policy::none());
        builder.build().map_err(|error| transport_error(action, error))
    }

    fn builder(&self, action: &str) -> Result<reqwest::ClientBuilder, PortError> {
        let mut builder = client_builder()
            .connect_timeout(Duration::from_secs(self.connect_timeout_secs))
            .read_timeout(Duration::from_secs(self.read_timeout_secs))
            // After a redirect the other server would be told the address before, and with it the key.
            .referer(false)
            .user_agent(concat!("delayd/", env!("CARGO_PKG_VERSION")));
        for certificate in authorities(action, &self.ca_path)? {
            builder = builder.add_root_certificate(certificate);
        }
        Ok(builder)
    }
}

/// A builder of HTTP clients with this program's TLS implementation in place.
pub fn client_builder() -> reqwest::ClientBuilder {
    install_tls();
    reqwest::Client::builder()
}

/// Makes ring the process' TLS implementation; once is enough, more do no harm.
pub fn install_tls() {
    // Err means that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn authorities(action: &str, path: &Path) -> Result<Vec<reqwest::Certificate>, PortError> {
    if path.as_os_str().is_empty() {
        return Ok(Vec::new());
    }
    let pem =
        std::fs::read(path).map_err(|error| PortError::io(format!("{action}: CA file {}", path.display()), error))?;
    let invalid = |found: String| {
        let message = format!("CA file {} {found}; expected certificates in PEM", path.display());
        PortError::new(ErrorKind::Invalid, action, message)
    };
    let found =
        reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| invalid(format!("is malformed ({error})")))?;
    if found.is_empty() { Err(invalid("holds no certificate".to_owned())) } else { Ok(found) }
}

/// Reads a body of at most `limit_bytes`: an answer without end must not fill the memory. `action` goes into the error.
/// `Invalid` when it is larger; otherwise what cut it off.
pub async fn read_limited(
    mut response: reqwest::Response,
    limit_bytes: usize,
    action: &str,
) -> Result<Vec<u8>, PortError> {
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.map_err(|error| transport_error(action, error))? {
        if body.len() + part.len() > limit_bytes {
            let message = format!("the answer is longer than {limit_bytes} bytes, which is the most that is read");
            return Err(PortError::new(ErrorKind::Invalid, action, message));
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}

/// The beginning of a body, for those who quote it: some kilobytes, or what came until it broke off.
pub async fn read_beginning(mut response: reqwest::Response) -> Vec<u8> {
    let mut body = Vec::new();
    while body.len() < BEGINNING_BYTES
        && let Ok(Some(part)) = response.chunk().await
    {
        body.extend_from_slice(&part[..part.len().min(BEGINNING_BYTES - body.len())]);
    }
    body
}

/// A call that got no answer.
pub fn transport_error(action: &str, error: reqwest::Error) -> PortError {
    let kind = if error.is_timeout() {
        ErrorKind::Timeout
    } else if error.is_builder() {
        ErrorKind::Invalid
    } else {
        ErrorKind::Unavailable
    };
    PortError::new(kind, action, chain(&error.without_url()))
}

/// What an HTTP status stands for.
pub fn kind_of_status(status: u16) -> ErrorKind {
    match status {
        401 | 403 | 407 => ErrorKind::Denied,
        404 | 410 => ErrorKind::NotFound,
        408 | 504 => ErrorKind::Timeout,
        409 | 412 => ErrorKind::Conflict,
        507 => ErrorKind::Exhausted,
        429 | 500..=599 => ErrorKind::Unavailable,
        _ => ErrorKind::Invalid,
    }
}

/// An answer that is a refusal: its status, and the beginning of what it says.
pub fn refusal(action: &str, status: reqwest::StatusCode, body: &[u8]) -> PortError {
    let text: String = String::from_utf8_lossy(body).chars().take(EXCERPT_CHARS).collect();
    let said = if text.trim().is_empty() { String::new() } else { format!(": {}", text.trim()) };
    PortError::new(kind_of_status(status.as_u16()), action, format!("answered {status}{said}"))
}

/// How long the other side asks to be left alone (`Retry-After`, in seconds).
pub fn retry_after(response: &reqwest::Response) -> Option<Duration> {
    let value = response.headers().get(reqwest::header::RETRY_AFTER)?;
    value.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_tells_whether_to_try_again() {
        for (status, kind, again) in [
            (401, ErrorKind::Denied, false),
            (404, ErrorKind::NotFound, false),
            (409, ErrorKind::Conflict, true),
            (422, ErrorKind::Invalid, false),
            (429, ErrorKind::Unavailable, true),
            (503, ErrorKind::Unavailable, true),
            (504, ErrorKind::Timeout, true),
        ] {
            assert_eq!((kind_of_status(status), kind.is_retryable()), (kind, again), "{status}");
        }
    }

    #[tokio::test]
    async fn an_error_never_shows_the_address() {
        let client = HttpClientSettings::default().client("telling").unwrap();
        let error = client.get("http://127.0.0.1:1/services/s3cret").send().await.unwrap_err();
        let text = chain(&transport_error("telling", error));
        assert!(text.starts_with("telling: ") && !text.contains("s3cret"), "{text}");
    }

    #[test]
    fn a_ca_file_without_a_certificate_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let settings = HttpClientSettings { ca_path: file.path().to_owned(), ..HttpClientSettings::default() };
        let error = settings.client("asking the registry").unwrap_err().to_string();
        assert!(error.contains(&file.path().display().to_string()) && error.contains("PEM"), "{error}");
    }
}
