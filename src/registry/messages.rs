//! What the registry stage is asked, and what it answers.

use serde::{Deserialize, Serialize};

use crate::training::messages::ModelTrained;
use delayd_core::ids::{DeploymentId, Digest, ModelVersion};
use delayd_ledger::Cycle;

/// Give a trained bundle its version and make it the candidate.
#[derive(Debug, Clone)]
pub struct RegisterModel {
    /// The cycle, with the version minted for it and the reason of the retrain.
    pub cycle: Cycle,
    /// What training produced.
    pub trained: ModelTrained,
    /// What it was trained on.
    pub dataset: Digest,
}

/// The model has its version.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ModelRegistered {
    /// The version.
    pub version: ModelVersion,
    /// The bundle's digest.
    pub bundle: Digest,
}

/// Make a deployed and verified model the live one.
#[derive(Debug, Clone)]
pub struct PromoteModel {
    /// Which model.
    pub version: ModelVersion,
    /// Its release.
    pub deployment: DeploymentId,
}

/// Undo of [`PromoteModel`]: the previous model is live again.
#[derive(Debug, Clone)]
pub struct DemoteModel {
    /// Which model stops being live.
    pub version: ModelVersion,
}

/// Undo of [`RegisterModel`]: the version stays on record, but is no candidate.
#[derive(Debug, Clone)]
pub struct WithdrawModel {
    /// Which model.
    pub version: ModelVersion,
}
