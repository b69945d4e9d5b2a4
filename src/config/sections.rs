//! The sections that belong to no single stage's policy.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use delayd_core::secret::Secret;
use delayd_data::formats::{ColumnMapping, ParseLimits};
use delayd_data::reference::ReferencePolicy;
use delayd_judge::monitoring::settings::MonitoringSettings;
use delayd_outside::cloud::ecr::EcrRegistrySettings;
use delayd_outside::cloud::kubernetes::KubernetesSettings;
use delayd_outside::cloud::kubernetes_trainer::KubernetesTrainerSettings;
use delayd_outside::cloud::registry::OciRegistrySettings;
use delayd_outside::cloud::{DockerEngineSettings, HttpDocumentSettings, OpenMeteoSettings};
use delayd_outside::packaging::SourceSettings;
use delayd_training_job::TuningParameters;

/// `[daemon]`: the process itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DaemonSettings {
    /// Where the ledger, bundles, images and datasets are kept.
    pub state_dir: PathBuf,
    /// Attempts of a failing step before its cycle is undone.
    pub step_attempts: u32,
    /// Seconds before the second attempt; doubled for each later one, up to a minute.
    pub step_retry_secs: f64,
    /// Seconds for which a step waits for an unavailable outside system before its cycle is undone.
    pub outage_patience_secs: u64,
    /// Seconds without a sign of life after which an actor counts as hung.
    pub hang_limit_secs: u64,
}

impl Default for DaemonSettings {
    fn default() -> Self {
        Self {
            state_dir: PathBuf::from("var/delayd"),
            step_attempts: 4,
            step_retry_secs: 0.5,
            outage_patience_secs: 6 * 3600,
            hang_limit_secs: 60,
        }
    }
}

/// Where weather comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeatherKind {
    /// CSV files in the object store.
    #[default]
    Csv,
    /// An HTTP API in Open-Meteo's format.
    OpenMeteo,
}

/// `[weather]`: where weather comes from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WeatherSettings {
    /// The kind of source.
    pub kind: WeatherKind,
    /// CSV files: the objects under this prefix.
    pub prefix: String,
    /// With weather for a smaller share of the airport-hours a step waits for it; 0 continues without any.
    pub required_share: f64,
    /// How the API is asked.
    pub open_meteo: OpenMeteoSettings,
}

impl Default for WeatherSettings {
    fn default() -> Self {
        Self {
            kind: WeatherKind::default(),
            prefix: "weather/".to_owned(),
            required_share: 0.0,
            open_meteo: OpenMeteoSettings::default(),
        }
    }
}

/// `[ingestion]`: which flights, airports and holidays are taken in, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IngestionSettings {
    /// Flight logs are the objects under this prefix.
    pub flights_prefix: String,
    /// Airports: one object.
    pub airports_key: String,
    /// URL of the airports, whose last good copy is that object; none when empty.
    pub airports_url: Secret,
    /// Extra holidays, an iCalendar object; none when empty.
    pub holidays_key: String,
    /// URL of the extra holidays, whose last good copy is that object; none when empty.
    pub holidays_url: Secret,
    /// Events, a CSV object (date, name); none when empty.
    pub events_key: String,
    /// The data contract; the built-in one when empty.
    pub contract_path: PathBuf,
    /// Objects fetched at a time.
    pub concurrency: usize,
    /// Seconds between checks for new objects.
    pub interval_secs: u64,
    /// Minutes before the scheduled departure at which the delay is predicted.
    pub horizon_minutes: u32,
    /// Minutes after its time stamp at which a weather observation is known. The
    /// default allows for stamps that are truncated to the full hour.
    pub weather_delay_minutes: u32,
    /// How logs with other columns are read; the known layouts when left out.
    pub column_mapping: Option<ColumnMapping>,
    /// Time zones of airports whose file does not have them, by IATA code.
    pub time_zones: BTreeMap<String, String>,
    /// Bounds of one object.
    pub limits: ParseLimits,
    /// How airports and holidays behind a URL are kept up to date.
    pub reference: ReferencePolicy,
    /// How they are fetched.
    pub fetch: HttpDocumentSettings,
}

impl Default for IngestionSettings {
    fn default() -> Self {
        Self {
            flights_prefix: "flights/".to_owned(),
            airports_key: "reference/airports.csv".to_owned(),
            airports_url: Secret::default(),
            holidays_key: String::new(),
            holidays_url: Secret::default(),
            events_key: String::new(),
            contract_path: PathBuf::new(),
            concurrency: 4,
            interval_secs: 300,
            horizon_minutes: 120,
            weather_delay_minutes: 60,
            column_mapping: None,
            time_zones: BTreeMap::new(),
            limits: ParseLimits::default(),
            reference: ReferencePolicy::default(),
            fetch: HttpDocumentSettings::default(),
        }
    }
}

/// `[tuning]`: the search for better parameters.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TuningSettings {
    /// Tune in the first cycle and then in every n-th.
    pub every_cycles: u32,
    /// The budget and what is drawn from.
    pub search: TuningParameters,
}

impl Default for TuningSettings {
    fn default() -> Self {
        let search = TuningParameters { trials: 4, wall_time_secs: Some(60), ..TuningParameters::default() };
        Self { every_cycles: 4, search }
    }
}

/// What builds images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuilderKind {
    /// delayd itself.
    #[default]
    Oci,
    /// A Docker Engine.
    Docker,
}

/// Who trains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainerKind {
    /// A process beside the daemon. `thread`, the word of earlier configurations, means the same.
    #[default]
    #[serde(alias = "thread")]
    Process,
    /// Jobs of a Kubernetes cluster.
    KubernetesJob,
}

