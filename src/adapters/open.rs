//! Which adapter stands behind each port: the only place that reads the `kind`
//! of a section. Nothing here talks to the outside; an adapter connects when it
//! is used, so that the daemon starts while an outside system is away.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::cloud::kubernetes::{KubernetesCluster, KubernetesClusterConfig};
use super::cloud::kubernetes_trainer;
use super::local::{
    FolderStore, LogNotifier, OciLayoutRegistry, ProcessCluster, ProcessClusterConfig, ThreadTrainer, WeatherCsv,
};
use crate::config::{ClusterKind, ObjectStoreKind, RegistryKind, Settings, TrainerKind, WeatherKind};
use crate::data::TrainingSets;
use crate::error::PortError;
use crate::ports::{Cluster, ImageRegistry, Notifier, ObjectStore, Trainer, WeatherSource};
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
    }
}

/// The weather of `[weather]`; `store` is where files of it lie.
///
/// # Errors
/// When the settings name something unreadable.
pub fn weather(settings: &Settings, store: Arc<dyn ObjectStore>) -> Result<Arc<dyn WeatherSource>, PortError> {
    let section = &settings.weather;
    match section.kind {
        WeatherKind::Csv => Ok(Arc::new(WeatherCsv::new(store, section.prefix.clone()))),
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

/// The channels of `[notification]`.
///
/// # Errors
/// When the settings name something unreadable.
pub fn notifier(_settings: &Settings) -> Result<Arc<dyn Notifier>, PortError> {
    Ok(Arc::new(LogNotifier))
}
