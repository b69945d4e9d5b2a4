//! What the deployment stage is asked, and what it answers.

use serde::{Deserialize, Serialize};

use delayd_core::ids::{CycleId, DeploymentId, Digest, ModelVersion};

/// Roll the service to a model.
#[derive(Debug, Clone)]
pub struct DeployModel {
    /// On behalf of which cycle.
    pub cycle: CycleId,
    /// The release's identity, minted with the cycle.
    pub deployment: DeploymentId,
    /// Which model.
    pub model: ModelVersion,
    /// Its bundle.
    pub bundle: Digest,
    /// Its image, by digest.
    pub image: String,
}

/// Every replica runs the new release.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ModelDeployed {
    /// The release.
    pub deployment: DeploymentId,
    /// Its model.
    pub model: ModelVersion,
    /// The release that it replaced.
    pub replaced: Option<DeploymentId>,
    /// Where clients reach the service.
    pub service_url: String,
}

/// Go back to the release before `failed`, as a whole. Answers which one serves again, if any does.
#[derive(Debug, Clone)]
pub struct RestoreRelease {
    /// The release to leave.
    pub failed: DeploymentId,
}

/// Go back to the previous model's approved release. What is to be done is noted first.
#[derive(Debug, Clone)]
pub struct RollBackToPrevious {
    /// Who asked.
    pub by: String,
    /// Why.
    pub why: String,
}

/// Finish a rollback that was noted and not finished, if there is one.
#[derive(Debug, Clone)]
pub struct FinishRollback;

/// The release that a rollback went back to was verified: nothing of it is left to do.
#[derive(Debug, Clone)]
pub struct RollbackVerified;

/// Restart dead replicas and adopt running ones.
#[derive(Debug, Clone)]
pub struct ReconcileReplicas;
