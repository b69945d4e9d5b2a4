//! Which adapter stands behind each port: the only place that reads the `kind`
//! of a section. Nothing here talks to the outside; an adapter connects when it
//! is used, so that the daemon starts while an outside system is unavailable.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::config::{BuilderKind, ClusterKind, RegistryKind, Settings, TrainerKind, WeatherKind};
use crate::stages::reference::ReferenceDocuments;
use delayd_core::clock::Clock;
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ports::{ChannelKind, Cluster, DocumentSource, ImageRegistry, Notifier, ObjectStore, WeatherSource};
use delayd_core::secret::Secret;
use delayd_data::ObjectReader;
use delayd_data::reference::AirportTable;
use delayd_outside::Channels;
use delayd_outside::cloud::ecr::EcrRegistry;
use delayd_outside::cloud::kubernetes::{KubernetesCluster, KubernetesClusterConfig};
use delayd_outside::cloud::kubernetes_trainer;
use delayd_outside::cloud::registry::OciRegistry;
use delayd_outside::cloud::{DockerEngine, HttpDocument, MailNotifier, OpenMeteo, SlackNotifier, WebhookNotifier};
use delayd_outside::local::{
    LogNotifier, OciBuilder, OciLayoutRegistry, ProcessCluster, ProcessClusterConfig, ProcessPool, WeatherCsv,
};
use delayd_outside::packaging::ImageBuilder;
use delayd_outside::templates::Templates;
use delayd_outside::worker_trainer::{WaitPolicy, WorkerTrainer};
use delayd_outside::wrap::Retrying;
use delayd_training_job::Trainer;

/// How a worker of this machine is waited for: it starts at once, and does a whole job, the search too, since a second
/// one beside it would only share its cores.
const LOCAL_WAIT: WaitPolicy = WaitPolicy {
    split_search: false,
    parallel_trials: 1,
    poll: Duration::from_millis(250),
    start_deadline: Duration::from_secs(60),
};

/// A folder as configured, or its place in the state directory.
pub fn folder_or(settings: &Settings, configured: &Path, default: &str) -> PathBuf {
    if configured.as_os_str().is_empty() { settings.daemon.state_dir.join(default) } else { configured.to_owned() }
}

/// The object store of `[object_store]`.
pub fn object_store(settings: &Settings) -> Result<Arc<dyn ObjectStore>, PortError> {
    settings.object_store.open(&settings.daemon.state_dir)
}

/// The weather of `[weather]`; `store` is where files and cached answers lie, `reader` reads what others put there.
pub fn weather(
    settings: &Settings,
    store: Arc<dyn ObjectStore>,
    clock: Arc<dyn Clock>,
    reader: ObjectReader,
) -> Result<Arc<dyn WeatherSource>, PortError> {
    let section = &settings.weather;
    match section.kind {
        WeatherKind::Csv => Ok(Arc::new(WeatherCsv::new(store, section.prefix.clone()).read_by(reader))),
        WeatherKind::OpenMeteo => {
            let ingestion = &settings.ingestion;
            let airports =
                AirportTable::new(store.clone(), ingestion.airports_key.clone(), ingestion.time_zones.clone());
            let airports = airports.read_by(reader);
            Ok(Arc::new(OpenMeteo::new(section.open_meteo.clone(), store, airports, clock)?))
        }
    }
}

/// The documents of `[ingestion]` that are behind a URL.
pub fn reference_documents(settings: &Settings) -> Result<ReferenceDocuments, PortError> {
    let ingestion = &settings.ingestion;
    let document = |key: &'static str, address: &Secret| -> Result<Option<Arc<dyn DocumentSource>>, PortError> {
        if !address.is_set() {
            return Ok(None);
        }
        Ok(Some(Arc::new(HttpDocument::new(key, address.clone(), ingestion.fetch.clone())?)))
    };
    Ok(ReferenceDocuments {
        airports: document("ingestion.airports_url", &ingestion.airports_url)?,
        holidays: document("ingestion.holidays_url", &ingestion.holidays_url)?,
    })
}

/// The image builder of `[packaging]`.
pub fn image_builder(settings: &Settings) -> Arc<dyn ImageBuilder> {
    let section = &settings.packaging;
    match section.builder {
        BuilderKind::Oci => Arc::new(OciBuilder),
        BuilderKind::Docker => Arc::new(DockerEngine::new(&section.docker)),
    }
}

/// The image registry of `[registry]`.
pub fn image_registry(settings: &Settings) -> Result<Arc<dyn ImageRegistry>, PortError> {
    let section = &settings.registry;
    match section.kind {
        RegistryKind::Layout => {
            Ok(Arc::new(OciLayoutRegistry::open(&folder_or(settings, &section.layout_dir, "images"))?))
        }
        RegistryKind::Oci => {
            let registry = OciRegistry::open(&section.oci)?;
            Ok(Arc::new(Retrying::new(registry, section.oci.upload.retry_policy())))
        }
        RegistryKind::Ecr => {
            let registry = EcrRegistry::new(section.ecr.clone());
            Ok(Arc::new(Retrying::new(registry, section.ecr.upload.retry_policy())))
        }
    }
}

