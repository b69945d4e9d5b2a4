//! A daemon over a cluster that only remembers, with cycles that are as far as a test wants them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use delayd::config::{ApprovalMode, Settings};
use delayd::cycle::commands::{CommandAnswered, CommandKind, OperatorCommand};
use delayd::cycle::steps::STEPS;
use delayd::daemon::Daemon;
use delayd::env::Env;
use delayd::stages::dataset::DatasetBuilt;
use delayd::stages::deploy::ModelDeployed;
use delayd::stages::gate::GateAnswered;
use delayd::stages::ingest::FlightsIngested;
use delayd::stages::package::{ImagePushed, ModelPackaged};
use delayd::stages::register::ModelRegistered;
use delayd::stages::train::ModelTrained;
use delayd::stages::verify::DeploymentVerified;
use delayd::supervision::ActorState;
use delayd_core::error::PortError;
use delayd_core::failure::StepFailure;
use delayd_core::ids::{CycleId, DecisionId, DeploymentId, Digest, ModelVersion};
use delayd_core::ports::{Cluster, PushedImage, Release, Replica, RolloutProgress, Severity};
use delayd_ledger::{
    Alias, AuditRecord, Cycle, CycleOutcome, CycleReason, CycleState, Dataset, Deployment, DeploymentState, Ledger,
    Page, Step, StepState,
};
use delayd_outside::bundles::BundleStore;
use delayd_outside::wrap::{Failing, PlannedFailures};
use serde_json::{Value, json};

use crate::contracts::surroundings;
use crate::records;
use crate::tools::{Silent, until};

/// A cluster that runs nothing and remembers what it was told to run.
#[derive(Debug, Clone, Default)]
pub struct MemoryCluster(Arc<Mutex<Remembered>>);

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

    pub fn serve(&self, release: &Release) {
        self.inner().current = Some(release.clone());
    }

    pub fn serves(&self) -> Option<DeploymentId> {
        self.inner().current.as_ref().map(|release| release.deployment)
    }

    /// What was applied, in order.
    pub fn applied(&self) -> Vec<DeploymentId> {
        self.inner().applied.clone()
    }

    /// Lets the applying of this deployment take effect and never answer, as a daemon sees it that dies there.
    pub fn hang_after(&self, deployment: Option<DeploymentId>) {
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

pub fn at(secs: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_360_000_000 + secs, 0).unwrap()
}

/// A folder, what is outside, and how the daemon there is configured.
pub struct Place {
    folder: tempfile::TempDir,
    pub settings: Settings,
    pub cluster: MemoryCluster,
    pub failures: PlannedFailures,
}

