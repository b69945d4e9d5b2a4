//! What a run leaves behind besides the bundle.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use delayd_model::{Architecture, Calibration};
use serde::{Deserialize, Serialize};

use crate::control::EpochRecord;
use crate::params::TrainingParameters;
use crate::tune::TuningReport;
use delayd_core::Stored;
use delayd_judge::evaluation::metrics::Metrics;

/// The threshold and what it does on the rows it was chosen on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChosenThreshold {
    /// Probability from which a flight counts as delayed.
    pub value: f32,
    /// Precision there.
    pub precision: f64,
    /// Recall there.
    pub recall: f64,
    /// F1 there.
    pub f1: f64,
    /// Share of the rows called delayed.
    pub alert_share: f64,
}

/// Whether a run began from an earlier model's weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartedFrom {
    /// From random weights, and why.
    Scratch(String),
    /// From the earlier model's.
    EarlierWeights,
}

/// Everything about a run that depends on its inputs alone; `training.json` of the bundle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingRecord {
    /// Every parameter, the seed among them; after tuning, those of the best trial.
    pub parameters: TrainingParameters,
    /// The dataset's version, where the caller knows it.
    pub dataset: Option<String>,
    /// The commit of the program that trained, `-dirty` where its sources differed from it.
    pub commit: Option<String>,
    /// Version of delayd.
    pub version: String,
    /// Versions of the libraries that compute.
    pub libraries: BTreeMap<String, String>,
    /// Where it was trained.
    pub device: String,
    /// The network's shape.
    pub architecture: Architecture,
    /// How many weights it has.
    pub weights: usize,
    /// What it began from.
    pub started_from: StartedFrom,
    /// Rows learnt from.
    pub train_rows: usize,
    /// Delayed flights among them.
    pub train_positives: usize,
    /// Rows in the validation tail.
    pub tail_rows: usize,
    /// First prediction time learnt from.
    pub train_from: DateTime<Utc>,
    /// First prediction time of the tail.
    pub tail_from: DateTime<Utc>,
    /// Last prediction time of the tail.
    pub tail_until: DateTime<Utc>,
    /// How many times more a delayed row weighed.
    pub positive_weight: f64,
    /// Best epoch per member.
    pub best_epochs: Vec<usize>,
    /// Logit to probability.
    pub calibration: Calibration,
    /// The threshold and what it does on the tail.
    pub threshold: ChosenThreshold,
}

impl Stored for TrainingRecord {
    const NAME: &'static str = "training record";
}

/// The whole report, with what took how long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingReport {
    /// What the bundle records too.
    pub record: TrainingRecord,
    /// Metrics on the tail, calibrated and judged on the same rows.
    pub validation: Metrics,
    /// Every epoch of every member.
    pub epochs: Vec<EpochRecord>,
    /// The search, where there was one.
    pub tuning: Option<TuningReport>,
    /// Share of each input in the model's ROC-AUC, largest first.
    pub importance: Vec<(String, f64)>,
    /// The bundle's digest.
    pub bundle_digest: String,
    /// Largest difference between libtorch and the plain forward pass that was seen.
    pub largest_disagreement: f32,
    /// Fitting features and encoding.
    pub encoding_seconds: f64,
    /// The search.
    pub tuning_seconds: f64,
    /// Fitting the network.
    pub fitting_seconds: f64,
    /// Everything.
    pub total_seconds: f64,
}
