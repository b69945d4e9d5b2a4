//! A daemon's surroundings in a folder: the embedded adapters, and a cluster that
//! runs nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use delayd_outside::local::{FolderStore, LogNotifier, OciLayoutRegistry, WeatherCsv};
use delayd_train::thread_trainer::ThreadTrainer;
use delayd_data::TrainingSets;
use delayd::env::Env;
use delayd_core::clock::SystemClock;
use delayd_ledger::Ledger;
use delayd_core::ports::{Cluster, ObjectStore, Release, Replica, RolloutProgress};
use delayd_core::error::PortError;
use delayd_outside::bundles::BundleStore;

/// A cluster that runs nothing and is content with everything.
#[derive(Debug)]
pub struct NoCluster;

#[async_trait]
impl Cluster for NoCluster {
    async fn apply(
        &self,
        _: &Release,
        _: Duration,
        _: &(dyn Fn(RolloutProgress) + Send + Sync),
    ) -> Result<(), PortError> {
        Ok(())
    }
    async fn current(&self) -> Result<Option<Release>, PortError> {
        Ok(None)
    }
    async fn replicas(&self) -> Result<Vec<Replica>, PortError> {
        Ok(Vec::new())
    }
    async fn reconcile(&self) -> Result<Vec<String>, PortError> {
        Ok(Vec::new())
    }
    fn service_url(&self) -> String {
        String::new()
    }
    async fn tear_down(&self) -> Result<(), PortError> {
        Ok(())
    }
    async fn probe(&self) -> Result<String, PortError> {
        Ok(String::new())
    }
}

/// The whole of it, empty.
pub fn env(folder: &Path) -> Env {
    let store: Arc<dyn ObjectStore> = Arc::new(FolderStore::open(&folder.join("store")).unwrap());
    Env {
        clock: Arc::new(SystemClock),
        ledger: Ledger::open(&folder.join("ledger.sqlite")).unwrap(),
        weather: Arc::new(WeatherCsv::new(store.clone(), "weather/")),
        trainer: Arc::new(ThreadTrainer::new(
            store.clone(),
            TrainingSets::default(),
            BundleStore::new(folder.join("bundles")),
            folder.join("runs"),
        )),
        object_store: store,
        image_registry: Arc::new(OciLayoutRegistry::open(&folder.join("images")).unwrap()),
        cluster: Arc::new(NoCluster),
        notifier: Arc::new(LogNotifier),
    }
}
