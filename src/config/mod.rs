//! Configuration: defaults, then a file, then the environment.
//!
//! `config/delayd.toml` names every key with its default and its meaning. A file
//! given by `--config` replaces single keys; `DELAYD__SECTION__KEY` in the
//! environment replaces them again. [`Settings::load`] reads, and reports every
//! fault at once, each with the key, what was found and what was expected.

mod faults;
mod http;
mod sections;

use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env as EnvProvider, Format, Serialized, Toml};
use serde::{Deserialize, Serialize};

pub use faults::Fault;
pub use http::{HttpSettings, Role, TokenSettings};
pub use sections::{
    ApprovalMode, ApprovalSettings, BuilderKind, ClusterKind, ClusterSettings, DaemonSettings, ExportSettings,
    IngestionSettings, PackagingSettings, RegistryKind, RegistrySettings, RetentionPolicy, TrainerKind,
    TrainerSettings, TuningSettings, WeatherKind, WeatherSettings,
};

pub use crate::notify::NotificationSettings;
use delayd_judge::decide::RetrainPolicy;
use delayd_judge::evaluation::gate::GatePolicy;
pub use delayd_judge::monitoring::MonitoringSettings;
use delayd_judge::verification::VerificationPolicy;
pub use delayd_outside::object_store::{ObjectStoreKind, ObjectStoreSettings};
pub use delayd_training_job::HoldoutSettings;
use delayd_training_job::{TrainingParameters, TrainingPolicy};

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
    /// What a retrain may be trained on.
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
    /// Who approves a release.
    pub approval: ApprovalSettings,
    /// What is watched, and how often.
    pub monitoring: MonitoringSettings,
    /// When to retrain.
    pub retrain: RetrainPolicy,
    /// Alerts.
    pub notification: NotificationSettings,
    /// How long records and files are kept.
    pub retention: RetentionPolicy,
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("configuration file {path} cannot be read: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// A key is unknown or a value has the wrong type.
    #[error("configuration {place}:{}", listed(.faults))]
    Format {
        /// The file, or the environment.
        place: String,
        faults: Vec<String>,
    },
    /// Invalid values of a file.
    #[error("configuration {} has {} fault(s):\n{}", .file.display(), .faults.len(), faults::listing(.faults))]
    FaultsOfFile { file: PathBuf, faults: Vec<Fault> },
    /// Invalid values.
    #[error("configuration has {} fault(s):\n{}", .0.len(), faults::listing(.0))]
    Faults(Vec<Fault>),
}

fn listed(faults: &[String]) -> String {
    match faults {
        [only] => format!(" {only}"),
        all => all.iter().map(|fault| format!("\n  - {fault}")).collect(),
    }
}

/// The configuration of an installed delayd.
const INSTALLED_FILE: &str = "/etc/delayd/delayd.toml";

impl Settings {
    /// The file that is read where none is named: that of the package or image which this
    /// program belongs to. A program that was built here and not installed has none.
    pub fn installed_file() -> Option<PathBuf> {
        let installed = std::env::current_exe().is_ok_and(|program| program.starts_with("/usr/bin"));
        let file = PathBuf::from(INSTALLED_FILE);
        (installed && file.is_file()).then_some(file)
    }

