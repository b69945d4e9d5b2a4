//! What the monitor is asked, and what it answers.

use actix::Message;
use serde::{Deserialize, Serialize};

use super::service::ServiceReport;
use crate::coordinator::decide::{DriftFinding, PerformanceFinding};
use crate::saga::StepFailure;

/// Look at the replicas and at what came of their predictions, and judge.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Observed, StepFailure>")]
pub struct Observe;

/// What the monitor saw.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Observed {
    /// Replicas that answered.
    pub replicas: usize,
    /// Replicas that did not, with the reason.
    pub silent: Vec<String>,
    /// Rows counted since the last look.
    pub rows: u64,
    /// Predictions that were lost before they could be fetched.
    pub predictions_lost: u64,
    /// Latency, errors, traffic and score distribution, if a model is live.
    pub service: Option<ServiceReport>,
    /// The drift report written, if there was enough to look at.
    pub drift: Option<DriftFinding>,
    /// The performance report written, if a model is live.
    pub performance: Option<PerformanceFinding>,
}
