//! `[object_store]`: which store it is, and opening it, which the daemon and the training worker both do; and the store
//! that needs nothing but a folder.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cloud::s3::{S3Settings, S3Store};
use delayd_core::atomic_file::{StagedFile, remove_abandoned};
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ports::{ObjectMeta, ObjectStore, check_key, check_prefix};
use delayd_core::{blocking, own_folder};

/// What keeps objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectStoreKind {
    /// A folder of this machine.
    #[default]
    Folder,
    /// A bucket of S3, or of a store that speaks its protocol.
    S3,
}

/// `[object_store]`: where flight logs, reference data, datasets and bundles are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectStoreSettings {
    /// What keeps them.
    pub kind: ObjectStoreKind,
    /// The folder; `<state_dir>/store` when empty.
    pub folder: PathBuf,
    /// The bucket.
    pub s3: S3Settings,
}

impl ObjectStoreSettings {
    /// The folder, in its default place under the state directory where none is configured.
    fn folder_under(&self, state_dir: &Path) -> PathBuf {
        if self.folder.as_os_str().is_empty() { state_dir.join("store") } else { self.folder.clone() }
    }

    /// Opens the store. Nothing of S3 is asked before it is used.
    pub fn open(&self, state_dir: &Path) -> Result<Arc<dyn ObjectStore>, PortError> {
        match self.kind {
            ObjectStoreKind::Folder => Ok(Arc::new(FolderStore::open(&self.folder_under(state_dir))?)),
            ObjectStoreKind::S3 => Ok(Arc::new(S3Store::new(self.s3.clone()))),
        }
    }

    /// The settings with their secrets as they are configured, for a worker's standard input and nothing else.
    pub fn with_secrets(&self) -> Result<Value, serde_json::Error> {
        let mut settings = serde_json::to_value(self)?;
        let secrets = [
            ("access_key_id", &self.s3.access_key_id),
            ("secret_access_key", &self.s3.secret_access_key),
            ("session_token", &self.s3.session_token),
        ];
        for (key, secret) in secrets {
            settings["s3"][key] = Value::from(secret.as_configured());
        }
        Ok(settings)
    }
}

/// Where objects are written before they get their name. On the same file
/// system as the objects, and no key leads there.
const STAGING: &str = ".staging";

/// Objects as files under one folder.
#[derive(Debug, Clone)]
pub struct FolderStore {
    root: PathBuf,
}

impl FolderStore {
    /// Opens the store at `root`, creates the folder if there is none, and
    /// sweeps what writers that died left half-written.
    pub fn open(root: &Path) -> Result<Self, PortError> {
        let opening = || format!("opening the object store {}", root.display());
        own_folder::check(root)
            .and_then(|_| fs::create_dir_all(root.join(STAGING)))
            .map_err(|error| PortError::io(opening(), error))?;
        let root = root.canonicalize().map_err(|error| PortError::io(opening(), error))?;
        remove_abandoned(&root.join(STAGING)).map_err(|error| PortError::io(opening(), error))?;
        Ok(Self { root })
    }

    /// The file of a key, once every folder on the way is known to be a real one.
    fn file_of(&self, action: &str, key: &str) -> Result<PathBuf, PortError> {
        check_key(action, key)?;
        let mut path = self.root.clone();
        for part in key.split('/') {
            path.push(part);
            refuse_symlink(action, &path)?;
        }
        if path.starts_with(self.root.join(STAGING)) {
            let message = format!("keys under `{STAGING}/` are the store's own; choose another");
            return Err(PortError::new(ErrorKind::Invalid, action, message));
        }
        Ok(path)
    }

    fn read(&self, key: &str) -> Result<Bytes, PortError> {
        let action = format!("reading object {key}");
        let path = self.file_of(&action, key)?;
        match fs::read(&path) {
            Ok(bytes) => Ok(bytes.into()),
            Err(error) if is_absence(&error) => Err(PortError::new(
                ErrorKind::NotFound,
                action,
                format!("there is no such object in {}", self.root.display()),
            )),
            Err(error) => Err(PortError::io(action, error)),
        }
    }

    fn write(&self, key: &str, body: &[u8]) -> Result<(), PortError> {
        let action = format!("writing object {key}");
        let path = self.file_of(&action, key)?;
        let attempt = || {
            let mut staged = StagedFile::create_in(&self.root.join(STAGING))?;
            staged.write_all(body)?;
            fs::create_dir_all(path.parent().unwrap_or(&self.root))?;
            staged.publish(&path)
        };
        let mut written = attempt();
        // A folder whose objects were all deleted is no object, and must not stand in the way of one.
        if written.is_err() && path.is_dir() && remove_empty_folders(&path).is_ok() {
            written = attempt();
        }
        written.map_err(|error: io::Error| match error.kind() {
            // `a` and `a/b` cannot both be files.
            io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory | io::ErrorKind::AlreadyExists => {
                let message = "the key, or a part of it, is taken by another object's folder or file; choose another";
                PortError::new(ErrorKind::Invalid, action, message)
            }
            _ => PortError::io(action, error),
        })
    }

