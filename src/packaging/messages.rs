//! What the packaging stage is asked, and what it answers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use delayd_core::ids::{CycleId, Digest, ModelVersion};
use delayd_core::ports::PushedImage;

/// Build the inference service from its source.
#[derive(Debug, Clone)]
pub struct BuildService {
    /// On behalf of which cycle.
    pub cycle: CycleId,
}

/// The service's executable, and where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceBuilt {
    /// The executable.
    pub binary: PathBuf,
    /// Its digest.
    pub digest: Digest,
    /// The repository, for the image's annotations.
    pub repository: String,
    /// The commit.
    pub commit: String,
}

/// Build the service image of a model.
#[derive(Debug, Clone)]
pub struct PackageModel {
    /// Which model.
    pub model: ModelVersion,
    /// Its bundle.
    pub bundle: Digest,
    /// What it was trained on, for the image's annotations.
    pub dataset: Digest,
    /// The service that was built for it; the one at hand without it.
    pub service: Option<ServiceBuilt>,
}

/// The image lies in a local OCI layout.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ModelPackaged {
    /// The layout folder.
    pub layout: PathBuf,
    /// Digest of the image manifest.
    pub digest: Digest,
    /// Bytes of all layers.
    pub size_bytes: u64,
}

/// Push a packaged image.
#[derive(Debug, Clone)]
pub struct PushImage {
    /// Which model.
    pub model: ModelVersion,
    /// Its image.
    pub packaged: ModelPackaged,
}

/// The registry has the image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImagePushed {
    /// As the registry names it.
    pub image: PushedImage,
}

/// Undo of [`PushImage`]: takes the tag away.
#[derive(Debug, Clone)]
pub struct WithdrawImage {
    /// Whose image.
    pub model: ModelVersion,
}

/// Undo of [`PackageModel`]: removes the local layout.
#[derive(Debug, Clone)]
pub struct DiscardImage {
    /// Whose image.
    pub model: ModelVersion,
}
