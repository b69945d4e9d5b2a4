//! What the training stage is asked, and what it answers.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use delayd_core::ids::{CycleId, DecisionId, Digest, RunId};

/// Tune and train a challenger.
#[derive(Debug, Clone)]
pub struct TrainModel {
    /// On behalf of which cycle.
    pub cycle: CycleId,
    /// The run's identity, minted with the cycle.
    pub run: RunId,
    /// What to learn from.
    pub dataset: Digest,
    /// The moment of the retrain: history is weighed from here.
    pub as_of: DateTime<Utc>,
}

/// A bundle lies in the run's folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ModelTrained {
    /// The run.
    pub run: RunId,
    /// The bundle's digest.
    pub bundle: Digest,
    /// Where it lies until it is registered.
    pub path: PathBuf,
    /// Flights it learnt from.
    pub trained_rows: usize,
    /// ROC-AUC on the held-out rows.
    pub roc_auc: f64,
    /// Seconds of training, tuning included.
    pub train_secs: f64,
}

/// Compare a challenger with the live model on the same held-out rows.
#[derive(Debug, Clone)]
pub struct CompareWithLive {
    /// On behalf of which cycle.
    pub cycle: CycleId,
    /// Where the rows come from.
    pub dataset: Digest,
    /// The challenger's bundle.
    pub challenger: Digest,
    /// The moment of the retrain.
    pub as_of: DateTime<Utc>,
}

/// The gate's answer, recorded as a decision.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GateAnswered {
    /// Whether the challenger goes on.
    pub passed: bool,
    /// One sentence.
    pub reason: String,
    /// Where the ledger keeps the inputs and every check.
    pub decision: DecisionId,
}

/// Undo of [`TrainModel`]: removes the run's folder; the run stays on record.
#[derive(Debug, Clone)]
pub struct DiscardRun {
    /// Which run.
    pub run: RunId,
}

/// Stop a run that is under way; it ends as cancelled within a batch.
#[derive(Debug, Clone)]
pub struct CancelRun {
    /// Which.
    pub run: RunId,
}