    fn remove(&self, key: &str) -> Result<(), PortError> {
        let action = format!("removing object {key}");
        let path = self.file_of(&action, key)?;
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if is_absence(&error) => Ok(()),
            Err(error) => Err(PortError::io(action, error)),
        }
    }

    fn entries(&self, prefix: &str) -> Result<Vec<ObjectMeta>, PortError> {
        let action = format!("listing objects {prefix}*");
        check_prefix(&action, prefix)?;
        let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut start = self.root.clone();
        for part in folder.split('/').filter(|part| !part.is_empty()) {
            start.push(part);
            refuse_symlink(&action, &start)?;
        }
        let mut found = Vec::new();
        self.walk(start, prefix, &mut found).map_err(|error| PortError::io(action, error))?;
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    fn walk(&self, start: PathBuf, prefix: &str, found: &mut Vec<ObjectMeta>) -> io::Result<()> {
        let mut folders = vec![start];
        while let Some(folder) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if is_absence(&error) => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let entry = entry?;
                let path = entry.path();
                // A name that is not text can be no key.
                let Some(key) = path.strip_prefix(&self.root).ok().and_then(Path::to_str) else { continue };
                // `metadata` of an entry does not follow links; one that vanished since is not listed.
                let Some(metadata) = present(entry.metadata())? else { continue };
                let may_match = key.starts_with(prefix) || prefix.starts_with(&format!("{key}/"));
                if metadata.is_dir() && key != STAGING && may_match {
                    folders.push(path);
                } else if metadata.is_file() && key.starts_with(prefix) {
                    let last_modified = DateTime::<Utc>::from(metadata.modified()?);
                    found.push(ObjectMeta { key: key.to_owned(), size_bytes: metadata.len(), last_modified });
                }
            }
        }
        Ok(())
    }

    /// Runs `work` where blocking is allowed.
    async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, PortError> + Send + 'static,
    ) -> Result<T, PortError> {
        let store = self.clone();
        blocking("using the object store", move || work(&store)).await
    }
}

#[async_trait]
impl ObjectStore for FolderStore {
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, PortError> {
        let prefix = prefix.to_owned();
        self.off_thread(move |store| store.entries(&prefix)).await
    }

    async fn get(&self, key: &str) -> Result<Bytes, PortError> {
        let key = key.to_owned();
        self.off_thread(move |store| store.read(&key)).await
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<(), PortError> {
        let key = key.to_owned();
        self.off_thread(move |store| store.write(&key, &body)).await
    }

    async fn delete(&self, key: &str) -> Result<(), PortError> {
        let key = key.to_owned();
        self.off_thread(move |store| store.remove(&key)).await
    }

    async fn probe(&self) -> Result<String, PortError> {
        let objects = self.list("").await?;
        Ok(format!("{} with {} objects", self.root.display(), objects.len()))
    }
}

fn refuse_symlink(action: &str, path: &Path) -> Result<(), PortError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => Err(PortError::new(
            ErrorKind::Invalid,
            action,
            format!("{} is a symbolic link, which the store does not follow; put the files there", path.display()),
        )),
        // What is not there yet, or cannot be looked at, fails where it is used.
        _ => Ok(()),
    }
}

/// Removes a tree of folders without a file in it; fails when it meets one.
fn remove_empty_folders(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        remove_empty_folders(&entry?.path())?;
    }
    fs::remove_dir(folder)
}

/// Whether the error says that no object has this key; a key whose parent is an
/// object, or that is itself only a folder, names none either.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory)
}

fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use delayd_core::Secret;

    #[test]
    fn a_worker_is_given_the_settings_whole_and_a_listing_without_their_secrets() {
        let mut settings = ObjectStoreSettings { kind: ObjectStoreKind::S3, ..ObjectStoreSettings::default() };
        settings.s3.secret_access_key = Secret::new("s3cret");
        settings.s3.access_key_id = Secret::new("env:KEY");
        assert!(!serde_json::to_string(&settings).unwrap().contains("s3cret"));
        let given: ObjectStoreSettings = serde_json::from_value(settings.with_secrets().unwrap()).unwrap();
        assert_eq!(given, settings);
    }
}
