//! Configuration: defaults, then a file, then the environment.
//!
//! `config/delayd.toml` names every key with its default and its meaning. A file
//! given by `--config` replaces single keys; `DELAYD__SECTION__KEY` in the
//! environment replaces them again. [`Settings::load`] reads, and reports every
//! fault at once, each with the key, what was found and what was expected.

mod faults;
mod http;
mod secret;
mod sections;

use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env as EnvProvider, Format, Serialized, Toml};
use serde::{Deserialize, Serialize};

pub use faults::Fault;
pub use http::{HttpSettings, Role, TokenSettings};
pub use secret::Secret;
pub use sections::{
    ApprovalMode, ApprovalSettings, BuilderKind, ClusterKind, ClusterSettings, DaemonSettings, HoldoutSettings,
    IngestionSettings, MonitoringSettings, ObjectStoreKind, ObjectStoreSettings, PackagingSettings, RegistryKind,
    RegistrySettings, TrainerKind, TrainerSettings, TuningSettings, WeatherKind, WeatherSettings,
};

use crate::coordinator::decide::RetrainPolicy;
use crate::coordinator::training_policy::TrainingPolicy;
use crate::evaluation::gate::GatePolicy;
pub use crate::notification::NotificationSettings;
use crate::retention::RetentionPolicy;
use crate::training::TrainingParameters;
use crate::verification::VerificationPolicy;

/// The whole configuration.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The process itself.
    pub daemon: DaemonSettings,
    /// The status endpoint.
    pub http: HttpSettings,
    /// Where flight logs, reference data, datasets and bundles are kept.
    pub object_store: ObjectStoreSettings,
    /// Where weather comes from.
    pub weather: WeatherSettings,
    /// Which flights, airports and holidays are taken in, and how.
    pub ingestion: IngestionSettings,
    /// Which rows are held out.
    pub holdout: HoldoutSettings,
    /// What a retrain may learn from.
    pub training_policy: TrainingPolicy,
    /// DelayNet's parameters.
    pub training: TrainingParameters,
    /// The search for better ones.
    pub tuning: TuningSettings,
    /// Who tunes and trains, and where.
    pub trainer: TrainerSettings,
    /// Challenger against live model.
    pub gate: GatePolicy,
    /// The service image.
    pub packaging: PackagingSettings,
    /// Where images go.
    pub registry: RegistrySettings,
    /// Where the service runs.
    pub cluster: ClusterSettings,
    /// When a release is good.
    pub verification: VerificationPolicy,
    /// Who says so.
    pub approval: ApprovalSettings,
    /// What is watched, and how often.
    pub monitoring: MonitoringSettings,
    /// When to retrain.
    pub retrain: RetrainPolicy,
    /// Alerts.
    pub notification: NotificationSettings,
    /// How long what grows is kept.
    pub retention: RetentionPolicy,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there.
    #[error("configuration file {path} cannot be read: {source}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A key is unknown or a value has the wrong type.
    #[error("configuration: {0}")]
    Format(Box<figment::Error>),
    /// Values that cannot be.
    #[error("configuration has {} fault(s):\n{}", .0.len(), faults::listing(.0))]
    Faults(Vec<Fault>),
}

/// The configuration of an installed delayd.
const INSTALLED_FILE: &str = "/etc/delayd/delayd.toml";

impl Settings {
    /// The file that is read where none is named: that of the package or image which this
    /// program belongs to. A program that was built here and not installed has none.
    #[must_use]
    pub fn installed_file() -> Option<PathBuf> {
        let installed = std::env::current_exe().is_ok_and(|program| program.starts_with("/usr/bin"));
        let file = PathBuf::from(INSTALLED_FILE);
        (installed && file.is_file()).then_some(file)
    }

    /// Reads defaults, an optional file and the environment, and checks the result.
    ///
    /// # Errors
    /// When the file is missing or malformed, or any value cannot be; every fault
    /// is named.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(path) = file {
            let text = std::fs::read_to_string(path)
                .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
            figment = figment.merge(Toml::string(&text));
        }
        figment = figment.merge(EnvProvider::prefixed("DELAYD__").split("__"));
        let settings: Self = figment.extract().map_err(|error| ConfigError::Format(Box::new(error)))?;
        settings.checked()
    }

    /// The settings again, if nothing is wrong with them.
    ///
    /// # Errors
    /// Every fault there is.
    pub fn checked(self) -> Result<Self, ConfigError> {
        let faults = self.faults();
        if faults.is_empty() { Ok(self) } else { Err(ConfigError::Faults(faults)) }
    }

    /// The settings as TOML; keys that are not set are left out.
    ///
    /// # Errors
    /// When a value has no form in TOML.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Settings, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("delayd.toml");
        std::fs::write(&path, text).unwrap();
        Settings::load(Some(&path))
    }

    #[test]
    fn the_documented_file_holds_every_key_with_its_default() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/delayd.toml")).unwrap();
        let documented: toml::Table = toml::from_str(&text).unwrap();
        let defaults: toml::Table = toml::from_str(&Settings::default().to_toml().unwrap()).unwrap();
        assert_eq!(documented, defaults, "write what `delayd config` prints into config/delayd.toml");
    }

    #[test]
    fn the_packaged_file_can_be_used_and_a_program_that_is_not_installed_does_not_take_it() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/packaged.toml")).unwrap();
        assert_eq!(of(&text).unwrap().daemon.state_dir, Path::new("/var/lib/delayd"));
        assert_eq!(Settings::installed_file(), None);
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = of("[daemon]\nstate_dri = \"x\"\n").unwrap_err().to_string();
        assert!(error.contains("state_dri"), "{error}");
    }

    #[test]
    fn every_fault_is_told_at_once_with_its_key() {
        let error = of("[http]\nlisten = \"nowhere\"\n[cluster]\nreplicas = 0\n").unwrap_err().to_string();
        assert!(error.contains("http.listen") && error.contains("cluster.replicas"), "{error}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Settings::load(Some(Path::new("/nowhere/delayd.toml"))).unwrap_err().to_string();
        assert!(error.contains("/nowhere/delayd.toml"), "{error}");
    }
}
