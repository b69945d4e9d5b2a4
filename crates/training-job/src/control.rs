//! What a run tells while it runs, and how it is stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::tune::TrialRecord;
use delayd_core::Stored;

/// One pass of one member over the training rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochRecord {
    /// Which member, from 0.
    pub member: usize,
    /// Which epoch, from 1; 0 is a warm start's weights before any step.
    pub epoch: usize,
    /// Mean loss over the training rows, as it was minimised; `None` for epoch 0.
    pub train_loss: Option<f64>,
    /// Log-loss on the validation tail.
    pub validation_log_loss: f64,
    /// ROC-AUC on the validation tail.
    pub validation_roc_auc: Option<f64>,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Wall-clock time of the epoch with its validation.
    pub seconds: f64,
    /// Training rows per second.
    pub rows_per_second: f64,
}

impl Stored for EpochRecord {
    const NAME: &'static str = "epoch";
}

/// News of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum Progress {
    /// Features are being fitted and rows encoded.
    Encoding {
        /// Rows to learn from.
        train_rows: usize,
        /// Rows in the validation tail.
        tail_rows: usize,
    },
    /// A trial of the search has ended.
    TrialFinished {
        /// Which trial, from 0.
        trial: usize,
        /// Trials in this round.
        trials: usize,
        /// Its best validation log-loss; `None` where it failed.
        validation_log_loss: Option<f64>,
    },
    /// An epoch has ended.
    EpochFinished {
        /// Epochs at most.
        max_epochs: usize,
        /// What came out.
        record: EpochRecord,
    },
    /// Weights are there; calibration, importance and the bundle follow.
    Packing,
    /// Nothing moves yet: the run waits for something outside, a node of the cluster perhaps.
    Waiting {
        /// For what, in words.
        what: String,
    },
}

impl Progress {
    /// The news that a trial has ended, one of so many in its round.
    #[must_use]
    pub fn trial_finished(record: &TrialRecord, trials: usize) -> Self {
        Self::TrialFinished { trial: record.trial, trials, validation_log_loss: record.outcome.log_loss() }
    }
}

/// How the caller follows and stops a run.
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
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// Tells the one who follows the run.
    pub fn tell(&self, progress: &Progress) {
        (self.progress)(progress);
    }

    /// Whether a run has to end now: it was cancelled, or its time is up.
    #[must_use]
    pub fn must_stop(&self) -> bool {
        self.is_cancelled() || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}
