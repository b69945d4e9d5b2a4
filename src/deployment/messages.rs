//! What the deployment stage is asked, and what it answers.

use actix::Message;
use serde::{Deserialize, Serialize};

use crate::ids::{CycleId, DeploymentId, Digest, ModelVersion};
use crate::saga::StepFailure;

/// Roll the service to a model.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<ModelDeployed, StepFailure>")]
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

/// Go back to the release before `failed`, as a whole.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), StepFailure>")]
pub struct RestoreRelease {
    /// The release to leave.
    pub failed: DeploymentId,
}

/// Go back to the last approved release other than the live one.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<ModelVersion, StepFailure>")]
pub struct RollBackToPrevious {
    /// Who asked, for the ledger.
    pub by: String,
}

/// Restart dead replicas and adopt running ones.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), StepFailure>")]
pub struct ReconcileReplicas;
