//! What a run leaves behind besides the bundle.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use delayd_model::{Architecture, Calibration};
use serde::{Deserialize, Serialize};

use crate::control::EpochRecord;
use crate::params::TrainingParameters;
use crate::tune::TuningReport;
use delayd_judge::evaluation::metrics::Metrics;

/// The threshold and what it does on the rows it was chosen on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChosenThreshold {
    /// Probability from which a flight counts as delayed.
    pub value: f32,
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
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
    pub version: String,
    pub libraries: BTreeMap<String, String>,
    pub device: String,
    pub architecture: Architecture,
    pub weights: usize,
    pub started_from: StartedFrom,
    pub train_rows: usize,
    pub train_positives: usize,
    pub tail_rows: usize,
    pub train_from: DateTime<Utc>,
    pub tail_from: DateTime<Utc>,
    pub tail_until: DateTime<Utc>,
    /// How many times more a delayed row weighed.
    pub positive_weight: f64,
    pub best_epochs: Vec<usize>,
    /// Logit to probability.
    pub calibration: Calibration,
    /// The threshold and what it does on the tail.
    pub threshold: ChosenThreshold,
}

/// The whole report, with what took how long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingReport {
    /// What the bundle records too.
    pub record: TrainingRecord,
    /// Metrics on the tail, calibrated and judged on the same rows.
    pub validation: Metrics,
    pub epochs: Vec<EpochRecord>,
    pub tuning: Option<TuningReport>,
    /// Share of each input in the model's ROC-AUC, largest first.
    pub importance: Vec<(String, f64)>,
    pub bundle_digest: String,
    /// Largest difference between libtorch and the plain forward pass that was seen.
    pub largest_disagreement: f32,
    pub encoding_seconds: f64,
    pub tuning_seconds: f64,
    pub fitting_seconds: f64,
    pub total_seconds: f64,
}