    /// Reads defaults, an optional file and the environment, and checks the result.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(path) = file {
            let text = std::fs::read_to_string(path)
                .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
            figment = figment.merge(Toml::string(&text));
        }
        figment = figment.merge(EnvProvider::prefixed("DELAYD__").split("__"));
        let place = file.map_or_else(|| "of the environment".to_owned(), |path| path.display().to_string());
        let settings: Self =
            figment.extract().map_err(|error| ConfigError::Format { place, faults: faults::format_faults(error) })?;
        match (settings.checked(), file) {
            (Err(ConfigError::Faults(faults)), Some(file)) => {
                Err(ConfigError::FaultsOfFile { file: file.to_owned(), faults })
            }
            (checked, _) => checked,
        }
    }

    /// The settings again, if nothing is wrong with them.
    pub fn checked(self) -> Result<Self, ConfigError> {
        let faults = self.faults();
        if faults.is_empty() { Ok(self) } else { Err(ConfigError::Faults(faults)) }
    }

    /// The settings as TOML; keys that are not set are left out.
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
        assert!(error.contains("daemon.state_dri is not a key; did you mean daemon.state_dir?"), "{error}");
        assert!(error.contains("/delayd.toml"), "the file is named: {error}");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_reported_with_what_was_expected() {
        let error = of("[training]\nhidden = \"many\"\n").unwrap_err().to_string();
        assert!(error.contains("training.hidden is string \"many\"; expected a whole number from 0 on"), "{error}");
        let error = of("[approval]\nmode = \"maybe\"\n").unwrap_err().to_string();
        assert!(error.contains("approval.mode is \"maybe\"; expected \"automatic\" or \"manual\""), "{error}");
    }

    /// Keys without a default stand nowhere in `delayd config`, so the file names them in comments.
    #[test]
    fn the_documented_file_names_the_keys_that_have_no_default() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/delayd.toml")).unwrap();
        let mut settings = Settings::default();
        settings.ingestion.column_mapping = Some(delayd_data::formats::ColumnMapping::default());
        let mut unset = Vec::new();
        unset_keys(&serde_json::to_value(&settings).unwrap(), &mut Vec::new(), &mut unset);
        assert!(unset.contains(&("training".to_owned(), "history_half_life_days".to_owned())), "{unset:?}");
        for (section, key) in unset {
            let named = [format!("[{section}]"), format!("# [{section}]")];
            let lines = text.lines().skip_while(|line| !named.iter().any(|name| line == name)).skip(1);
            let mut own = lines.take_while(|line| !line.starts_with('[') && !line.starts_with("# ["));
            assert!(
                own.any(|line| line.starts_with(&format!("# {key} = "))),
                "{section}.{key} is not in config/delayd.toml"
            );
        }
    }

    fn unset_keys(value: &serde_json::Value, path: &mut Vec<String>, unset: &mut Vec<(String, String)>) {
        for (key, inner) in value.as_object().into_iter().flatten() {
            if inner.is_null() {
                unset.push((path.join("."), key.clone()));
            }
            path.push(key.clone());
            unset_keys(inner, path, unset);
            path.pop();
        }
    }

    /// The documented examples of those keys, with the comment signs taken away, can be used.
    #[test]
    fn the_documented_examples_of_unset_keys_are_accepted() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/delayd.toml")).unwrap();
        let example = |line: &str| {
            let key = line.strip_prefix("# ")?.split_once(" = ")?.0;
            let a_key = key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            let unset =
                ["fresh_share", "history_days", "half_life_days", "same_season_share", "history_half_life_days"];
            (a_key && (unset.contains(&key) || key == "recall_drop")).then(|| line[2..].to_owned())
        };
        let shown: String = text.lines().map(|line| example(line).unwrap_or_else(|| line.to_owned()) + "\n").collect();
        let settings = of(&shown).unwrap();
        assert!(settings.training.history_half_life_days.is_some() && settings.training_policy.history_days.is_some());
        assert!(settings.monitoring.performance.recall_drop.is_some());
        let start = text.find("# [ingestion.column_mapping]").unwrap();
        let mapping: Vec<&str> = text[start..].lines().take_while(|line| line.starts_with("# ")).collect();
        let mapping: String = mapping.iter().map(|line| format!("{}\n", &line[2..])).collect();
        assert!(of(&mapping).unwrap().ingestion.column_mapping.is_some());
    }

    #[test]
    fn every_fault_is_reported_at_once_with_its_key() {
        let error = of("[http]\nlisten = \"nowhere\"\n[cluster]\nreplicas = 0\n").unwrap_err().to_string();
        assert!(error.contains("http.listen") && error.contains("cluster.replicas"), "{error}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Settings::load(Some(Path::new("/nowhere/delayd.toml"))).unwrap_err().to_string();
        assert!(error.contains("/nowhere/delayd.toml"), "{error}");
    }
}
