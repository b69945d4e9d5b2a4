//! Replays rows at a deployment as real HTTP requests: what verification goes by
//! while there is little live traffic. Requests go through the service's own
//! address, so that they meet what a client's would. Nothing is judged here.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde::{Deserialize, Serialize};

use delayd_core::error::chain;
use delayd_core::http_client::{read_limited, transport_error};
use delayd_judge::verification::measurement::{ProbeAnswer, ProbeResult};

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
    let client = delayd_core::http_client::client_builder()
        .timeout(Duration::from_millis(policy.timeout_ms))
        .no_proxy()
        .build()?;
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
