//! Which adapter stands behind each port: the only place that reads the `kind`
//! of a section. Nothing here talks to the outside; an adapter connects when it
//! is used, so that the daemon starts while an outside system is away.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Channels;
use super::cloud::ecr::EcrRegistry;
use super::cloud::kubernetes::{KubernetesCluster, KubernetesClusterConfig};
use super::cloud::kubernetes_trainer;
use super::cloud::registry::OciRegistry;
use super::cloud::s3::S3Store;
use super::cloud::{DockerEngine, HttpDocument, MailNotifier, OpenMeteo, SlackNotifier, WebhookNotifier};
use super::local::{
    FolderStore, LogNotifier, OciBuilder, OciLayoutRegistry, ProcessCluster, ProcessClusterConfig, ThreadTrainer,
    WeatherCsv,
};
use super::wrap::Retrying;
use crate::config::{
    BuilderKind, ClusterKind, ObjectStoreKind, RegistryKind, Secret, Settings, TrainerKind, WeatherKind,
};
use crate::data::reference::{AirportTable, ReferenceDocuments};
use crate::data::{ObjectReader, TrainingSets};
use crate::env::Clock;
use crate::error::PortError;
use crate::notification::templates::Templates;
use crate::ports::{
    ChannelKind, Cluster, DocumentSource, ImageBuilder, ImageRegistry, Notifier, ObjectStore, Trainer, WeatherSource,
};
use crate::registry::BundleStore;

/// A folder as configured, or its place in the state directory.
#[must_use]
pub fn folder_or(settings: &Settings, configured: &Path, default: &str) -> PathBuf {
    if configured.as_os_str().is_empty() { settings.daemon.state_dir.join(default) } else { configured.to_owned() }
}

/// The object store of `[object_store]`.
///
/// # Errors
/// When the folder cannot be made, or the settings name something unreadable.
pub fn object_store(settings: &Settings) -> Result<Arc<dyn ObjectStore>, PortError> {
    let section = &settings.object_store;
    match section.kind {
        ObjectStoreKind::Folder => Ok(Arc::new(FolderStore::open(&folder_or(settings, &section.folder, "store"))?)),
        ObjectStoreKind::S3 => Ok(Arc::new(S3Store::new(section.s3.clone()))),
    }
}

/// The weather of `[weather]`; `store` is where files and cached answers lie, `reader` reads what others put there.
///
/// # Errors
/// When the settings name something unreadable.
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
///
/// # Errors
/// When the settings name something unreadable.
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
#[must_use]
pub fn image_builder(settings: &Settings) -> Arc<dyn ImageBuilder> {
    let section = &settings.packaging;
    match section.builder {
        BuilderKind::Oci => Arc::new(OciBuilder),
        BuilderKind::Docker => Arc::new(DockerEngine::new(&section.docker)),
    }
}

/// The image registry of `[registry]`.
///
/// # Errors
/// When the folder cannot be made, or the settings name something unreadable.
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

/// The trainer of `[trainer]`. `sets` is shared with the data stage, `bundles` are those of this machine.
///
/// # Errors
/// When the settings name something unreadable.
pub fn trainer(
    settings: &Settings,
    store: Arc<dyn ObjectStore>,
    sets: TrainingSets,
    bundles: BundleStore,
) -> Result<Arc<dyn Trainer>, PortError> {
    match settings.trainer.kind {
        TrainerKind::Thread => {
            Ok(Arc::new(ThreadTrainer::new(store, sets, bundles, settings.daemon.state_dir.join("runs"))))
        }
        TrainerKind::KubernetesJob => {
            Ok(Arc::new(kubernetes_trainer::open(&settings.trainer.kubernetes, &settings.cluster.kubernetes, store)?))
        }
    }
}

/// The cluster of `[cluster]`; `service_binary` is what local processes run.
///
/// # Errors
/// When its state cannot be read, another daemon has it, or the port is taken.
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
#[must_use]
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

/// A channel, or why there is none.
pub type OpenedChannel = Result<Arc<dyn Notifier>, PortError>;

/// The templates of `[notification]`. Faulty ones are left out and told by
/// [`Templates::check`].
#[must_use]
pub fn templates(settings: &Settings) -> Arc<Templates> {
    let section = &settings.notification;
    Arc::new(Templates::load(&section.templates_dir, &section.public_url))
}

/// The channels of `[notification]` as one.
///
/// # Errors
/// When the settings name something unreadable.
pub fn notifier(settings: &Settings) -> Result<Arc<dyn Notifier>, PortError> {
    let templates = templates(settings);
    if let Err(error) = templates.check() {
        tracing::error!(error = %error, "built-in alert templates take the place of faulty ones");
    }
    let channels = channels(settings, &templates);
    let opened: Result<Vec<_>, _> = channels.into_iter().map(|(kind, opened)| Ok((kind, opened?))).collect();
    Ok(Arc::new(Channels::new(opened?)))
}
