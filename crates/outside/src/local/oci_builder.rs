//! The embedded image builder: writes the OCI layout itself, without any daemon
//! and with the same digest every time.

use async_trait::async_trait;

use crate::packaging::ImageBuilder;
use crate::packaging::{PackageRequest, PackagedImage, package};
use delayd_core::error::PortError;
use delayd_core::error::chain;

/// Builds images by itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct OciBuilder;

#[async_trait]
impl ImageBuilder for OciBuilder {
    async fn build(&self, request: &PackageRequest) -> Result<PackagedImage, PortError> {
        let request = request.clone();
        super::blocking("building an image", move || {
            let action = format!("building the image of {}", request.model);
            package(&request).map_err(|error| PortError::new(error.kind(), action, chain(&error)))
        })
        .await
    }

    async fn discard(&self, _: &str, _: &str) -> Result<(), PortError> {
        Ok(())
    }

    async fn probe(&self) -> Result<String, PortError> {
        Ok("built in".to_owned())
    }
}
