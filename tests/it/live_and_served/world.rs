//! A daemon over a cluster that only remembers, with cycles that are as far as a test wants them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use delayd::config::{ApprovalMode, Settings};
use delayd::cycle::commands::{CommandAnswered, CommandKind, OperatorCommand};
use delayd::cycle::saga::StepObserver;
use delayd::cycle::steps::STEPS;
use delayd::daemon::Daemon;
use delayd::data::messages::{DatasetBuilt, FlightsIngested};
use delayd::env::Env;
use delayd::stages::deploy::ModelDeployed;
use delayd::stages::package::{ImagePushed, ModelPackaged};
use delayd::stages::register::ModelRegistered;
use delayd::supervision::ActorState;
use delayd::training::messages::{GateAnswered, ModelTrained};
use delayd::verification::messages::DeploymentVerified;
use delayd_core::error::PortError;
use delayd_core::failure::StepFailure;
use delayd_core::ids::{CycleId, DecisionId, DeploymentId, Digest, ModelVersion};
use delayd_core::ports::{Cluster, PushedImage, Release, Replica, RolloutProgress, Severity};
use delayd_ledger::{
    Alias, AuditRecord, Cycle, CycleOutcome, CycleReason, CycleState, Dataset, Deployment, DeploymentState, Ledger,
    Model, Page, Run, RunState, Step, StepState,
};
use delayd_outside::bundles::BundleStore;
use delayd_outside::wrap::{Failing, PlannedFailures};
use serde_json::{Value, json};

use delayd_testkit::contracts::surroundings;

pub(crate) const SOON: Duration = Duration::from_secs(120);

struct Silent;

impl StepObserver for Silent {
    fn started(&self, _: CycleId, _: &str) {}
    fn finished(&self, _: CycleId, _: &str, _: Duration, _: Option<&StepFailure>) {}
}

/// A cluster that runs nothing and remembers what it was told to run.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryCluster(Arc<Mutex<Remembered>>);

#[derive(Debug, Default)]
struct Remembered {
    current: Option<Release>,
    applied: Vec<DeploymentId>,
    hangs_after: Option<DeploymentId>,
}

impl MemoryCluster {
    fn inner(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap()
    }

    pub(crate) fn serve(&self, release: &Release) {
        self.inner().current = Some(release.clone());
    }

    pub(crate) fn serves(&self) -> Option<DeploymentId> {
        self.inner().current.as_ref().map(|release| release.deployment)
    }

    /// What was applied, in order.
    pub(crate) fn applied(&self) -> Vec<DeploymentId> {
        self.inner().applied.clone()
    }

    /// Lets the applying of this deployment take effect and never answer, as a daemon sees it that dies there.
    pub(crate) fn hang_after(&self, deployment: Option<DeploymentId>) {
        self.inner().hangs_after = deployment;
    }
}

#[async_trait]
impl Cluster for MemoryCluster {
    async fn apply(
        &self,
        release: &Release,
        _: Duration,
        _: &(dyn Fn(RolloutProgress) + Send + Sync),
    ) -> Result<(), PortError> {
        let hangs = {
            let mut inner = self.inner();
            inner.applied.push(release.deployment);
            inner.current = Some(release.clone());
            inner.hangs_after == Some(release.deployment)
        };
        if hangs {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
    async fn current(&self) -> Result<Option<Release>, PortError> {
        Ok(self.inner().current.clone())
    }
    async fn replicas(&self) -> Result<Vec<Replica>, PortError> {
        Ok(Vec::new())
    }
    async fn reconcile(&self) -> Result<Vec<String>, PortError> {
        Ok(Vec::new())
    }
    fn service_url(&self) -> String {
        "http://127.0.0.1:9".to_owned()
    }
    async fn tear_down(&self) -> Result<(), PortError> {
        self.inner().current = None;
        Ok(())
    }
    async fn probe(&self) -> Result<String, PortError> {
        Ok(String::new())
    }
}

pub(crate) fn at(secs: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_360_000_000 + secs, 0).unwrap()
}

/// A folder, what is outside, and how the daemon there is configured.
pub(crate) struct Place {
    folder: tempfile::TempDir,
    pub(crate) settings: Settings,
    pub(crate) cluster: MemoryCluster,
    pub(crate) failures: PlannedFailures,
}

impl Place {
    pub(crate) fn new(approval: ApprovalMode) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.daemon.state_dir = folder.path().to_owned();
        settings.daemon.step_attempts = 2;
        settings.daemon.step_retry_secs = 0.02;
        settings.approval.mode = approval;
        settings.cluster.replicas = 1;
        // Time alone asks for no cycle.
        settings.retrain.max_model_age_days = None;
        let (cluster, failures) = (MemoryCluster::default(), PlannedFailures::none());
        Self { folder, settings, cluster, failures }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Clock, ledger and ports. The ledger is opened: only while no daemon has it.
    pub(crate) fn env(&self) -> Env {
        let cluster = Failing::new(self.cluster.clone(), self.failures.clone());
        Env { cluster: Arc::new(cluster), ..surroundings::env(self.path()) }
    }

