//! Bundles by digest on this machine: written once, verified at every reading.

use std::path::{Path, PathBuf};

use delayd_model::{Bundle, BundleError};

use delayd_core::error::ErrorKind;
use delayd_core::ids::Digest;

/// Why a bundle cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum BundleStoreError {
    /// The bundle itself is at fault.
    #[error("bundle {digest}")]
    Bundle {
        /// Which bundle.
        digest: Digest,
        /// What is wrong with it.
        #[source]
        source: BundleError,
    },
    /// What was read is another bundle.
    #[error("the folder of bundle {expected} holds bundle {found}; restore it from the object store")]
    OtherBundle {
        /// Digest wanted.
        expected: Digest,
        /// Digest found.
        found: String,
    },
    /// The file system refused.
    #[error("moving a bundle to {path}: {source}")]
    Io {
        /// Where to.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
}

impl BundleStoreError {
    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { source, .. } | Self::Bundle { source: BundleError::Io { source, .. }, .. } => {
                ErrorKind::of_io(source)
            }
            Self::Bundle { .. } | Self::OtherBundle { .. } => ErrorKind::Corrupt,
        }
    }
}

/// The folder `bundles/<hex>/`.
#[derive(Debug, Clone)]
pub struct BundleStore {
    root: PathBuf,
}

impl BundleStore {
    /// A store under `root`.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder of a bundle.
    #[must_use]
    pub fn path_of(&self, digest: &Digest) -> PathBuf {
        self.root.join(digest.hex())
    }

    /// Takes a bundle that a run wrote; one that is there already stays.
    ///
    /// # Errors
    /// When the folder cannot be moved.
    pub fn take_in(&self, digest: &Digest, from: &Path) -> Result<PathBuf, BundleStoreError> {
        let target = self.path_of(digest);
        let io = |source| BundleStoreError::Io { path: target.clone(), source };
        if !target.exists() {
            std::fs::create_dir_all(&self.root).map_err(io)?;
            std::fs::rename(from, &target).map_err(io)?;
        }
        Ok(target)
    }

    /// Reads a bundle and verifies every file of it.
    ///
    /// # Errors
    /// When it is not there, damaged, or another one.
    pub fn read(&self, digest: &Digest) -> Result<Bundle, BundleStoreError> {
        let (bundle, found) = Bundle::read_from(&self.path_of(digest))
            .map_err(|source| BundleStoreError::Bundle { digest: digest.clone(), source })?;
        if found == digest.as_str() {
            Ok(bundle)
        } else {
            Err(BundleStoreError::OtherBundle { expected: digest.clone(), found })
        }
    }
}
