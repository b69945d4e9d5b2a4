//! What the monitor is asked, and what it answers.

use serde::{Deserialize, Serialize};

use delayd_core::Stored;
use delayd_judge::decide::{DriftFinding, PerformanceFinding};
use delayd_judge::monitoring::performance::PerformanceReport;
use delayd_judge::monitoring::service::ServiceReport;
use delayd_judge::monitoring::skew::TrainServeLook;

/// Look at the replicas and at what came of their predictions, and judge.
#[derive(Debug, Clone)]
pub struct Observe;

/// Fetch the last counts of replicas that are about to leave, and let them go.
/// Nothing is judged.
#[derive(Debug, Clone)]
pub struct CollectDraining;

/// What was fetched of replicas that leave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Replicas that were still draining, or had drained, when they were asked for.
    pub draining: usize,
    /// Those of them whose last counts were fetched: they leave now.
    pub released: usize,
    /// Rows that they had counted since the last look.
    pub rows: u64,
}

/// What the monitor saw.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Observed {
    /// Replicas that answered.
    pub replicas: usize,
    /// Replicas that should have (they are ready), with the reason.
    pub silent: Vec<String>,
    /// Rows counted since the last look.
    pub rows: u64,
    /// Predictions that were overwritten before they could be fetched at this look.
    pub predictions_lost: u64,
    /// Latency, errors, traffic and score distribution, if a model is live.
    pub service: Option<ServiceReport>,
    /// The drift report written, if there was enough to look at.
    pub drift: Option<DriftFinding>,
    /// The performance report written, if a model is live.
    pub performance: Option<PerformanceFinding>,
}

/// What a look measured, as it is kept. What an earlier delayd did not measure is missing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct WindowSeen {
    /// Realised performance against what validation promised.
    pub performance: Option<PerformanceReport>,
    /// Latency, errors, traffic, scores.
    pub service: Option<ServiceReport>,
    /// How replicas answered.
    pub replicas: Option<ReplicasSeen>,
    /// How golden rows scored when replicas were asked them last.
    pub train_serve: Option<TrainServeLook>,
}

impl Stored for WindowSeen {
    const NAME: &'static str = "window of the monitor";
}

/// How replicas answered at a look, as it is kept with the look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplicasSeen {
    /// Replicas that answered.
    pub answered: usize,
    /// Ready replicas that did not, with the reason.
    pub silent: Vec<String>,
    /// Predictions that were overwritten before they could be fetched at this look.
    pub predictions_lost: u64,
    /// The same of all looks so far.
    pub predictions_lost_total: u64,
}
