//! What a run reports: its progress while it runs, what it leaves behind besides the bundle, and how it is stopped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use chrono::{DateTime, Utc};
use delayd_judge::evaluation::metrics::Metrics;
use delayd_model::{Architecture, Calibration};
use serde::{Deserialize, Serialize};

use crate::params::TrainingParameters;
use crate::tune::{TrialRecord, TuningReport};
use delayd_core::Stored;

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

/// One pass of one member over the training rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochRecord {
    pub member: usize,
    /// Which epoch, from 1; 0 is a warm start's weights before any step.
    pub epoch: usize,
    /// Mean loss over the training rows, as it was minimised; `None` for epoch 0.
    pub train_loss: Option<f64>,
    pub validation_log_loss: f64,
    pub validation_roc_auc: Option<f64>,
    pub learning_rate: f64,
    /// Wall-clock time of the epoch with its validation.
    pub seconds: f64,
    pub rows_per_second: f64,
}

impl Stored for EpochRecord {
    const NAME: &'static str = "epoch";
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum Progress {
    /// Features are being fitted and rows encoded.
    Encoding {
        train_rows: usize,
        tail_rows: usize,
    },
    TrialFinished {
        trial: usize,
        trials: usize,
        /// Its best validation log-loss; `None` where it failed.
        validation_log_loss: Option<f64>,
    },
    EpochFinished {
        max_epochs: usize,
        record: EpochRecord,
    },
    /// Weights are there; calibration, importance and the bundle follow.
    Packing,
    /// Nothing moves yet: the run waits for something outside, a node of the cluster perhaps.
    Waiting {
        what: String,
    },
}

impl Progress {
    /// The news that a trial has ended, one of so many in its round.
    pub fn trial_finished(record: &TrialRecord, trials: usize) -> Self {
        Self::TrialFinished { trial: record.trial, trials, validation_log_loss: record.outcome.log_loss() }
    }
}

#[derive(Clone)]
pub struct TrainingControl {
    /// Set it and the run ends with `Cancelled` within a batch.
    pub cancel: Arc<AtomicBool>,
    /// Called from the run's threads; must not block.
    pub progress: Arc<dyn Fn(&Progress) + Send + Sync>,
    /// A trial of the search ends here.
    pub deadline: Option<Instant>,
}

impl std::fmt::Debug for TrainingControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrainingControl").field("cancel", &self.cancel).finish_non_exhaustive()
    }
}

impl Default for TrainingControl {
    fn default() -> Self {
        Self { cancel: Arc::default(), progress: Arc::new(|_| ()), deadline: None }
    }
}

impl TrainingControl {
    /// A control that tells `progress` and stops at `cancel`.
    pub fn new(cancel: Arc<AtomicBool>, progress: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        Self { cancel, progress: Arc::new(progress), deadline: None }
    }

    /// Whether the run was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    pub fn tell(&self, progress: &Progress) {
        (self.progress)(progress);
    }

    /// Whether a run has to end now: it was cancelled, or its time is up.
    pub fn must_stop(&self) -> bool {
        self.is_cancelled() || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}
