//! What a run tells while it runs, and how it is stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::tune::TrialRecord;

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

    /// Whether somebody asked for the run to stop.
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
