//! What unit tests of several stages need: an environment with a cluster of their
//! own, and a model that is live in its ledger.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use delayd_model::Bundle;
use serde_json::json;

use crate::env::Env;
use delayd_core::clock::Clock;
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ids::{Digest, ModelVersion, RunId};
use delayd_core::ports::{Cluster, ObjectStore, Release, Replica, RolloutProgress};
use delayd_ledger::{
    CycleOutcome, CycleReason, Dataset, IngestedObject, Ledger, Model, ObjectRef, ObjectStatus, ObjectsLooked, Run,
    RunState,
};
use delayd_outside::bundles::BundleStore;
use delayd_outside::local::{FolderStore, LogNotifier, OciLayoutRegistry, WeatherCsv};
use delayd_training_job::{Trainer, TrainingControl, TrainingJob, TrainingResult};

/// A cluster whose replicas and repairs are what the test says.
#[derive(Debug, Default)]
pub(crate) struct FixedCluster {
    pub(crate) replicas: Mutex<Vec<Replica>>,
    pub(crate) repairs: Vec<String>,
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

/// A trainer for tests in which nothing is trained.
#[derive(Debug)]
pub(crate) struct NoTrainer;

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

/// An environment whose files lie in a folder.
pub(crate) fn env(folder: &Path, clock: Arc<dyn Clock>, cluster: Arc<dyn Cluster>) -> Env {
    let store: Arc<dyn ObjectStore> = Arc::new(FolderStore::open(&folder.join("store")).unwrap());
    Env {
        clock,
        ledger: Ledger::open(&folder.join("ledger.sqlite")).unwrap(),
        weather: Arc::new(WeatherCsv::new(store.clone(), "weather/")),
        trainer: Arc::new(NoTrainer),
        object_store: store,
        image_registry: Arc::new(OciLayoutRegistry::open(&folder.join("images")).unwrap()),
        cluster,
        notifier: Arc::new(LogNotifier),
    }
}

/// Makes a model live by a cycle that ran at `at`; its bundle lies in the folder's store.
pub(crate) async fn live_model(folder: &Path, ledger: &Ledger, bundle: &Bundle, at: DateTime<Utc>) -> ModelVersion {
    let cycle = ledger.begin_cycle(CycleReason::Scheduled, at).await.unwrap();
    let attempt = folder.join(format!("attempt-{}", cycle.id));
    let digest: Digest = bundle.write_to(&attempt).unwrap().parse().unwrap();
    BundleStore::new(folder.join("bundles")).take_in(&digest, &attempt).unwrap();
    let source = ObjectRef { key: "flights/2013-01.csv".to_owned(), digest: Digest::of(b"csv") };
    let object = IngestedObject {
        key: source.key.clone(),
        digest: source.digest.clone(),
        size_bytes: 10,
        rows_accepted: 9,
        rows_quarantined: 1,
        rows_duplicate: 0,
        unused_columns: Vec::new(),
        quarantine_key: None,
        status: ObjectStatus::Ingested,
        error: None,
        ingested_at: at,
        resolved_at: None,
    };
    ledger.record_objects(ObjectsLooked { objects: vec![object], ..ObjectsLooked::default() }).await.unwrap();
    let dataset = Dataset {
        version: Digest::of(cycle.id.to_string().as_bytes()),
        cycle: cycle.id,
        sources: vec![source],
        manifest: json!({}),
        rows: 9,
        from: at - chrono::Duration::days(30),
        until: at,
        validation: json!({}),
        created_at: at,
    };
    let run = Run {
        id: cycle.run,
        cycle: cycle.id,
        dataset: dataset.version.clone(),
        parameters: json!({}),
        seed: 1,
        device: "cpu".to_owned(),
        state: RunState::Succeeded,
        epochs: json!([]),
        trials: json!([]),
        metrics: json!({}),
        record: json!(null),
        started_at: at,
        finished_at: Some(at),
    };
    let model = Model {
        version: cycle.model,
        bundle: digest,
        bundle_key: format!("bundles/{}", cycle.model),
        dataset: dataset.version.clone(),
        run: cycle.run,
        cycle: cycle.id,
        reason: None,
        parent: None,
        metrics: json!({}),
        registered_at: at,
    };
    ledger.insert_dataset(dataset).await.unwrap();
    ledger.save_run(run).await.unwrap();
    ledger.register_model(model).await.unwrap();
    ledger.promote(cycle.model, at).await.unwrap();
    ledger.finish_cycle(cycle.id, CycleOutcome::Deployed, "", at).await.unwrap();
    cycle.model
}
