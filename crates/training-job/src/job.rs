//! Who trains: a thread of this process, or Jobs of a cluster.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{HoldoutSettings, TrainingControl, TrainingParameters, TrainingPolicy, TrainingReport, TuningParameters};
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ids::{CycleId, Digest, RunId, TraceId};
use delayd_data::frozen::FrozenInputs;
use delayd_data::training_sets::Timing;

/// Everything that defines a training run. It names its inputs by digest and holds
/// no data, so that it can be stored, compared and sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingJob {
    /// The run's identity, minted with the cycle.
    pub run: RunId,
    /// On behalf of which cycle.
    pub cycle: CycleId,
    /// The moment of the retrain: history is weighed, and rows are held out, from here.
    pub as_of: DateTime<Utc>,
    /// What to learn from.
    pub dataset: Digest,
    /// Weather and reference data that its flights are joined with.
    pub inputs: FrozenInputs,
    /// When things were known.
    pub timing: Timing,
    /// The live model's bundle, for a warm start.
    pub live: Option<Digest>,
    /// The parameters in use.
    pub parameters: TrainingParameters,
    /// The search for better ones, where it is due.
    pub tuning: Option<TuningParameters>,
    /// Which rows are held out.
    pub holdout: HoldoutSettings,
    /// How much each flight weighs.
    pub policy: TrainingPolicy,
    /// The cycle's trace, for the log of whoever trains. It is no part of the work.
    #[serde(skip)]
    pub trace: Option<TraceId>,
}

impl TrainingJob {
    /// The digest of its JSON, whose fields have a fixed order: two jobs with the
    /// same digest are the same work.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn digest(&self) -> Result<Digest, PortError> {
        let json = serde_json::to_vec(self);
        let json = json.map_err(|error| PortError::new(ErrorKind::Internal, self.action(), error.to_string()))?;
        Ok(Digest::of(&json))
    }

    /// What an error of this job says was being done.
    #[must_use]
    pub fn action(&self) -> String {
        format!("training {}", self.run)
    }
}

/// What a run brought.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingResult {
    /// The bundle's digest.
    pub bundle: Digest,
    /// The prefix in the object store under which it lies until the run is forgotten.
    pub bundle_prefix: String,
    /// ROC-AUC on the held-out rows.
    pub roc_auc: f64,
    /// The bundle's metrics.
    pub metrics: serde_json::Value,
    /// How it came about.
    pub report: TrainingReport,
}

/// Somebody who tunes and trains.
///
/// Contract (the suite in `crates/testkit/src/contracts/trainer.rs` runs it on every adapter):
///
/// * The same job gives the same bundle digest wherever it runs on a CPU, by the
///   same build with the same number of threads, and the same trial records but for
///   their seconds.
/// * `train` again for a run whose job was cut off goes on or begins anew, as the
///   adapter can; never is the work of another job taken for its own, even where it
///   has the same run's name.
/// * Set `control.cancel` and it ends with `Cancelled`; nothing of it runs on.
///   Dropping the call is no cancellation: what runs elsewhere runs on and is found
///   again, what runs in this process stops.
/// * A dataset or live bundle that is missing is `NotFound`, one that is damaged
///   `Corrupt`, rows that do not suffice and parameters that cannot be used are
///   `Invalid`. A worker that found no place before its deadline is `Timeout`, one
///   that ran out of memory `Exhausted`; the text says what the cluster said.
/// * `forget` stops what still runs for a run and removes what was kept of it, apart
///   from a folder that was handed over; a run it never saw is no error.
#[async_trait]
pub trait Trainer: Send + Sync + std::fmt::Debug {
    /// Trains, and tells `control` how it goes.
    async fn train(&self, job: &TrainingJob, control: &TrainingControl) -> Result<TrainingResult, PortError>;
    /// Stops and removes what is left of a run.
    async fn forget(&self, run: RunId) -> Result<(), PortError>;
    /// Whether it could train now. Changes nothing; answers with one line about what is there.
    async fn probe(&self) -> Result<String, PortError>;
}
