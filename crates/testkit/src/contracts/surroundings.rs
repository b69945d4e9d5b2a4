//! A daemon's surroundings in a folder: the embedded adapters, and a cluster that
//! runs nothing.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use delayd::env::Env;
use delayd_core::clock::SystemClock;
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ids::RunId;
use delayd_core::ports::{Cluster, ObjectStore, Release, Replica, RolloutProgress};
use delayd_ledger::Ledger;
use delayd_outside::local::{FolderStore, LogNotifier, OciLayoutRegistry, WeatherCsv};
use delayd_training_job::{Trainer, TrainingControl, TrainingJob, TrainingResult};

/// A cluster that runs nothing and is content with everything; its replicas and repairs are what the test says.
#[derive(Debug, Default)]
pub struct FixedCluster {
    pub replicas: Mutex<Vec<Replica>>,
    pub repairs: Vec<String>,
}

#[async_trait]
impl Cluster for FixedCluster {
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
        Ok(self.replicas.lock().unwrap().clone())
    }
    async fn reconcile(&self) -> Result<Vec<String>, PortError> {
        Ok(self.repairs.clone())
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

/// A trainer for worlds in which nothing is trained.
#[derive(Debug)]
pub struct NoTrainer;

#[async_trait]
impl Trainer for NoTrainer {
    async fn train(&self, job: &TrainingJob, _: &TrainingControl) -> Result<TrainingResult, PortError> {
        Err(PortError::new(ErrorKind::Unavailable, job.action(), "nobody trains in this test"))
    }
    async fn forget(&self, _: RunId) -> Result<(), PortError> {
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
        trainer: Arc::new(NoTrainer),
        object_store: store,
        image_registry: Arc::new(OciLayoutRegistry::open(&folder.join("images")).unwrap()),
        cluster: Arc::new(FixedCluster::default()),
        notifier: Arc::new(LogNotifier),
    }
}