impl Place {
    pub fn new(approval: ApprovalMode) -> Self {
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

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Clock, ledger and ports. The ledger is opened: only while no daemon has it.
    pub fn env(&self) -> Env {
        let cluster = Failing::new(self.cluster.clone(), self.failures.clone());
        Env { cluster: Arc::new(cluster), ..surroundings::env(self.path()) }
    }

    /// The ledger, once nobody else has it.
    pub async fn ledger(&self) -> Ledger {
        let path = self.path().join("ledger.sqlite");
        until("the ledger is free", async || Ledger::open(&path).ok()).await
    }

    /// A made-up model that went live.
    pub async fn deployed(&self, number: i64) -> Made {
        deployed(&self.ledger().await, self.path(), Material::made_up(number)).await
    }

    /// A cycle of a made-up model, done up to and with the step `last`.
    pub async fn cycle_until(&self, number: i64, last: &str) -> Made {
        cycle_until(&self.ledger().await, self.path(), Material::made_up(number), last).await
    }

    /// A cycle of a made-up model that is waiting for approval.
    pub async fn waiting(&self, number: i64) -> Made {
        let made = self.cycle_until(number, "verify").await;
        self.ledger().await.set_cycle_state(made.cycle.id, CycleState::WaitingApproval).await.unwrap();
        made
    }

    /// Starts a daemon and has it continue what is unfinished.
    pub async fn resumed(&self) -> Daemon {
        let daemon = self.start().await;
        daemon.resume().await.unwrap();
        daemon
    }

    /// Starts a daemon, the first one or the next, and waits until its actors run.
    pub async fn start(&self) -> Daemon {
        drop(self.ledger().await);
        start(&self.settings, self.env()).await
    }
}

pub async fn start(settings: &Settings, env: Env) -> Daemon {
    let settings = Arc::new(settings.clone());
    let daemon = Daemon::with_env(settings, env, PathBuf::new(), Arc::new(Silent), |_| ()).unwrap();
    until("the actors run", || async {
        daemon.actors().iter().all(|actor| actor.state == ActorState::Running).then_some(())
    })
    .await;
    daemon
}

pub async fn command(daemon: &Daemon, command: CommandKind, why: &str) -> Result<CommandAnswered, StepFailure> {
    let asked = OperatorCommand { command, by: "alice".to_owned(), why: why.to_owned() };
    daemon.coordinator.ask(asked).await
}

pub async fn finished(daemon: &Daemon, cycle: CycleId) -> Cycle {
    until("the cycle is finished", || async {
        let found = daemon.env.ledger.cycle(cycle).await.unwrap().unwrap();
        (found.state == CycleState::Finished).then_some(found)
    })
    .await
}

/// Waits until a cycle has ended with this outcome.
pub async fn ended_with(daemon: &Daemon, cycle: CycleId, outcome: CycleOutcome) -> Cycle {
    let ended = finished(daemon, cycle).await;
    assert_eq!(ended.outcome, Some(outcome), "{}", ended.detail);
    ended
}

pub async fn step(ledger: &Ledger, cycle: CycleId, name: &str) -> Option<Step> {
    ledger.steps_of(cycle).await.unwrap().into_iter().find(|step| step.name == name)
}

pub async fn live(ledger: &Ledger) -> Option<ModelVersion> {
    ledger.model_by_alias(Alias::Live).await.unwrap().map(|model| model.version)
}

pub async fn state_of(ledger: &Ledger, deployment: DeploymentId) -> DeploymentState {
    ledger.deployment(deployment).await.unwrap().unwrap().state
}

pub async fn last_deed(ledger: &Ledger) -> AuditRecord {
    ledger.audit(Page { offset: 0, limit: 1 }).await.unwrap().remove(0)
}

/// Severity, title and body of every alert.
pub async fn alerts(ledger: &Ledger) -> Vec<(Severity, String, String)> {
    let alerts = ledger.alerts(Page { offset: 0, limit: 50 }).await.unwrap();
    alerts.into_iter().map(|told| (told.alert.severity, told.alert.title, told.alert.body)).collect()
}

pub async fn told(ledger: &Ledger, severity: Severity, title: &str) -> String {
    let all = alerts(ledger).await;
    let found = all.iter().find(|(of, other, _)| *of == severity && other.contains(title));
    found.unwrap_or_else(|| panic!("no {severity} alert `{title}` among {all:?}")).2.clone()
}

/// A cycle with its model, and the release that it makes.
pub struct Made {
    pub cycle: Cycle,
    pub release: Release,
}

/// What a model is made of.
pub struct Material {
    pub bundle: Digest,
    pub dataset: Digest,
    pub as_of: DateTime<Utc>,
}

impl Material {
    /// Nothing that could be loaded.
    pub fn made_up(number: i64) -> Self {
        Self {
            bundle: Digest::of(format!("bundle {number}").as_bytes()),
            dataset: Digest::of(format!("dataset {number}").as_bytes()),
            as_of: at(number * 100),
        }
    }
}

fn position(name: &str) -> u32 {
    STEPS.iter().find(|row| row.step.name == name).unwrap().step.position
}

/// Begins a cycle, and has everything done up to and with the step `last`.
pub async fn cycle_until(ledger: &Ledger, state: &Path, material: Material, last: &str) -> Made {
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
    insert_records(ledger, &cycle, &release, &dataset, position(last)).await;
    for (name, output) in outputs(&cycle, &release, &dataset) {
        if position(name) <= position(last) {
            ledger.step_started(cycle.id, position(name), name, at(5)).await.unwrap();
            ledger.step_done(cycle.id, position(name), output.into(), at(6), 1).await.unwrap();
        }
    }
    if last == "deploy" || last == "verify" {
        let previous = ledger.approved_deployment().await.unwrap().map(|before| before.id);
        let state = if last == "verify" { DeploymentState::Verified } else { DeploymentState::Applied };
        let record = records::deployment(release.clone(), state, at(6));
        ledger.insert_deployment(Deployment { cycle: Some(cycle.id), previous, ..record }).await.unwrap();
    }
    Made { cycle, release }
}

/// A model that went live.
pub async fn deployed(ledger: &Ledger, state: &Path, material: Material) -> Made {
    let made = cycle_until(ledger, state, material, "verify").await;
    ledger.promote(made.cycle.model, at(7)).await.unwrap();
    ledger.set_deployment_state(made.release.deployment, DeploymentState::Approved, at(7)).await.unwrap();
    ledger.finish_cycle(made.cycle.id, CycleOutcome::Deployed, "is live", at(8)).await.unwrap();
    made
}

/// The rows that the steps up to position `end` leave.
async fn insert_records(ledger: &Ledger, cycle: &Cycle, release: &Release, dataset: &Digest, end: u32) {
    let (from, until) = (at(0), at(86_400 * 7));
    ledger.insert_dataset(Dataset { from, until, ..records::dataset(cycle, dataset.clone(), at(1)) }).await.unwrap();
    if end >= position("register") {
        ledger.save_run(records::run(cycle, dataset, at(3))).await.unwrap();
        ledger.register_model(records::model(cycle, dataset, release.bundle.clone(), at(4))).await.unwrap();
    }
}

fn outputs(cycle: &Cycle, release: &Release, dataset: &Digest) -> Vec<(&'static str, Value)> {
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
    let image = PushedImage { reference: release.image.clone(), digest, ..records::image(cycle.model) };
    let deployed = ModelDeployed {
        deployment: release.deployment,
        model: cycle.model,
        replaced: None,
        service_url: String::new(),
    };
    let verified = DeploymentVerified { passed: true, reason: "all checks passed".to_owned(), requests: 400 };
    vec![
        ("ingest", json!(FlightsIngested::default())),
        ("dataset", json!(built)),
        ("train", json!(trained)),
        ("gate", json!(gate)),
        ("register", json!(registered)),
        ("package", json!(packaged)),
        ("push", json!(ImagePushed { image })),
        ("deploy", json!(deployed)),
        ("verify", json!(verified)),
    ]
}

/// Whether a step is as it is expected to be.
pub async fn assert_step(ledger: &Ledger, cycle: CycleId, name: &str, state: StepState) {
    let found = step(ledger, cycle, name).await;
    assert_eq!(found.as_ref().map(|step| step.state), Some(state), "{name}: {found:?}");
}
