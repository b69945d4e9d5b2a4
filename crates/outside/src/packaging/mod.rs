//! Packaging: a registered model becomes a container image, between registering
//! and deploying in the loop.
//!
//! [`package`] builds a reproducible OCI image layout from two layers: the static
//! inference service, the same for every model, and the model's bundle. No Docker
//! daemon is involved, and nothing is pushed: that is the image registry's port.
//! [`docker_context`] and [`docker_archive`] are the two ends of the same work where
//! a Docker Engine does it. [`source`] builds the service from its repository, and
//! [`export`] tells other programs which image was pushed.

pub mod docker_archive;
pub mod docker_context;
mod image;
mod image_builder;
mod layer;
pub mod oci;
mod service_binary;
pub mod source;

use std::path::{Path, PathBuf};

pub use image::{check_repository, package};
pub use image_builder::ImageBuilder;
pub use source::{Builds, SourceKind, SourceSettings};

use delayd_core::IntoPortError;
use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::ids::{Digest, ModelVersion};

/// What to package.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PackageRequest {
    /// The model; its name becomes the tag.
    pub model: ModelVersion,
    /// The bundle's folder.
    pub bundle_dir: PathBuf,
    /// The digest that the bundle must have.
    pub bundle: Digest,
    /// The dataset the model learned from, for the labels.
    pub dataset: String,
    /// The `delayd-serve` executable.
    pub service_binary: PathBuf,
    /// The source revision the executable was built from, for the labels.
    pub service_revision: String,
    /// The repository it was built from, for the labels, where that was done.
    pub service_source: Option<String>,
    /// Whether a dynamically linked executable is refused. The image has no
    /// loader, so only a static one starts in it; a development setup that
    /// never runs the image may let a dynamic one pass.
    pub service_must_be_static: bool,
    /// The image's repository, `delay-ml`.
    pub repository: String,
    /// The layout folder to write; what is there is replaced.
    pub layout_dir: PathBuf,
}

/// A packaged image.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PackagedImage {
    /// The OCI layout folder.
    pub layout_dir: PathBuf,
    /// Repository and tag, `delay-ml:model_v3`.
    pub tag: String,
    /// Digest of the image manifest.
    pub manifest: Digest,
    /// Digest of the service's layer, the same for every model.
    pub service_layer: Digest,
    /// Digest of the model's layer.
    pub model_layer: Digest,
    /// Bytes of both layers, compressed.
    pub size_bytes: u64,
}

/// Why an image cannot be built or a layout cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PackagingError {
    /// The file system refused.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
    /// A JSON document of the bundle or the layout cannot be understood.
    #[error("{path} is not the JSON document expected there")]
    Json {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Content is not what its digest says.
    #[error("{path} is damaged: its digest is {found}, expected {expected}; restore it or build it again")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Digest found.
        found: Digest,
        /// Digest expected.
        expected: Digest,
    },
    /// The executable cannot run in the image.
    #[error("service binary {path} {fault}; build it with `make service` or name another one")]
    ServiceBinary {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// What a Docker Engine exported is not the image that was built.
    #[error("{path} is not the exported image that was expected: {fault}")]
    Archive {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// A layout without the image asked for.
    #[error("{path} holds no image named `{tag}` (it holds: {held})")]
    NoSuchImage {
        /// The layout's folder.
        path: PathBuf,
        /// The name asked for.
        tag: String,
        /// The names there.
        held: String,
    },
    /// A name that is none.
    #[error("`{given}` is not a {expected}")]
    InvalidName {
        /// What was given.
        given: String,
        /// What was expected, with an example.
        expected: &'static str,
    },
}

impl IntoPortError for PackagingError {
    fn into_port_error(self, action: &str) -> PortError {
        PortError::new(self.kind(), action, chain(&self))
    }
}

impl PackagingError {
    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { source, .. } => ErrorKind::of_io(source),
            Self::Json { .. } | Self::Damaged { .. } | Self::Archive { .. } => ErrorKind::Corrupt,
            Self::ServiceBinary { .. } | Self::InvalidName { .. } => ErrorKind::Invalid,
            Self::NoSuchImage { .. } => ErrorKind::NotFound,
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn json(path: &Path) -> impl FnOnce(serde_json::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Json { path, source }
    }
}
