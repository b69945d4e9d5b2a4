//! Where releases go: the registry of container images, and the cluster that runs the inference service.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, PortError};
use crate::ids::{DeploymentId, Digest, ModelVersion};

/// Everything that defines one release of the service; rolling back means
/// applying an earlier one as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Release {
    /// The release's own identity.
    pub deployment: DeploymentId,
    /// The model it serves.
    pub model: ModelVersion,
    /// The bundle's digest.
    pub bundle: Digest,
    /// The image, by digest.
    pub image: String,
    /// The bundle's folder on this machine (the local cluster starts from it).
    #[schema(value_type = String)]
    pub bundle_dir: PathBuf,
    /// How many replicas.
    pub replicas: u32,
}

/// How a replica is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaState {
    /// Started, not ready yet.
    Starting,
    /// Answers requests.
    Ready,
    /// Finishing its last requests; its sketches can still be fetched.
    Draining,
    /// Gone, or going wrong.
    Failed,
}

/// One running copy of the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Replica {
    /// Unique name: never used again, not even by a later replica.
    pub name: String,
    /// The model it serves.
    pub model: ModelVersion,
    /// The release that it belongs to.
    pub deployment: DeploymentId,
    /// How it is doing.
    pub state: ReplicaState,
    /// Base URL of its administrative routes (`/metrics`, `/admin/v1/…`), of this replica alone.
    pub admin_url: String,
    /// How often it was restarted.
    pub restarts: u32,
    /// Resident memory in bytes, where known.
    pub memory_bytes: Option<u64>,
    /// Why it failed, where it did.
    pub reason: Option<String>,
}

/// The progress of a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutProgress {
    /// Replicas of the new release that are ready.
    pub updated: u32,
    pub wanted: u32,
    pub message: String,
}

/// A place that runs the service behind one address.
///
/// Contract: `apply` of the release that already runs changes nothing and
/// succeeds; at least the wanted number of replicas stays ready throughout a
/// rollout (one more is started before an old one drains); when the new release
/// does not become ready before the deadline, the old replicas still serve and
/// the error gives the reason.
#[async_trait]
pub trait Cluster: Send + Sync + std::fmt::Debug {
    /// Rolls the service to `release`, replica by replica, and waits until all
    /// are ready or the deadline has passed. `progress` is called as the rollout proceeds.
    async fn apply(
        &self,
        release: &Release,
        deadline: Duration,
        progress: &(dyn Fn(RolloutProgress) + Send + Sync),
    ) -> Result<(), PortError>;
    async fn current(&self) -> Result<Option<Release>, PortError>;
    /// All replicas, draining ones too.
    async fn replicas(&self) -> Result<Vec<Replica>, PortError>;
    /// Restarts what died and takes over what an earlier daemon started. Answers
    /// what others had changed or removed and was corrected, one line for
    /// each; what merely died is in `replicas`.
    async fn reconcile(&self) -> Result<Vec<String>, PortError>;
    /// The address clients use: base URL of the service.
    fn service_url(&self) -> String;
    /// Stops everything (the end of a replay; the undo of a first deployment).
    async fn tear_down(&self) -> Result<(), PortError>;
    /// Whether the cluster can be reached and lets us do what we need to. Changes
    /// nothing; answers with one line about what is there.
    async fn probe(&self) -> Result<String, PortError>;
}

/// An image as the registry names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PushedImage {
    /// What a container runtime pulls: `repository@sha256:…`, or for the folder
    /// layout `oci:<folder>@sha256:…`.
    pub reference: String,
    /// The tag, `delay-ml:model_v3`.
    pub tag: String,
    /// The digest of the image manifest.
    pub digest: Digest,
    /// Bytes of all layers together.
    pub size_bytes: u64,
    /// Layers that were uploaded.
    pub layers_pushed: usize,
    /// Layers that were there already, in the repository or in another one of the registry.
    pub layers_reused: usize,
}

/// A registry that takes an image from a local OCI layout folder.
///
/// Contract: pushing the same layout twice is the same as once, and the second
/// time no layer is uploaded; a tag that points at another digest is moved only
/// by `push`, never by `remove_tag`; `resolve` of an unknown tag is `None`.
#[async_trait]
pub trait ImageRegistry: Send + Sync + std::fmt::Debug {
    /// Pushes the image that `layout` (an OCI image layout folder) holds under
    /// `repository:tag`.
    async fn push(&self, layout: &Path, repository: &str, tag: &str) -> Result<PushedImage, PortError>;
    async fn resolve(&self, repository: &str, tag: &str) -> Result<Option<Digest>, PortError>;
    /// Takes a tag away; the undo of a push. A missing tag is no error.
    async fn remove_tag(&self, repository: &str, tag: &str) -> Result<(), PortError>;
    /// Whether the registry can be reached and lets us in. Changes nothing;
    /// answers with one line about what is there.
    async fn probe(&self) -> Result<String, PortError>;
}

/// Refuses an invalid tag by the OCI distribution spec's grammar. `action` goes into the error.
pub fn check_tag(action: &str, tag: &str) -> Result<(), PortError> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let valid = (1..=128).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'));
    if valid {
        return Ok(());
    }
    let message = format!("`{tag}` is not a tag like `model_v3` (letters, digits and `_.-`, at most 128)");
    Err(PortError::new(ErrorKind::Invalid, action, message))
}
