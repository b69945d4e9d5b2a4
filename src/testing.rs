//! What unit tests of several stages need: an environment with a cluster of their
//! own, and a model that is live in its ledger.

use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use delayd_core::clock::Clock;
use delayd_core::ids::{Digest, ModelVersion};
use delayd_core::ports::{Cluster, ObjectStore};
use delayd_ledger::{CycleOutcome, CycleReason, Dataset, Ledger, ObjectRef, ObjectsLooked};
use delayd_model::Bundle;
use delayd_outside::bundles::BundleStore;
use delayd_outside::local::{FolderStore, LogNotifier, OciLayoutRegistry, WeatherCsv};
use delayd_testkit::records;

pub(crate) use delayd_testkit::contracts::surroundings::{FixedCluster, NoTrainer};

use crate::env::Env;

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
    let object = records::object("flights/2013-01.csv", at);
    let source = ObjectRef { key: object.key.clone(), digest: object.digest.clone() };
    ledger.record_objects(ObjectsLooked { objects: vec![object], ..ObjectsLooked::default() }).await.unwrap();
    let version = Digest::of(cycle.id.to_string().as_bytes());
    let dataset = Dataset { sources: vec![source], ..records::dataset(&cycle, version, at) };
    let run = records::run(&cycle, &dataset.version, at);
    let model = records::model(&cycle, &dataset.version, digest, at);
    ledger.insert_dataset(dataset).await.unwrap();
    ledger.save_run(run).await.unwrap();
    ledger.register_model(model).await.unwrap();
    ledger.promote(cycle.model, at).await.unwrap();
    ledger.finish_cycle(cycle.id, CycleOutcome::Deployed, "", at).await.unwrap();
    cycle.model
}
