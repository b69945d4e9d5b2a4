//! Rows of the ledger as the steps of a cycle leave them, for tests that begin in the middle. A test changes what it is
//! about: `Run { seed: 7, ..run(&cycle, &dataset, at) }`.

use chrono::{DateTime, Duration, Utc};
use delayd_core::ids::{DeploymentId, Digest, ModelVersion};
use delayd_core::ports::{PushedImage, Release, Replica, ReplicaState, Severity};
use delayd_ledger::{
    Cycle, Dataset, Deployment, DeploymentState, IngestedObject, Model, NewAlert, ObjectStatus, Run, RunState,
};
use serde_json::json;

pub fn object(key: &str, at: DateTime<Utc>) -> IngestedObject {
    IngestedObject {
        key: key.to_owned(),
        digest: Digest::of(key.as_bytes()),
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
    }
}

pub fn dataset(cycle: &Cycle, version: Digest, at: DateTime<Utc>) -> Dataset {
    Dataset {
        version,
        cycle: cycle.id,
        sources: Vec::new(),
        manifest: json!({}).into(),
        rows: 9,
        from: at - Duration::days(30),
        until: at,
        validation: json!({}).into(),
        created_at: at,
    }
}

pub fn run(cycle: &Cycle, dataset: &Digest, at: DateTime<Utc>) -> Run {
    Run {
        id: cycle.run,
        cycle: cycle.id,
        dataset: dataset.clone(),
        parameters: json!({}).into(),
        seed: 1,
        device: "cpu".to_owned(),
        state: RunState::Succeeded,
        epochs: json!([]).into(),
        trials: json!([]).into(),
        metrics: json!({}).into(),
        record: json!({"commit": "0123abc"}).into(),
        started_at: at,
        finished_at: Some(at),
    }
}

pub fn model(cycle: &Cycle, dataset: &Digest, bundle: Digest, at: DateTime<Utc>) -> Model {
    Model {
        version: cycle.model,
        bundle,
        bundle_key: format!("bundles/{}", cycle.model),
        dataset: dataset.clone(),
        run: cycle.run,
        cycle: cycle.id,
        reason: None,
        parent: None,
        metrics: json!({}).into(),
        registered_at: at,
    }
}

pub fn image(model: ModelVersion) -> PushedImage {
    let digest = Digest::of(model.to_string().as_bytes());
    PushedImage {
        reference: format!("oci:images@{digest}"),
        tag: model.to_string(),
        digest,
        size_bytes: 10,
        layers_pushed: 1,
        layers_reused: 3,
    }
}

pub fn release(model: &Model, image: &PushedImage) -> Release {
    Release {
        deployment: DeploymentId(model.version.0),
        model: model.version,
        bundle: model.bundle.clone(),
        image: image.reference.clone(),
        bundle_dir: "bundles".into(),
        replicas: 2,
    }
}

pub fn deployment(release: Release, state: DeploymentState, at: DateTime<Utc>) -> Deployment {
    Deployment {
        id: release.deployment,
        cycle: None,
        model: release.model,
        release,
        state,
        previous: None,
        created_at: at,
        changed_at: at,
    }
}

/// A ready replica of the first release.
pub fn replica(name: &str) -> Replica {
    Replica {
        name: name.to_owned(),
        model: ModelVersion(1),
        deployment: DeploymentId(1),
        state: ReplicaState::Ready,
        admin_url: String::new(),
        restarts: 0,
        memory_bytes: None,
        reason: None,
    }
}

pub fn alert(key: &str, severity: Severity, at: DateTime<Utc>) -> NewAlert {
    NewAlert { at, severity, dedup_key: key.to_owned(), title: format!("title of {key}"), body: "b".to_owned() }
}
