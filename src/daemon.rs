//! The composition root: opens the ledger, makes the adapters, starts the actors,
//! and ties them together. `delayd run` and the replay start the same daemon; the
//! replay only brings another clock.

mod timers;

pub use timers::TimerDeadlines;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use crate::config::{ClusterKind, ConfigError, Settings};
use crate::cycle::coordinator::{Consider, Considered, CoordinatorStage, ResumeUnfinished};
use crate::cycle::saga::StepObserver;
use crate::cycle::steps::CycleContext;
use crate::env::Env;
use crate::notify::{DeliverAlerts, NotifierStage};
use crate::open;
use crate::stages::Stages;
use crate::stages::deploy::{DeploymentStage, Rollouts};
use crate::stages::ingest::DataStage;
use crate::stages::ingest::{FlightsIngested, IngestFlights};
use crate::stages::package::PackagingStage;
use crate::stages::reconcile::ReconcileReplicas;
use crate::stages::register::RegistryStage;
use crate::stages::retain::{Removed, Retention};
use crate::stages::train::{RunningRuns, TrainingStage};
use crate::stages::verify::VerificationStage;
use crate::stages::watch::{MonitorStage, Observe, Observed};
use crate::supervision::{ActorStatus, GivenUp, StageActor, StageRef, SupervisedActor, Supervision, SupervisionPolicy};
use delayd_core::clock::Clock;
use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::failure::StepFailure;
use delayd_core::own_folder;
use delayd_data::ObjectReader;
use delayd_ledger::Ledger;
use delayd_outside::bundles::BundleStore;
use delayd_outside::packaging::{Builds, SourceKind};
use delayd_outside::service::Scraper;

/// Why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {cause}")]
pub struct StartError {
    /// What was being started.
    pub what: String,
    /// Why it failed, with all causes.
    pub cause: String,
}

