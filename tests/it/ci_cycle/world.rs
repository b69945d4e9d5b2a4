//! A cycle whose model is registered, and the daemon that drives it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use delayd::config::Settings;
use delayd::cycle::saga::StepObserver;
use delayd::cycle::steps::STEPS;
use delayd::daemon::Daemon;
use delayd::data::messages::{DatasetBuilt, FlightsIngested};
use delayd::http::{Access, ApiState, Listeners, Metrics, Streams, serve};
use delayd::stages::register::ModelRegistered;
use delayd::training::messages::{GateAnswered, ModelTrained};
use delayd_core::clock::SystemClock;
use delayd_core::failure::StepFailure;
use delayd_core::ids::{CycleId, DecisionId, Digest};
use delayd_ledger::{Cycle, CycleReason, CycleState, Dataset, Ledger, Model, Page, Run, RunState, Step};
use delayd_outside::bundles::BundleStore;
use delayd_outside::packaging::SourceSettings;
use serde_json::{Value, json};

use delayd_testkit::contracts::layouts;

pub(crate) const SOON: Duration = Duration::from_secs(60);

pub(crate) struct Silent;

impl StepObserver for Silent {
    fn started(&self, _: CycleId, _: &str) {}
    fn finished(&self, _: CycleId, _: &str, _: Duration, _: Option<&StepFailure>) {}
}

pub(crate) fn at(secs: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_360_000_000 + secs, 0).unwrap()
}

/// Settings of a daemon that tries again quickly and deploys nothing that runs.
pub(crate) fn settings(place: &Path, source: SourceSettings) -> Settings {
    let mut settings = Settings::default();
    settings.daemon.state_dir = place.join("state");
    settings.daemon.step_attempts = 2;
    settings.daemon.step_retry_secs = 0.05;
    settings.cluster.replicas = 1;
    settings.cluster.ready_deadline_secs = 2;
    settings.packaging.source = source;
    settings.packaging.service_binary = place.join("at-hand");
    layouts::write_static_binary(&settings.packaging.service_binary);
    settings
}

/// What the steps before the build left in the journal, by their names.
pub(crate) fn outputs(cycle: &Cycle, bundle: &Digest, dataset: &Digest) -> Vec<(&'static str, Value)> {
    let value = |value: Result<Value, serde_json::Error>| value.unwrap();
    let built = DatasetBuilt { version: dataset.clone(), rows: 1, labelled: 1, from: at(0), until: at(86_400 * 7) };
    let trained = ModelTrained {
        run: cycle.run,
        bundle: bundle.clone(),
        path: PathBuf::new(),
        trained_rows: 1,
        roc_auc: 0.7,
        train_secs: 1.0,
    };
    let gate = GateAnswered { passed: true, reason: "better".to_owned(), decision: DecisionId(1) };
    let registered = ModelRegistered { version: cycle.model, bundle: bundle.clone() };
    vec![
        ("ingest", value(serde_json::to_value(FlightsIngested::default()))),
        ("dataset", value(serde_json::to_value(built))),
        ("train", value(serde_json::to_value(trained))),
        ("gate", value(serde_json::to_value(gate))),
        ("register", value(serde_json::to_value(registered))),
    ]
}

/// Begins a cycle, and does everything up to the registration of its model.
pub(crate) async fn registered(ledger: &Ledger, state: &Path) -> (Cycle, Digest, Digest) {
    let cycle = ledger.begin_cycle(CycleReason::Bootstrap, at(0)).await.unwrap();
    let folder = state.join("being-written");
    let bundle = layouts::write_bundle(&folder, cycle.model.to_string().as_bytes());
    let kept = BundleStore::new(state.join("bundles")).path_of(&bundle);
    std::fs::create_dir_all(kept.parent().unwrap()).unwrap();
    std::fs::rename(&folder, &kept).unwrap();
    let dataset = Dataset {
        version: Digest::of(b"manifest"),
        cycle: cycle.id,
        sources: Vec::new(),
        manifest: json!({}),
        rows: 1,
        from: at(0),
        until: at(86_400 * 7),
        validation: json!({}),
        created_at: at(1),
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
        record: json!({"commit": "0123abc"}),
        started_at: at(2),
        finished_at: Some(at(3)),
    };
    let model = Model {
        version: cycle.model,
        bundle: bundle.clone(),
        bundle_key: "bundles/1".to_owned(),
        dataset: dataset.version.clone(),
        run: cycle.run,
        cycle: cycle.id,
        reason: None,
        parent: None,
        metrics: json!({}),
        registered_at: at(4),
    };
    ledger.insert_dataset(dataset.clone()).await.unwrap();
    ledger.save_run(run).await.unwrap();
    ledger.register_model(model).await.unwrap();
    for (name, output) in outputs(&cycle, &bundle, &dataset.version) {
        let position = STEPS.iter().find(|row| row.step.name == name).unwrap().step.position;
        ledger.step_started(cycle.id, position, name, at(5)).await.unwrap();
        ledger.step_done(cycle.id, position, output, at(6), 1).await.unwrap();
    }
    (cycle, bundle, dataset.version)
}

pub(crate) fn start(settings: Settings) -> Daemon {
    Daemon::start(settings, Arc::new(SystemClock), Arc::new(Silent), |_| ()).unwrap()
}

/// Waits until `look` answers something; actors go on meanwhile.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let begun = std::time::Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < SOON, "waited {SOON:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Has the daemon go on with what is unfinished; its actors may only be starting.
pub(crate) async fn resume(daemon: &Daemon) {
    until("the daemon's actors run", || async { daemon.resume().await.ok() }).await;
}

pub(crate) async fn finished(daemon: &Daemon, cycle: CycleId) -> Cycle {
    until("the cycle is finished", || async {
        let found = daemon.env.ledger.cycle(cycle).await.unwrap().unwrap();
        (found.state == CycleState::Finished).then_some(found)
    })
    .await
}

pub(crate) async fn step(ledger: &Ledger, cycle: CycleId, name: &str) -> Option<Step> {
    ledger.steps_of(cycle).await.unwrap().into_iter().find(|step| step.name == name)
}

pub(crate) async fn alerts(daemon: &Daemon) -> Vec<(String, String)> {
    let alerts = daemon.env.ledger.alerts(Page { offset: 0, limit: 50 }).await.unwrap();
    alerts.into_iter().map(|alert| (alert.alert.title, alert.alert.body)).collect()
}

pub(crate) fn in_system<T>(test: impl Future<Output = T>) -> T {
    actix::System::new().block_on(test)
}

/// The status endpoint of a daemon, and its address.
pub(crate) fn endpoint(daemon: &Daemon) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/api/v1", listener.local_addr().unwrap());
    let state = ApiState {
        env: daemon.env.clone(),
        settings: daemon.settings.clone(),
        coordinator: daemon.coordinator.clone(),
        supervision: daemon.supervision().clone(),
        metrics: Metrics::new(&daemon.settings).unwrap(),
        access: Arc::new(Access::new(daemon.settings.http.clone())),
        streams: Streams::default(),
    };
    let mut listeners = Listeners { tcp: listener, tls: None, local: None };
    actix_web::rt::spawn(serve(state, &mut listeners).unwrap());
    url
}

pub(crate) async fn get(url: &str) -> (u16, String) {
    let client = delayd_core::http_client::client_builder().no_proxy().build().unwrap();
    let answer = client.get(url).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}
