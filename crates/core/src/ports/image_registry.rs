//! Where container images go.

use std::path::Path;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, PortError};
use crate::ids::Digest;

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

/// Refuses what is no tag in the OCI distribution spec's grammar. `action` goes into the error.
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
