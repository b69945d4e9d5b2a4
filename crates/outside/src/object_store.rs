//! `[object_store]`: which store it is, and opening it. The daemon and the training worker both do.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cloud::s3::{S3Settings, S3Store};
use crate::local::FolderStore;
use delayd_core::error::PortError;
use delayd_core::ports::ObjectStore;

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
    #[must_use]
    pub fn folder_under(&self, state_dir: &Path) -> PathBuf {
        if self.folder.as_os_str().is_empty() { state_dir.join("store") } else { self.folder.clone() }
    }

    /// Opens the store. Nothing of S3 is asked before it is used.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(&self, state_dir: &Path) -> Result<Arc<dyn ObjectStore>, PortError> {
        match self.kind {
            ObjectStoreKind::Folder => Ok(Arc::new(FolderStore::open(&self.folder_under(state_dir))?)),
            ObjectStoreKind::S3 => Ok(Arc::new(S3Store::new(self.s3.clone()))),
        }
    }

    /// The settings with their secrets as they are configured, for a worker's standard input and nothing else.
    ///
    /// # Errors
    /// When they have no form in JSON.
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