/// The training worker: as configured, by `DELAYD_TRAIN_BIN`, or beside this program.
fn training_program(settings: &Settings) -> Result<PathBuf, PortError> {
    let own = std::env::current_exe().map_err(|error| PortError::io("looking for the training worker", error))?;
    let beside = own.with_file_name("delayd-train");
    let named =
        [settings.trainer.program.clone(), std::env::var_os("DELAYD_TRAIN_BIN").map(PathBuf::from).unwrap_or_default()];
    // Where it is nowhere, starting it says so and what to do.
    Ok(named.into_iter().find(|path| !path.as_os_str().is_empty()).unwrap_or(beside))
}

/// The training workers of this machine; nothing is started or made yet.
pub fn training_processes(settings: &Settings) -> Result<ProcessPool, PortError> {
    let (program, state_dir) = (training_program(settings)?, settings.daemon.state_dir.clone());
    let object_store = settings.object_store.with_secrets().map_err(|error| {
        PortError::new(ErrorKind::Internal, "passing the training worker its settings", error.to_string())
    })?;
    let known = serde_json::json!({ "object_store": object_store, "daemon": { "state_dir": state_dir } });
    Ok(ProcessPool::new(program, &known, state_dir))
}

/// The trainer of `[trainer]`.
pub fn trainer(settings: &Settings, store: Arc<dyn ObjectStore>) -> Result<Arc<dyn Trainer>, PortError> {
    match settings.trainer.kind {
        TrainerKind::Process => Ok(Arc::new(WorkerTrainer::new(store, training_processes(settings)?, LOCAL_WAIT))),
        TrainerKind::KubernetesJob => {
            Ok(Arc::new(kubernetes_trainer::open(&settings.trainer.kubernetes, &settings.cluster.kubernetes, store)?))
        }
    }
}

/// The cluster of `[cluster]`; `service_binary` is what local processes run.
pub fn cluster(settings: &Settings, service_binary: &Path) -> Result<Arc<dyn Cluster>, PortError> {
    let section = &settings.cluster;
    match section.kind {
        ClusterKind::Processes => Ok(Arc::new(ProcessCluster::open(ProcessClusterConfig {
            public_port: section.port,
            ready_deadline: Duration::from_secs(section.ready_deadline_secs),
            linger: Duration::from_secs(section.drain_linger_secs),
            ..ProcessClusterConfig::new(service_binary, &settings.daemon.state_dir.join("cluster"))
        })?)),
        ClusterKind::Kubernetes => Ok(Arc::new(KubernetesCluster::open(KubernetesClusterConfig {
            settings: section.kubernetes.clone(),
            state_dir: settings.daemon.state_dir.clone(),
            ready_deadline: Duration::from_secs(section.ready_deadline_secs),
            drain_linger: Duration::from_secs(section.drain_linger_secs),
        })?)),
    }
}

/// The channels of `[notification]`, each with what became of opening it.
pub fn channels(settings: &Settings, templates: &Arc<Templates>) -> Vec<(ChannelKind, OpenedChannel)> {
    let section = &settings.notification;
    let open = |kind: ChannelKind| -> OpenedChannel {
        Ok(match kind {
            ChannelKind::Log => Arc::new(LogNotifier),
            ChannelKind::Slack => Arc::new(SlackNotifier::new(&section.slack, templates.clone())?),
            ChannelKind::Mail => Arc::new(MailNotifier::new(&section.mail, templates.clone())?),
            ChannelKind::Webhook => Arc::new(WebhookNotifier::new(&section.webhook, templates.clone())?),
        })
    };
    section.channels.iter().map(|kind| (*kind, open(*kind))).collect()
}

/// A channel, or why it could not be opened.
pub type OpenedChannel = Result<Arc<dyn Notifier>, PortError>;

/// The templates of `[notification]`. Faulty ones are ignored and reported by [`Templates::check`].
pub fn templates(settings: &Settings) -> Arc<Templates> {
    let section = &settings.notification;
    Arc::new(Templates::load(&section.templates_dir, &section.public_url))
}

/// The channels of `[notification]` as one.
pub fn notifier(settings: &Settings) -> Result<Arc<dyn Notifier>, PortError> {
    let templates = templates(settings);
    if let Err(error) = templates.check() {
        tracing::error!(error = %error, "built-in alert templates replace faulty ones");
    }
    let channels = channels(settings, &templates);
    let opened: Result<Vec<_>, _> = channels.into_iter().map(|(kind, opened)| Ok((kind, opened?))).collect();
    Ok(Arc::new(Channels::new(opened?)))
}
