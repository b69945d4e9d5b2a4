//! Model bundles: on this machine by digest, and to and from the object store.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::ids::Digest;
use delayd_core::ports::ObjectStore;
use delayd_core::{blocking, own_folder};
use delayd_model::{Bundle, BundleError};

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
    pub fn take_in(&self, digest: &Digest, from: &Path) -> Result<PathBuf, PortError> {
        let target = self.path_of(digest);
        let io = |error| PortError::io(format!("moving a bundle to {}", target.display()), error);
        if !target.exists() {
            std::fs::create_dir_all(&self.root).map_err(io)?;
            std::fs::rename(from, &target).map_err(io)?;
        }
        Ok(target)
    }

    /// Reads a bundle and verifies every file of it.
    ///
    /// # Errors
    /// `NotFound` when it is not there, `Corrupt` when it is damaged or another one.
    pub fn read(&self, digest: &Digest) -> Result<Bundle, PortError> {
        let action = format!("reading bundle {digest}");
        let (bundle, found) = Bundle::read_from(&self.path_of(digest)).map_err(|error| {
            let kind = match &error {
                BundleError::Io { source, .. } => ErrorKind::of_io(source),
                _ => ErrorKind::Corrupt,
            };
            PortError::new(kind, action.as_str(), chain(&error))
        })?;
        if found == digest.as_str() {
            return Ok(bundle);
        }
        let message = format!("its folder holds bundle {found}; restore it from the object store");
        Err(PortError::new(ErrorKind::Corrupt, action, message))
    }
}

const MANIFEST: &str = "manifest.json";

/// Where a registered bundle lies in the object store.
#[must_use]
pub fn bundle_prefix(digest: &Digest) -> String {
    format!("bundles/{}/", digest.hex())
}

/// Copies a bundle's folder under a prefix. A prefix belongs to one digest: what is there already is the same.
pub async fn upload_bundle(store: &dyn ObjectStore, dir: &Path, prefix: &str) -> Result<(), PortError> {
    let folder = dir.to_owned();
    let files = blocking("moving a bundle", move || read_files(&folder)).await?;
    for (name, body) in files {
        store.put(&format!("{prefix}{name}"), body).await?;
    }
    Ok(())
}

/// Fetches a bundle into `dir`, replacing what lies there, and verifies every file.
///
/// # Errors
/// `NotFound` when the store has none there, `Corrupt` when it is damaged or another
/// bundle; the folder is left as it was then.
pub async fn download_bundle(
    store: &dyn ObjectStore,
    prefix: &str,
    expected: &Digest,
    dir: &Path,
) -> Result<Bundle, PortError> {
    let action = format!("fetching bundle {expected}");
    let objects = store.list(prefix).await?;
    let mut files = Vec::with_capacity(objects.len());
    for object in objects {
        let name = object.key.strip_prefix(prefix).unwrap_or_default().to_owned();
        if Path::new(&name).file_name() != Some(name.as_ref()) {
            let message = format!("{} is not a file of a bundle; the objects under {prefix} are", object.key);
            return Err(PortError::new(ErrorKind::Corrupt, action, message));
        }
        files.push((name, store.get(&object.key).await?));
    }
    if !files.iter().any(|(name, _)| name == MANIFEST) {
        let message = format!("the object store has no complete bundle under {prefix}; restore it from a backup");
        return Err(PortError::new(ErrorKind::NotFound, action, message));
    }
    let (dir, expected) = (dir.to_owned(), expected.clone());
    blocking("moving a bundle", move || write_and_verify(&action, &dir, &files, &expected)).await
}

fn write_and_verify(
    action: &str,
    dir: &Path,
    files: &[(String, Bytes)],
    expected: &Digest,
) -> Result<Bundle, PortError> {
    let io = |error: std::io::Error| PortError::io(format!("{action} into {}", dir.display()), error);
    let corrupt = |message: String| PortError::new(ErrorKind::Corrupt, action, message);
    let staging = dir.with_extension("partial");
    remove(&staging).map_err(io)?;
    own_folder::create_new(&staging).map_err(io)?;
    for (name, body) in files {
        std::fs::write(staging.join(name), body).map_err(io)?;
    }
    let (bundle, found) = Bundle::read_from(&staging).map_err(|error| corrupt(chain(&error)))?;
    if found != expected.as_str() {
        return Err(corrupt(format!("the object store holds bundle {found} in its place; restore it from a backup")));
    }
    remove(dir).map_err(io)?;
    std::fs::rename(&staging, dir).map_err(io)?;
    Ok(bundle)
}

fn remove(dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The files of a folder by name, the manifest last.
fn read_files(dir: &Path) -> Result<Vec<(String, Bytes)>, PortError> {
    let io = |error: std::io::Error| PortError::io(format!("reading bundle folder {}", dir.display()), error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let entry = entry.map_err(io)?;
        let body = std::fs::read(entry.path()).map_err(io)?;
        files.push((entry.file_name().to_string_lossy().into_owned(), Bytes::from(body)));
    }
    files.sort_by(|(a, _), (b, _)| (a == MANIFEST).cmp(&(b == MANIFEST)).then(a.cmp(b)));
    Ok(files)
}
