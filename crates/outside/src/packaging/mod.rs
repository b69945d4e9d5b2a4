//! Packaging: a registered model becomes a container image, between registering
//! and deploying in the loop.
//!
//! [`package`] builds a reproducible OCI image layout from two layers: the static
//! inference service, the same for every model, and the model's bundle. No Docker
//! daemon is involved, and nothing is pushed: that is the image registry's port.
//! [`docker`] has the two ends of the same work where a Docker Engine does it.
//! [`source`] builds the service from its repository.

pub mod docker;
mod image;
pub mod oci;
pub mod source;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use delayd_core::IntoPortError;
use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::ids::{Digest, ModelVersion};
pub(crate) use image::{beside, remove_folder};
pub use image::{check_repository, package};
use oci::Platform;
pub use source::{Builds, SourceKind, SourceSettings};

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
    #[error("service binary {path} {fault}; build it with `make build` or name another one")]
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

/// Program header type that names a dynamic loader (ELF-64 object file format, `PT_INTERP`).
const LOADER_SEGMENT: u32 = 3;
const ELF_HEADER_BYTES: usize = 64;
/// More program headers than any linker writes.
const MAX_PROGRAM_HEADERS: u16 = 128;

/// What an image needs to know of an executable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceExecutable {
    pub(super) platform: Platform,
    /// Whether it starts without a dynamic loader.
    pub(super) is_static: bool,
}

/// Reads the headers of the executable at `path`.
pub(super) fn inspect_service(path: &Path) -> Result<ServiceExecutable, PackagingError> {
    let fault = |fault: String| PackagingError::ServiceBinary { path: path.to_owned(), fault };
    let mut file = File::open(path).map_err(|error| fault(format!("cannot be opened ({error})")))?;
    let mut header = [0_u8; ELF_HEADER_BYTES];
    file.read_exact(&mut header).map_err(|error| fault(format!("cannot be read ({error})")))?;
    // Magic number, 64 bits, little-endian.
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return Err(fault("is not a 64-bit little-endian ELF executable".to_owned()));
    }
    let architecture = match short(&header, 18) {
        62 => "amd64",
        183 => "arm64",
        other => return Err(fault(format!("is for a machine (ELF code {other}) that is neither amd64 nor arm64"))),
    };
    let (offset, entry_size, count) = (long(&header, 32), short(&header, 54), short(&header, 56));
    if entry_size < 4 || count > MAX_PROGRAM_HEADERS {
        return Err(fault("has a damaged ELF header".to_owned()));
    }
    let mut is_static = true;
    for number in 0..count {
        let mut kind = [0_u8; 4];
        let position = offset.saturating_add(u64::from(number) * u64::from(entry_size));
        file.read_exact_at(&mut kind, position).map_err(|error| fault(format!("is cut short ({error})")))?;
        is_static &= u32::from_le_bytes(kind) != LOADER_SEGMENT;
    }
    let platform = Platform { architecture: architecture.to_owned(), os: "linux".to_owned() };
    Ok(ServiceExecutable { platform, is_static })
}

fn short(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn long(bytes: &[u8], at: usize) -> u64 {
    (0..8).rev().fold(0, |value, offset| value << 8 | u64::from(bytes[at + offset]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_executable_is_dynamically_linked() {
        let found = inspect_service(&std::env::current_exe().unwrap()).unwrap();
        assert!(!found.is_static);
        assert_eq!(found.platform.os, "linux");
    }

    #[test]
    fn a_script_is_no_service() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("delayd-serve");
        std::fs::write(&path, "#!/bin/sh\n".repeat(20)).unwrap();
        let error = inspect_service(&path).unwrap_err();
        assert!(error.to_string().contains("is not a 64-bit little-endian ELF executable"), "{error}");
    }
}