/// `[trainer]`: where tuning and training run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainerSettings {
    /// Who trains.
    pub kind: TrainerKind,
    /// The training worker, `delayd-train`; looked for beside `delayd` when empty.
    pub program: PathBuf,
    /// Jobs: what they look like.
    pub kubernetes: KubernetesTrainerSettings,
}

/// `[packaging.export]`: files that describe the pushed image; those without a path are not written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExportSettings {
    /// JSON, replaced at every push; `<state_dir>/image.json` when empty.
    pub json_path: PathBuf,
    /// GitHub Actions' output file: lines are appended at every push.
    pub github_output_path: PathBuf,
    /// Shell variables (`DELAYD_IMAGE=…`), replaced at every push.
    pub dotenv_path: PathBuf,
}

/// `[packaging]`: the service image.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PackagingSettings {
    /// Repository of the image; the tag is the model's version.
    pub repository: String,
    /// The static service binary; looked for beside `delayd` when empty.
    pub service_binary: PathBuf,
    /// Whether a dynamically linked service binary is refused: the image has no loader.
    pub require_static_service: bool,
    /// What builds images.
    pub builder: BuilderKind,
    /// The Docker Engine, where it builds.
    pub docker: DockerEngineSettings,
    /// Where the service in the image comes from.
    pub source: SourceSettings,
    /// Files that describe the pushed image.
    pub export: ExportSettings,
}

impl Default for PackagingSettings {
    fn default() -> Self {
        Self {
            repository: "delay-ml".to_owned(),
            service_binary: PathBuf::new(),
            require_static_service: true,
            builder: BuilderKind::default(),
            docker: DockerEngineSettings::default(),
            source: SourceSettings::default(),
            export: ExportSettings::default(),
        }
    }
}

/// What takes images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegistryKind {
    /// OCI layouts in a folder of this machine.
    #[default]
    Layout,
    /// A registry that speaks the OCI distribution protocol.
    Oci,
    /// Amazon ECR.
    Ecr,
}

/// `[registry]`: where images go.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistrySettings {
    /// What takes them.
    pub kind: RegistryKind,
    /// Folder of OCI layouts; `<state_dir>/images` when empty.
    pub layout_dir: PathBuf,
    /// A registry that speaks the OCI distribution protocol.
    pub oci: OciRegistrySettings,
    /// Amazon ECR.
    pub ecr: EcrRegistrySettings,
}

/// What runs the service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClusterKind {
    /// Processes of this machine.
    #[default]
    Processes,
    /// A Deployment on Kubernetes.
    Kubernetes,
}

/// `[cluster]`: where the service runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterSettings {
    /// What runs it.
    pub kind: ClusterKind,
    /// Copies of the service.
    pub replicas: u32,
    /// Port that local processes share; 0 chooses a free one and keeps it.
    pub port: u16,
    /// Seconds until a new release must be ready.
    pub ready_deadline_secs: u64,
    /// Seconds a drained replica waits for its last counts to be fetched.
    pub drain_linger_secs: u64,
    /// How it runs on Kubernetes.
    pub kubernetes: KubernetesSettings,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            kind: ClusterKind::default(),
            replicas: 2,
            port: 0,
            ready_deadline_secs: 60,
            drain_linger_secs: 5,
            kubernetes: KubernetesSettings::default(),
        }
    }
}

/// Who approves a verified release.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalMode {
    /// The verification.
    #[default]
    Automatic,
    /// An administrator, by `delayd approve`.
    Manual,
}

/// `[approval]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApprovalSettings {
    /// Who approves.
    pub mode: ApprovalMode,
}

/// Outcomes come days after their predictions, and flight logs may be late: this many days are kept beyond a window.
const LATE_LOG_DAYS: u32 = 14;

/// `[retention]`: how long what grows with traffic and with checks is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionPolicy {
    /// Days for which predictions, and outcomes of flights, are kept.
    pub predictions_days: u32,
    /// Days for which every check of the monitor is kept; of those before, one an hour.
    pub full_windows_days: u32,
    /// Days for which one check an hour is kept; of those before, one a day.
    pub hourly_windows_days: u32,
    /// Days for which the folder of a finished cycle's training run is kept.
    pub run_folders_days: u32,
    /// Whether an image's layout on this machine is removed once it was pushed and its cycle has ended.
    pub remove_pushed_packages: bool,
}

impl Default for RetentionPolicy {
    fn default() -> Self {
        Self {
            predictions_days: 120,
            full_windows_days: 14,
            hourly_windows_days: 90,
            run_folders_days: 30,
            remove_pushed_packages: true,
        }
    }
}

impl RetentionPolicy {
    /// Everything that is wrong with the policy; empty when it can be used.
    pub fn faults(&self, monitoring: &MonitoringSettings) -> Vec<String> {
        let mut faults = Vec::new();
        let needed = monitoring.performance.window_days.saturating_add(LATE_LOG_DAYS);
        if self.predictions_days < needed {
            faults.push(format!(
                "predictions_days of {needed} or more: monitoring.performance.window_days and {LATE_LOG_DAYS} days for late logs"
            ));
        }
        if self.full_windows_days < 1 {
            faults.push("full_windows_days of 1 or more".to_owned());
        }
        if self.hourly_windows_days < self.full_windows_days {
            faults.push("hourly_windows_days not under full_windows_days".to_owned());
        }
        if self.run_folders_days < 1 {
            faults.push("run_folders_days of 1 or more".to_owned());
        }
        faults
    }
}