impl StartError {
    fn of(what: &str) -> impl Fn(&(dyn std::error::Error + 'static)) -> Self + '_ {
        move |error| Self { what: what.to_owned(), cause: chain(error) }
    }
}

/// How long a daemon that stops waits for a build's processes to end.
const BUILD_END_LIMIT: Duration = Duration::from_secs(15);

/// The running daemon: as long as it lives, its actors do.
pub struct Daemon {
    /// Clock, ledger and ports.
    pub env: Env,
    /// Configuration.
    pub settings: Arc<Settings>,
    /// Bundles on this machine.
    pub bundles: BundleStore,
    /// The data stage, for those who need datasets.
    pub data: DataStage,
    /// The coordinator.
    pub coordinator: StageRef<CoordinatorStage>,
    /// The monitor.
    pub monitor: StageRef<MonitorStage>,
    /// The notifier.
    pub notifier: StageRef<NotifierStage>,
    /// The other stages.
    pub stages: Stages,
    supervision: Supervision,
    observer: Arc<dyn StepObserver>,
    timer_deadlines: TimerDeadlines,
    rollouts: Rollouts,
    /// Before the actors: a build's processes must be gone when the daemon is.
    _builds: EndBuilds,
    _actors: Actors,
}

/// Ends the builds under way when the daemon is dropped.
struct EndBuilds(Builds);

impl Drop for EndBuilds {
    fn drop(&mut self) {
        self.0.stop(BUILD_END_LIMIT);
    }
}

/// The actors' threads, stopped in this order. The coordinator goes first: to it a stage that is gone is a step that
/// failed, and a cycle that was only interrupted must not be undone.
type Actors = (
    SupervisedActor<StageActor<CoordinatorStage>>,
    (
        SupervisedActor<StageActor<DataStage>>,
        SupervisedActor<StageActor<TrainingStage>>,
        SupervisedActor<StageActor<RegistryStage>>,
        SupervisedActor<StageActor<PackagingStage>>,
        SupervisedActor<StageActor<DeploymentStage>>,
        SupervisedActor<StageActor<VerificationStage>>,
        SupervisedActor<StageActor<MonitorStage>>,
        SupervisedActor<StageActor<NotifierStage>>,
    ),
);

impl Daemon {
    /// Starts everything. `give_up` is called when an actor keeps dying: the
    /// process should end then, for systemd or the kubelet to start it again.
    pub fn start(
        settings: Settings,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn StepObserver>,
        give_up: impl Fn(GivenUp) + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        let settings = Arc::new(settings);
        let state_dir = &settings.daemon.state_dir;
        own_folder::create(state_dir)
            .map_err(|error| StartError::of(&format!("state directory {}", state_dir.display()))(&error))?;
        let ledger = Ledger::open(&ledger_path(state_dir)).map_err(|error| StartError::of("ledger")(&error))?;
        let service_binary = if needs_service_binary(&settings) {
            service_binary(&settings.packaging.service_binary)?
        } else {
            PathBuf::new()
        };
        let env = env(&settings, clock, ledger, &service_binary)?;
        Self::with_env(settings, env, service_binary, observer, give_up)
    }

    /// Starts everything around a clock, a ledger and ports that are there already: for those who bring their own.
    /// `service_binary` is what images are made of.
    pub fn with_env(
        settings: Arc<Settings>,
        env: Env,
        service_binary: PathBuf,
        observer: Arc<dyn StepObserver>,
        give_up: impl Fn(GivenUp) + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        let bundles = BundleStore::new(settings.daemon.state_dir.join("bundles"));
        let documents = open::reference_documents(&settings)
            .map_err(|error| StartError::of("airports and holidays by URL")(&error))?;
        let data = DataStage::new(env.clone(), settings.clone())
            .map_err(|error| StartError::of("data contract")(&error))?
            .with_documents(documents);
        let scraper =
            Scraper::new(settings.monitoring.scrape.clone()).map_err(|error| StartError::of("HTTP client")(&error))?;
        let (scraper, builds, rollouts) = (Arc::new(scraper), Builds::default(), Rollouts::default());
        let hang_limit = Duration::from_secs(settings.daemon.hang_limit_secs);
        let supervision = Supervision::new(SupervisionPolicy { hang_limit, ..SupervisionPolicy::default() }, give_up);
        let data_actor = spawn(&supervision, "data", data.clone())?;
        let training = spawn(
            &supervision,
            "training",
            TrainingStage {
                env: env.clone(),
                settings: settings.clone(),
                bundles: bundles.clone(),
                data: data.clone(),
                running: RunningRuns::default(),
            },
        )?;
        let registry = spawn(&supervision, "registry", RegistryStage { env: env.clone(), bundles: bundles.clone() })?;
        let packaging = spawn(
            &supervision,
            "packaging",
            PackagingStage {
                env: env.clone(),
                settings: settings.clone(),
                bundles: bundles.clone(),
                service_binary,
                image_builder: open::image_builder(&settings),
                builds: builds.clone(),
            },
        )?;
        let deployment = spawn(
            &supervision,
            "deployment",
            DeploymentStage {
                env: env.clone(),
                settings: settings.clone(),
                bundles: bundles.clone(),
                rollouts: rollouts.clone(),
                restarts: Arc::default(),
            },
        )?;
        let verification = spawn(
            &supervision,
            "verification",
            VerificationStage {
                env: env.clone(),
                settings: settings.clone(),
                bundles: bundles.clone(),
                data: data.clone(),
                scraper: scraper.clone(),
            },
        )?;
        let monitor = spawn(
            &supervision,
            "monitor",
            MonitorStage {
                env: env.clone(),
                settings: settings.clone(),
                bundles: bundles.clone(),
                scraper,
                checking: Arc::default(),
            },
        )?;
        let notifier_stage = NotifierStage::new(env.clone(), &settings.notification)
            .map_err(|faults| StartError::of("notification")(&ConfigError::Faults(faults)))?;
        let notifier = spawn(&supervision, "notifier", notifier_stage)?;
        let stages = Stages {
            data: data_actor.actor_ref(),
            training: training.actor_ref(),
            registry: registry.actor_ref(),
            packaging: packaging.actor_ref(),
            deployment: deployment.actor_ref(),
            verification: verification.actor_ref(),
        };
        let context = CycleContext {
            env: env.clone(),
            settings: settings.clone(),
            stages: stages.clone(),
            observer: observer.clone(),
        };
        let (examples, driving) = (data.clone(), Arc::new(Mutex::new(())));
        let coordinator = supervision
            .spawn("coordinator", move |heartbeat, me| {
                let (context, data, driving) = (context.clone(), examples.clone(), driving.clone());
                StageActor::new(CoordinatorStage { me, context, data, driving }, heartbeat)
            })
            .map_err(|error| StartError::of("actor `coordinator`")(&error))?;
        Ok(Self {
            env,
            settings,
            bundles,
            data,
            coordinator: coordinator.actor_ref(),
            monitor: monitor.actor_ref(),
            notifier: notifier.actor_ref(),
            stages,
            supervision,
            observer,
            timer_deadlines: TimerDeadlines::default(),
            rollouts,
            _builds: EndBuilds(builds),
            _actors: (
                coordinator,
                (data_actor, training, registry, packaging, deployment, verification, monitor, notifier),
            ),
        })
    }

    /// What supervision says of every actor.
    pub fn actors(&self) -> Vec<ActorStatus> {
        self.supervision.statuses()
    }

    /// The supervision, for the status endpoint.
    pub fn supervision(&self) -> &Supervision {
        &self.supervision
    }

    pub fn timer_deadlines(&self) -> &TimerDeadlines {
        &self.timer_deadlines
    }

    /// Ingests what is new.
    pub async fn ingest(&self) -> Result<FlightsIngested, StepFailure> {
        self.stages.data.ask(IngestFlights { at: self.env.now() }).await
    }

    /// Checks the live model once, and lets the coordinator weigh the findings.
    pub async fn observe(&self) -> Result<(Observed, Considered), StepFailure> {
        let seen: Observed = self.monitor.ask(Observe).await?;
        let consider = Consider { drift: seen.drift.clone(), performance: seen.performance.clone(), requested: None };
        let considered = self.coordinator.ask(consider).await?;
        Ok((seen, considered))
    }

    /// Removes what is no longer needed.
    pub async fn retain(&self) -> Result<Removed, StepFailure> {
        Retention { env: self.env.clone(), settings: self.settings.clone() }.run().await
    }

    /// Delivers what is waiting in the outbox.
    pub async fn deliver_alerts(&self) -> Result<(), StepFailure> {
        self.notifier.ask(DeliverAlerts).await
    }

    /// Takes over what an earlier process left: replicas, and a cycle under way.
    pub async fn resume(&self) -> Result<(), StepFailure> {
        self.stages.deployment.ask(ReconcileReplicas).await?;
        self.coordinator.ask(ResumeUnfinished).await?;
        Ok(())
    }
}

fn spawn<S: Clone + Send + Sync + Unpin + 'static>(
    supervision: &Supervision,
    name: &str,
    stage: S,
) -> Result<SupervisedActor<StageActor<S>>, StartError> {
    supervision
        .spawn(name, move |heartbeat, _| StageActor::new(stage.clone(), heartbeat))
        .map_err(|error| StartError::of(&format!("actor `{name}`"))(&error))
}

/// Where the ledger lies in a state directory.
pub fn ledger_path(state_dir: &Path) -> PathBuf {
    state_dir.join("ledger.sqlite")
}

fn env(settings: &Settings, clock: Arc<dyn Clock>, ledger: Ledger, service_binary: &Path) -> Result<Env, StartError> {
    let failed = |what: &str, error: PortError| StartError { what: what.to_owned(), cause: chain(&error) };
    let object_store = open::object_store(settings).map_err(|error| failed("object store", error))?;
    let reader = ObjectReader::new(settings.ingestion.limits, ledger.path().and_then(Path::parent));
    let weather = open::weather(settings, object_store.clone(), clock.clone(), reader)
        .map_err(|error| failed("weather", error))?;
    Ok(Env {
        clock,
        ledger,
        weather,
        trainer: open::trainer(settings, object_store.clone()).map_err(|error| failed("trainer", error))?,
        image_registry: open::image_registry(settings).map_err(|error| failed("image registry", error))?,
        cluster: open::cluster(settings, service_binary).map_err(|error| failed("cluster", error))?,
        notifier: open::notifier(settings).map_err(|error| failed("notification", error))?,
        object_store,
    })
}

/// Whether a local service binary is needed: packaged as it is, or run by local processes.
pub fn needs_service_binary(settings: &Settings) -> bool {
    settings.packaging.source.kind == SourceKind::BuiltIn || settings.cluster.kind == ClusterKind::Processes
}

/// The static service binary: as configured, by `DELAYD_SERVE_BIN`, or beside
/// this executable.
pub fn service_binary(configured: &Path) -> Result<PathBuf, StartError> {
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned)).unwrap_or_default();
    let candidates = [
        configured.to_owned(),
        std::env::var_os("DELAYD_SERVE_BIN").map(PathBuf::from).unwrap_or_default(),
        beside.join("delayd-serve"),
    ];
    let wanted: Vec<&PathBuf> = candidates.iter().filter(|path| !path.as_os_str().is_empty()).collect();
    if let Some(found) = wanted.iter().find(|path| path.is_file()) {
        return found.canonicalize().map_err(|error| StartError::of("inference service binary")(&error));
    }
    let places: Vec<String> = wanted.iter().map(|path| path.display().to_string()).collect();
    Err(StartError {
        what: "inference service binary".to_owned(),
        cause: format!(
            "`delayd-serve` is not at {}; `make build` builds it, packaging.service_binary names it",
            places.join(" or ")
        ),
    })
}

impl From<StartError> for StepFailure {
    fn from(error: StartError) -> Self {
        Self::of(ErrorKind::Internal, &error)
    }
}
