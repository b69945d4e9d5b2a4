//! What the verification stage is asked, and what it answers.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use delayd_core::ids::{DeploymentId, Digest, ModelVersion};

/// Judge a release that was just rolled out.
#[derive(Debug, Clone)]
pub struct VerifyDeployment {
    /// Which release.
    pub deployment: DeploymentId,
    /// The model that it must serve.
    pub model: ModelVersion,
    /// The bundle whose reference the scores are held against.
    pub bundle: Digest,
    /// Where held-out rows come from when there is too little live traffic.
    pub dataset: Digest,
    /// Rows are taken from before this moment.
    pub as_of: DateTime<Utc>,
    /// Whether it is one that serves again after a rollback: its state stays, and restarts before that do not count.
    pub restored: bool,
}

/// The verdict, stored in the ledger.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeploymentVerified {
    /// Whether every check passed.
    pub passed: bool,
    /// One sentence.
    pub reason: String,
    /// Requests that were sent for it.
    pub requests: usize,
}
