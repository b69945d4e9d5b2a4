//! The inference service, as its clients and the daemon ask it: predictions through its public address, so that requests
//! meet what a client's would; counts and outcomes from each replica. Nothing is judged here.
//!
//! Replicas are asked side by side, each with its own deadline: one that hangs or is gone is reported and does not hide
//! the others.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::http_client::{client_builder, kind_of_status, read_limited, transport_error};
use delayd_core::ports::Replica;
use delayd_data::Example;
use delayd_features::NumericInput;
pub use delayd_judge::monitoring::settings::ScrapePolicy;
use delayd_judge::verification::measurement::{ProbeAnswer, ProbeResult};
use delayd_model::admin::{PredictionPage, ReplicaReport};

/// One flight as `POST /predict` takes it.
#[derive(Debug, Serialize)]
pub struct FlightQuestion<'a> {
    carrier: &'a str,
    flight_number: u32,
    origin: &'a str,
    dest: &'a str,
    scheduled_departure: chrono::DateTime<chrono::Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduled_arrival: Option<chrono::DateTime<chrono::Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    distance_miles: Option<f32>,
    context: std::collections::BTreeMap<&'static str, f32>,
}

impl<'a> FlightQuestion<'a> {
    /// The request for an example's row: what is not known is left out.
    #[must_use]
    pub fn of(example: &'a Example) -> Self {
        let row = &example.row;
        let known = NumericInput::ALL.iter().filter(|input| input.is_context() && row.get(**input).is_finite());
        Self {
            carrier: &row.carrier,
            flight_number: row.flight_number,
            origin: &row.origin,
            dest: &row.dest,
            scheduled_departure: row.scheduled_departure,
            scheduled_arrival: row.scheduled_arrival,
            distance_miles: row.distance_miles,
            context: known.map(|input| (input.name(), row.get(*input))).collect(),
        }
    }
}

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
    pub fn new(policy: ScrapePolicy) -> Result<Self, reqwest::Error> {
        let timeout = Duration::from_millis(policy.timeout_ms);
        // Replicas are addressed directly: a proxy of the environment is for the world outside.
        let client = client_builder().timeout(timeout).connect_timeout(timeout).no_proxy().build()?;
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
        let of_port = |error: PortError| failure(error.kind(), error.message().to_owned());
        let response = self.client.get(url).send().await.map_err(|error| of_port(transport_error("asking", error)))?;
        let status = response.status();
        if !status.is_success() {
            return Err(failure(kind_of_status(status.as_u16()), format!("answered {status}, expected 200")));
        }
        let body = read_limited(response, self.policy.maximum_bytes, "reading the answer").await.map_err(|error| {
            let too_large = error.kind() == ErrorKind::Invalid;
            let kind = if too_large { ErrorKind::Exhausted } else { error.kind() };
            failure(kind, error.message().to_owned())
        })?;
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

/// The longest answer that is read, in bytes.
const MOST_ANSWER_BYTES: usize = 1 << 20;

/// One row to replay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeRow {
    /// Which row, for people.
    pub label: String,
    /// The request's body: one flight.
    pub body: serde_json::Value,
    /// What the bundle's own code says of it, where it was computed.
    pub expected_score: Option<f32>,
}

/// How rows are replayed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProbePolicy {
    /// Requests under way at the same time.
    pub concurrency: usize,
    /// Deadline of one request in milliseconds.
    pub timeout_ms: u64,
    /// Deadline of all together in seconds; rows not sent by then are left out.
    pub deadline_secs: u64,
    /// Requests sent first whose answers are checked and whose latency is not counted.
    pub warm_up: usize,
    /// Headers of every request; the service's header for probes keeps replayed
    /// rows out of the sketches that drift is watched on.
    pub headers: BTreeMap<String, String>,
}

impl Default for ProbePolicy {
    fn default() -> Self {
        Self {
            concurrency: 4,
            timeout_ms: 5_000,
            deadline_secs: 60,
            warm_up: 20,
            headers: BTreeMap::from([("x-delayd-probe".to_owned(), "1".to_owned())]),
        }
    }
}

/// The part of `POST /predict`'s answer that is read.
#[derive(Deserialize)]
struct Predicted {
    model_version: String,
    bundle: String,
    predictions: Vec<PredictedFlight>,
}

#[derive(Deserialize)]
struct PredictedFlight {
    score: f32,
}

/// Replays `rows` at `POST {base_url}/predict`, one flight per request. Failures
/// of single requests are part of the result.
///
/// # Errors
/// When the HTTP client cannot be set up, as with a malformed header.
pub async fn replay(base_url: &str, rows: &[ProbeRow], policy: &ProbePolicy) -> Result<ProbeResult, reqwest::Error> {
    // The service is addressed directly: a proxy of the environment is for the world outside.
    let client = client_builder().timeout(Duration::from_millis(policy.timeout_ms)).no_proxy().build()?;
    let url = format!("{}/predict", base_url.trim_end_matches('/'));
    let started = Instant::now();
    let deadline = Duration::from_secs(policy.deadline_secs);
    let sent = rows.iter().enumerate().map(|(index, row)| {
        let (client, url) = (&client, url.as_str());
        async move {
            // Checked when its turn comes, not when the stream is made.
            match started.elapsed() < deadline {
                true => Some(ask(client, url, row, policy, index < policy.warm_up).await),
                false => None,
            }
        }
    });
    let answers: Vec<Option<ProbeAnswer>> =
        futures::stream::iter(sent).buffered(policy.concurrency.max(1)).collect().await;
    let not_sent = answers.iter().filter(|answer| answer.is_none()).count();
    let duration_ms = started.elapsed().as_secs_f64() * 1_000.0;
    Ok(ProbeResult { answers: answers.into_iter().flatten().collect(), not_sent, duration_ms })
}

async fn ask(client: &reqwest::Client, url: &str, row: &ProbeRow, policy: &ProbePolicy, warm_up: bool) -> ProbeAnswer {
    let mut answer = ProbeAnswer {
        label: row.label.clone(),
        latency_ms: 0.0,
        status: None,
        score: None,
        expected_score: row.expected_score,
        model_version: None,
        bundle: None,
        error: None,
        warm_up,
    };
    let mut request = client.post(url).json(&row.body);
    for (name, value) in &policy.headers {
        request = request.header(name, value);
    }
    let started = Instant::now();
    let body = match request.send().await {
        Ok(response) => {
            answer.status = Some(response.status().as_u16());
            read_limited(response, MOST_ANSWER_BYTES, "reading the answer").await
        }
        Err(error) => Err(transport_error("asking", error)),
    };
    answer.latency_ms = started.elapsed().as_secs_f64() * 1_000.0;
    match (body, answer.status) {
        (Err(error), _) => answer.error = Some(chain(&error)),
        (Ok(body), Some(200)) => read(&mut answer, &body),
        (Ok(body), status) => {
            let text: String = String::from_utf8_lossy(&body).chars().take(300).collect();
            answer.error = Some(format!("status {}: {text}", status.unwrap_or_default()));
        }
    }
    answer
}

fn read(answer: &mut ProbeAnswer, body: &[u8]) {
    match serde_json::from_slice::<Predicted>(body) {
        Ok(predicted) => {
            answer.score = predicted.predictions.first().map(|flight| flight.score);
            if answer.score.is_none() {
                answer.error = Some("the answer holds no prediction".to_owned());
            }
            answer.model_version = Some(predicted.model_version);
            answer.bundle = Some(predicted.bundle);
        }
        Err(error) => answer.error = Some(format!("the answer is not the document expected: {error}")),
    }
}
