//! A document behind an HTTP address, asked for with its validators (conditional
//! GET, RFC 9110, 13.1), so that an unchanged one costs one short answer.
//!
//! The address may be a secret (a private calendar's is): it is in no error, log
//! or `Debug` text; the configuration key stands for it.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::header::{ETAG, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
use reqwest::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use crate::cloud::Faults;
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::fault::Fault;
use delayd_core::http_client::{HttpClientSettings, read_limited, refusal, retry_after, transport_error};
use delayd_core::ports::{DocumentSource, FetchedDocument, Validators};
use delayd_core::retry::{Deferred, RetryPolicy};
use delayd_core::secret::Secret;

/// The longest refusal that is read, in bytes.
const LONGEST_REFUSAL: usize = 64 * 1024;

/// How documents are fetched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpDocumentSettings {
    /// Largest document in bytes.
    pub max_bytes: u64,
    /// Attempts of one fetch.
    pub attempts: u32,
    /// Seconds before the second attempt; doubled for each later one.
    pub retry_pause_secs: f64,
    /// No pause is longer; where the server asks for more (`Retry-After`), the fetch fails.
    pub longest_pause_secs: f64,
    /// Seconds until a document must be complete.
    pub request_timeout_secs: u64,
    /// Connections.
    pub http: HttpClientSettings,
}

impl Default for HttpDocumentSettings {
    fn default() -> Self {
        Self {
            max_bytes: 64 * 1024 * 1024,
            attempts: 4,
            retry_pause_secs: 0.5,
            longest_pause_secs: 60.0,
            request_timeout_secs: 300,
            http: HttpClientSettings::default(),
        }
    }
}

impl HttpDocumentSettings {
    /// Every value that cannot be, by its key below `prefix`.
    #[must_use]
    pub fn faults(&self, prefix: &str) -> Vec<Fault> {
        let mut faults = Faults::of(prefix);
        faults.check(self.max_bytes >= 1024, "max_bytes", self.max_bytes, "1024 bytes or more");
        faults.check((1..=20).contains(&self.attempts), "attempts", self.attempts, "1 to 20");
        for (key, secs) in
            [("retry_pause_secs", self.retry_pause_secs), ("longest_pause_secs", self.longest_pause_secs)]
        {
            faults.check((0.0..=3600.0).contains(&secs), key, secs, "seconds from 0 to 3600");
        }
        let timeout = self.request_timeout_secs;
        faults.check((1..=3600).contains(&timeout), "request_timeout_secs", timeout, "1 to 3600 seconds");
        faults.found
    }
}

/// A document by its address.
#[derive(Debug)]
pub struct HttpDocument {
    /// The configuration key that holds the address.
    key: &'static str,
    address: Secret,
    settings: HttpDocumentSettings,
    http: reqwest::Client,
}

impl HttpDocument {
    /// The document whose address the configuration holds under `key`.
    pub fn new(key: &'static str, address: Secret, settings: HttpDocumentSettings) -> Result<Self, PortError> {
        let http = settings.http.client(&format!("setting up the client of {key}"))?;
        Ok(Self { key, address, settings, http })
    }

    fn action(&self) -> String {
        format!("fetching the document of {}", self.key)
    }

    async fn ask(&self, known: &Validators) -> Result<Response, Deferred> {
        let action = self.action();
        let address = self.address.reveal(&action)?;
        // A parse error would quote the address.
        let url = reqwest::Url::parse(&address).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = url.ok_or_else(|| {
            PortError::new(ErrorKind::Invalid, &action, "the address is not an http or https URL; correct it")
        })?;
        let mut request = self.http.get(url).timeout(Duration::from_secs(self.settings.request_timeout_secs));
        for (name, value) in [(IF_NONE_MATCH, &known.etag), (IF_MODIFIED_SINCE, &known.last_modified)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        let response = request.send().await.map_err(|error| transport_error(&action, error))?;
        let status = response.status();
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            return Ok(response);
        }
        let wait = retry_after(&response);
        let body = read_limited(response, LONGEST_REFUSAL, &action).await?;
        Err(Deferred { error: refusal(&action, status, &body), wait })
    }

    async fn once(&self, known: &Validators) -> Result<FetchedDocument, Deferred> {
        let response = self.ask(known).await?;
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(FetchedDocument::Unchanged);
        }
        if response.status() != StatusCode::OK {
            let message = format!("answered {}, which is not a whole document", response.status());
            return Err(PortError::new(ErrorKind::Invalid, self.action(), message).into());
        }
        let validators = validators(&response);
        let limit = usize::try_from(self.settings.max_bytes).unwrap_or(usize::MAX);
        let body = read_limited(response, limit, &self.action()).await?;
        Ok(FetchedDocument::Changed { body: Bytes::from(body), validators })
    }
}

fn validators(response: &Response) -> Validators {
    let header = |name: HeaderName| response.headers().get(name)?.to_str().ok().map(str::to_owned);
    Validators { etag: header(ETAG), last_modified: header(LAST_MODIFIED) }
}

#[async_trait]
impl DocumentSource for HttpDocument {
    async fn fetch(&self, known: &Validators) -> Result<FetchedDocument, PortError> {
        let policy = RetryPolicy {
            attempts: self.settings.attempts,
            base_delay: Duration::from_secs_f64(self.settings.retry_pause_secs),
            max_delay: Duration::from_secs_f64(self.settings.longest_pause_secs),
        };
        policy.run(|| self.once(known)).await.map_err(|failed| failed.error)
    }

    async fn probe(&self) -> Result<String, PortError> {
        // The answer's head tells enough; its body is not read.
        let response = self.ask(&Validators::default()).await.map_err(|failed| failed.error)?;
        let length = response.content_length().map_or_else(|| "unknown length".to_owned(), |n| format!("{n} bytes"));
        let versioned = if validators(&response) == Validators::default() { "no ETag or date" } else { "versioned" };
        Ok(format!("the document of {} is there ({length}, {versioned})", self.key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_value_is_told_by_its_key() {
        assert!(HttpDocumentSettings::default().faults("ingestion.documents").is_empty());
        let wrong = HttpDocumentSettings {
            max_bytes: 1,
            attempts: 0,
            retry_pause_secs: -1.0,
            longest_pause_secs: 1e9,
            request_timeout_secs: 0,
            ..HttpDocumentSettings::default()
        };
        let faults = wrong.faults("ingestion.documents");
        assert_eq!(faults.len(), 5, "{faults:?}");
        assert!(faults.iter().all(|fault| fault.key.starts_with("ingestion.documents.")));
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_told_without_being_shown() {
        let address = Secret::new("htp://calendar/s3cret.ics");
        let document = HttpDocument::new("ingestion.holidays_url", address, HttpDocumentSettings::default()).unwrap();
        let error = document.fetch(&Validators::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let told = format!("{error} {document:?}");
        assert!(told.contains("ingestion.holidays_url") && !told.contains("s3cret"), "{told}");
    }
}
