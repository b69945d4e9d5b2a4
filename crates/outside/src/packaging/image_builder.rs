//! What puts the inference service and a bundle together into an image.

use async_trait::async_trait;

use crate::packaging::{PackageRequest, PackagedImage};
use delayd_core::error::PortError;

/// A builder of images.
///
/// Contract: the image lies as an OCI layout in the request's folder, which is
/// replaced only when the image is whole; it has two layers, the service's, which
/// is the same for every model of one service, and the model's; the configuration
/// is the one that `packaging` describes. What is damaged, or cannot start in an
/// image, is refused. The same request again gives an image that does the same,
/// though not with every builder the same digest.
#[async_trait]
pub trait ImageBuilder: Send + Sync + std::fmt::Debug {
    /// Builds the image.
    async fn build(&self, request: &PackageRequest) -> Result<PackagedImage, PortError>;
    /// Forgets an image outside the layout; the undo of a build. One that is not
    /// there is no error.
    async fn discard(&self, repository: &str, tag: &str) -> Result<(), PortError>;
    /// Whether the builder can be reached and lets us build. Changes nothing;
    /// answers with one line about what is there.
    async fn probe(&self) -> Result<String, PortError>;
}
