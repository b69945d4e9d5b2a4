//! The airline of a replay: asks the live service over HTTP, like anybody would.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use delayd_data::Example;
use delayd_outside::service::FlightQuestion;

/// A request that was not answered as it should have been.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The service could not be reached or did not answer.
    #[error("asking {url}")]
    Http {
        /// Where.
        url: String,
        /// What went wrong.
        #[source]
        source: reqwest::Error,
    },
    /// The service answered with an error.
    #[error("{url} answered {status}: {body}")]
    Status {
        /// Where.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The beginning of what it said.
        body: String,
    },
    /// The service answered another number of predictions.
    #[error("{url} answered {found} predictions to {expected} flights")]
    Count {
        /// Where.
        url: String,
        /// Predictions in the answer.
        found: usize,
        /// Flights in the request.
        expected: usize,
    },
}

#[derive(Debug, Serialize)]
struct Question<'a> {
    flights: Vec<FlightQuestion<'a>>,
}

/// What `POST /predict` answers.
#[derive(Debug, Deserialize)]
pub struct Answer {
    /// The model that answered.
    pub model_version: String,
    /// One per flight, in order.
    pub predictions: Vec<AnswerRow>,
}

/// The answer for one flight.
#[derive(Debug, Deserialize)]
pub struct AnswerRow {
    /// Probability of arriving 15 minutes late or more.
    pub score: f32,
}

/// An HTTP client of the service.
#[derive(Debug, Clone)]
pub struct ServiceClient {
    http: reqwest::Client,
    url: String,
}

impl ServiceClient {
    /// A client of the service at `base_url`.
    ///
    /// # Errors
    /// When the HTTP client cannot be built.
    pub fn new(base_url: &str) -> Result<Self, AskError> {
        let url = format!("{base_url}/predict");
        let http = delayd_core::http_client::client_builder().timeout(Duration::from_secs(30)).no_proxy().build();
        let http = http.map_err(|source| AskError::Http { url: url.clone(), source })?;
        Ok(Self { http, url })
    }

    /// Asks about some flights in one request.
    ///
    /// # Errors
    /// When the service does not answer every one of them.
    pub async fn ask(&self, examples: &[Example]) -> Result<Answer, AskError> {
        let url = || self.url.clone();
        let question = Question { flights: examples.iter().map(FlightQuestion::of).collect() };
        let http = |source| AskError::Http { url: url(), source };
        let response = self.http.post(&self.url).json(&question).send().await.map_err(http)?;
        let status = response.status();
        if !status.is_success() {
            let body: String = response.text().await.unwrap_or_default().chars().take(400).collect();
            return Err(AskError::Status { url: url(), status: status.as_u16(), body });
        }
        let answer: Answer = response.json().await.map_err(http)?;
        if answer.predictions.len() != examples.len() {
            return Err(AskError::Count { url: url(), found: answer.predictions.len(), expected: examples.len() });
        }
        Ok(answer)
    }
}