    /// Starts a daemon, the first one or the next, and waits until its actors run.
    pub(crate) async fn start(&self) -> Daemon {
        let ledger = self.path().join("ledger.sqlite");
        until("the ledger is free", || async { Ledger::open(&ledger).ok().map(drop) }).await;
        start(&self.settings, self.env()).await
    }
}

pub(crate) async fn start(settings: &Settings, env: Env) -> Daemon {
    let settings = Arc::new(settings.clone());
    let daemon = Daemon::with_env(settings, env, PathBuf::new(), Arc::new(Silent), |_| ()).unwrap();
    until("the actors run", || async {
        daemon.actors().iter().all(|actor| actor.state == ActorState::Running).then_some(())
    })
    .await;
    daemon
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

pub(crate) fn in_system<T>(test: impl Future<Output = T>) -> T {
    actix::System::new().block_on(test)
}

pub(crate) async fn command(daemon: &Daemon, command: CommandKind, why: &str) -> Result<CommandAnswered, StepFailure> {
    let asked = OperatorCommand { command, by: "alice".to_owned(), why: why.to_owned() };
    daemon.coordinator.ask(asked).await
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

pub(crate) async fn live(ledger: &Ledger) -> Option<ModelVersion> {
    ledger.model_by_alias(Alias::Live).await.unwrap().map(|model| model.version)
}

pub(crate) async fn state_of(ledger: &Ledger, deployment: DeploymentId) -> DeploymentState {
    ledger.deployment(deployment).await.unwrap().unwrap().state
}

pub(crate) async fn last_deed(ledger: &Ledger) -> AuditRecord {
    ledger.audit(Page { offset: 0, limit: 1 }).await.unwrap().remove(0)
}

/// Severity, title and body of every alert.
pub(crate) async fn alerts(ledger: &Ledger) -> Vec<(Severity, String, String)> {
    let alerts = ledger.alerts(Page { offset: 0, limit: 50 }).await.unwrap();
    alerts.into_iter().map(|told| (told.alert.severity, told.alert.title, told.alert.body)).collect()
}

pub(crate) async fn told(ledger: &Ledger, severity: Severity, title: &str) -> String {
    let all = alerts(ledger).await;
    let found = all.iter().find(|(of, other, _)| *of == severity && other.contains(title));
    found.unwrap_or_else(|| panic!("no {severity} alert `{title}` among {all:?}")).2.clone()
}

/// A cycle with its model, and the release that it makes.
pub(crate) struct Made {
    pub(crate) cycle: Cycle,
    pub(crate) release: Release,
}

/// What a model is made of.
pub(crate) struct Material {
    pub(crate) bundle: Digest,
    pub(crate) dataset: Digest,
    pub(crate) as_of: DateTime<Utc>,
}

impl Material {
    /// Nothing that could be loaded.
    pub(crate) fn made_up(number: i64) -> Self {
        Self {
            bundle: Digest::of(format!("bundle {number}").as_bytes()),
            dataset: Digest::of(format!("dataset {number}").as_bytes()),
            as_of: at(number * 100),
        }
    }
}

/// Begins a cycle, and has everything done up to and with the step `last`.
pub(crate) async fn cycle_until(ledger: &Ledger, state: &Path, material: Material, last: &str) -> Made {
    let Material { bundle, dataset, as_of } = material;
    let cycle = ledger.begin_cycle(CycleReason::Bootstrap, as_of).await.unwrap();
    let release = Release {
        deployment: cycle.deployment,
        model: cycle.model,
        bundle: bundle.clone(),
        image: format!("registry/delay-ml@{bundle}"),
        bundle_dir: BundleStore::new(state.join("bundles")).path_of(&bundle),
        replicas: 1,
    };
    let end = STEPS.iter().find(|row| row.step.name == last).unwrap().step.position;
    records(ledger, &cycle, &release, &dataset, end).await;
    for (name, output) in outputs(&cycle, &release, &dataset) {
        let position = STEPS.iter().find(|row| row.step.name == name).unwrap().step.position;
        if position <= end {
            ledger.step_started(cycle.id, position, name, at(5)).await.unwrap();
            ledger.step_done(cycle.id, position, output, at(6), 1).await.unwrap();
        }
    }
    if last == "deploy" || last == "verify" {
        let previous = ledger.approved_deployment().await.unwrap().map(|before| before.id);
        let state = if last == "verify" { DeploymentState::Verified } else { DeploymentState::Applied };
        insert_deployment(ledger, &cycle, &release, state, previous).await;
    }
    Made { cycle, release }
}

/// A model that went live.
pub(crate) async fn deployed(ledger: &Ledger, state: &Path, material: Material) -> Made {
    let made = cycle_until(ledger, state, material, "verify").await;
    ledger.promote(made.cycle.model, at(7)).await.unwrap();
    ledger.set_deployment_state(made.release.deployment, DeploymentState::Approved, at(7)).await.unwrap();
    ledger.finish_cycle(made.cycle.id, CycleOutcome::Deployed, "is live", at(8)).await.unwrap();
    made
}

async fn insert_deployment(
    ledger: &Ledger,
    cycle: &Cycle,
    release: &Release,
    state: DeploymentState,
    previous: Option<DeploymentId>,
) {
    let record = Deployment {
        id: release.deployment,
        cycle: Some(cycle.id),
        model: release.model,
        release: release.clone(),
        state,
        previous,
        created_at: at(6),
        changed_at: at(6),
    };
    ledger.insert_deployment(record).await.unwrap();
}

/// The rows that the steps up to position `end` leave.
async fn records(ledger: &Ledger, cycle: &Cycle, release: &Release, dataset: &Digest, end: u32) {
    let dataset = Dataset {
        version: dataset.clone(),
        cycle: cycle.id,
        sources: Vec::new(),
        manifest: json!({}),
        rows: 1,
        from: at(0),
        until: at(86_400 * 7),
        validation: json!({}),
        created_at: at(1),
    };
    let model = Model {
        version: cycle.model,
        bundle: release.bundle.clone(),
        bundle_key: format!("bundles/{}", cycle.model),
        dataset: dataset.version.clone(),
        run: cycle.run,
        cycle: cycle.id,
        reason: None,
        parent: None,
        metrics: json!({}),
        registered_at: at(4),
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
    ledger.insert_dataset(dataset).await.unwrap();
    if end >= STEPS.iter().find(|row| row.step.name == "register").unwrap().step.position {
        ledger.save_run(run).await.unwrap();
        ledger.register_model(model).await.unwrap();
    }
}

fn outputs(cycle: &Cycle, release: &Release, dataset: &Digest) -> Vec<(&'static str, Value)> {
    let value = |value: Result<Value, serde_json::Error>| value.unwrap();
    let built = DatasetBuilt { version: dataset.clone(), rows: 1, labelled: 1, from: at(0), until: at(86_400 * 7) };
    let trained = ModelTrained {
        run: cycle.run,
        bundle: release.bundle.clone(),
        path: PathBuf::new(),
        trained_rows: 1,
        roc_auc: 0.7,
        train_secs: 1.0,
    };
    let gate = GateAnswered { passed: true, reason: "better".to_owned(), decision: DecisionId(1) };
    let registered = ModelRegistered { version: cycle.model, bundle: release.bundle.clone() };
    let digest = Digest::of(release.image.as_bytes());
    let packaged = ModelPackaged { layout: PathBuf::from("/nowhere"), digest: digest.clone(), size_bytes: 1 };
    let image = PushedImage {
        reference: release.image.clone(),
        tag: cycle.model.to_string(),
        digest,
        size_bytes: 1,
        layers_pushed: 1,
        layers_reused: 0,
    };
    let deployed = ModelDeployed {
        deployment: release.deployment,
        model: cycle.model,
        replaced: None,
        service_url: String::new(),
    };
    let verified = DeploymentVerified { passed: true, reason: "all checks passed".to_owned(), requests: 400 };
    vec![
        ("ingest", value(serde_json::to_value(FlightsIngested::default()))),
        ("dataset", value(serde_json::to_value(built))),
        ("train", value(serde_json::to_value(trained))),
        ("gate", value(serde_json::to_value(gate))),
        ("register", value(serde_json::to_value(registered))),
        ("package", value(serde_json::to_value(packaged))),
        ("push", value(serde_json::to_value(ImagePushed { image }))),
        ("deploy", value(serde_json::to_value(deployed))),
        ("verify", value(serde_json::to_value(verified))),
    ]
}

/// Whether a step is as it is expected to be.
pub(crate) async fn assert_step(ledger: &Ledger, cycle: CycleId, name: &str, state: StepState) {
    let found = step(ledger, cycle, name).await;
    assert_eq!(found.as_ref().map(|step| step.state), Some(state), "{name}: {found:?}");
}
