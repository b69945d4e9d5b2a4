//! Configuration: defaults, then a file, then the environment.
//!
//! `config/delayd.toml` names every key with its default and its meaning. A file
//! given by `--config` replaces single keys; `DELAYD__SECTION__KEY` in the
//! environment replaces them again. [`Settings::load`] reads, and reports every
//! fault at once, each with the key, what was found and what was expected.

mod faults;
mod sections;

use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env as EnvProvider, Format, Serialized, Toml};
use serde::{Deserialize, Serialize};

pub use faults::Fault;
pub use sections::{
    ApprovalMode, ApprovalSettings, ClusterSettings, DaemonSettings, HoldoutSettings, IngestionSettings,
    MonitoringSettings, NotificationSettings, PackagingSettings, RegistrySettings, TuningSettings,
};

use crate::coordinator::decide::RetrainPolicy;
use crate::coordinator::training_policy::TrainingPolicy;
use crate::evaluation::gate::GatePolicy;
use crate::training::TrainingParameters;
use crate::verification::VerificationPolicy;

/// The whole configuration.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The process itself.
    pub daemon: DaemonSettings,
    /// Where flights, weather, airports and holidays come from.
    pub ingestion: IngestionSettings,
    /// Which rows are held out.
    pub holdout: HoldoutSettings,
    /// What a retrain may learn from.
    pub training_policy: TrainingPolicy,
    /// DelayNet's parameters.
    pub training: TrainingParameters,
    /// The search for better ones.
    pub tuning: TuningSettings,
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

impl Settings {
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
}
