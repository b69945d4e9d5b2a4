//! Fetching what replicas have counted and predicted. Replicas are asked side by
//! side, each with its own deadline: one that hangs or is gone is reported and
//! does not hide the others. What the answers mean is not decided here.

use std::time::Duration;

use delayd_model::admin::{PredictionPage, ReplicaReport};
use futures::StreamExt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use delayd_core::error::{ErrorKind, chain};
use delayd_core::ports::Replica;
pub use delayd_judge::monitoring::settings::ScrapePolicy;

/// A replica that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("replica {replica} at {url}: {message}")]
pub struct ScrapeFailure {
    /// Which replica.
    pub replica: String,
    /// What was asked.
    pub url: String,
    /// What sort of failure.
    pub kind: ErrorKind,
    /// What went wrong.
    pub message: String,
}

/// What came of asking all replicas: answers, and who did not give one.
#[derive(Debug, Clone, PartialEq)]
pub struct Scraped<T> {
    /// Answers, in the order of the replicas asked.
    pub answers: Vec<T>,
    /// Failures, in the order of the replicas asked.
    pub failures: Vec<ScrapeFailure>,
}

/// Asks replicas on their administrative addresses.
#[derive(Debug, Clone)]
pub struct Scraper {
    client: reqwest::Client,
    policy: ScrapePolicy,
}

impl Scraper {
    /// A scraper that keeps its connections.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn new(policy: ScrapePolicy) -> Result<Self, reqwest::Error> {
        let timeout = Duration::from_millis(policy.timeout_ms);
        // Replicas are addressed directly: a proxy of the environment is for the world outside.
        let client =
            delayd_core::http_client::client_builder().timeout(timeout).connect_timeout(timeout).no_proxy().build()?;
        Ok(Self { client, policy })
    }

    /// What every replica has counted (`GET /admin/v1/sketch`).
    pub async fn reports(&self, replicas: &[Replica]) -> Scraped<ReplicaReport> {
        let asked = replicas.iter().map(|replica| async move {
            let url = format!("{}/admin/v1/sketch", replica.admin_url.trim_end_matches('/'));
            let report: ReplicaReport = self.fetch(&replica.name, &url).await?;
            if report.replica == replica.name {
                Ok(report)
            } else {
                // Counting it under this name would mix two replicas' counters.
                let message = format!("the replica answering there is {}; its address was taken over", report.replica);
                Err(ScrapeFailure { replica: replica.name.clone(), url, kind: ErrorKind::Conflict, message })
            }
        });
        gather(asked, self.policy.concurrency).await
    }

    /// Predictions served after `after` by every replica, one page each
    /// (`GET /admin/v1/predictions?after=`).
    pub async fn predictions(&self, replicas: &[(Replica, u64)]) -> Scraped<PredictionPage> {
        let asked = replicas.iter().map(|(replica, after)| async move {
            let base = replica.admin_url.trim_end_matches('/');
            let url = format!("{base}/admin/v1/predictions?after={after}&limit={}", self.policy.page_size);
            self.fetch(&replica.name, &url).await
        });
        gather(asked, self.policy.concurrency).await
    }

    /// Tells a drained replica that its last counts were fetched: it need not wait
    /// any longer (`POST /admin/v1/collected`).
    ///
    /// # Errors
    /// When it does not answer, or is not drained.
    pub async fn collected(&self, replica: &Replica) -> Result<(), ScrapeFailure> {
        let url = format!("{}/admin/v1/collected", replica.admin_url.trim_end_matches('/'));
        let failure = |kind, message| ScrapeFailure { replica: replica.name.clone(), url: url.clone(), kind, message };
        let answer = self.client.post(&url).send().await;
        let answer = answer.map_err(|error| failure(ErrorKind::Unavailable, chain(&error)))?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            status => Err(failure(ErrorKind::Conflict, format!("answered {status}, expected 200"))),
        }
    }

    async fn fetch<T: DeserializeOwned>(&self, replica: &str, url: &str) -> Result<T, ScrapeFailure> {
        let failure = |kind, message| ScrapeFailure { replica: replica.to_owned(), url: url.to_owned(), kind, message };
        let transport = |error: reqwest::Error| {
            let kind = if error.is_timeout() { ErrorKind::Timeout } else { ErrorKind::Unavailable };
            failure(kind, chain(&error))
        };
        let response = self.client.get(url).send().await.map_err(transport)?;
        let status = response.status();
        if !status.is_success() {
            let kind = match status.as_u16() {
                404 => ErrorKind::NotFound,
                401 | 403 => ErrorKind::Denied,
                400..=499 => ErrorKind::Invalid,
                _ => ErrorKind::Unavailable,
            };
            return Err(failure(kind, format!("answered {status}, expected 200")));
        }
        let mut body: Vec<u8> = Vec::new();
        let mut response = response;
        while let Some(chunk) = response.chunk().await.map_err(transport)? {
            body.extend_from_slice(&chunk);
            if body.len() > self.policy.maximum_bytes {
                let message = format!("the answer is over {} bytes", self.policy.maximum_bytes);
                return Err(failure(ErrorKind::Exhausted, message));
            }
        }
        serde_json::from_slice(&body)
            .map_err(|error| failure(ErrorKind::Corrupt, format!("the answer is not the document expected: {error}")))
    }
}

/// Waits for all, at most `concurrency` at a time, keeping their order.
async fn gather<T, F>(asked: impl Iterator<Item = F>, concurrency: usize) -> Scraped<T>
where
    F: Future<Output = Result<T, ScrapeFailure>>,
{
    let results: Vec<Result<T, ScrapeFailure>> =
        futures::stream::iter(asked).buffered(concurrency.max(1)).collect().await;
    let mut scraped = Scraped { answers: Vec::new(), failures: Vec::new() };
    for result in results {
        match result {
            Ok(answer) => scraped.answers.push(answer),
            Err(failure) => scraped.failures.push(failure),
        }
    }
    scraped
}
