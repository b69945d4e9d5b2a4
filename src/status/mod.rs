//! What an administrator sees first: what is live and what serves, what needs attention, and which commands can be
//! given now. Judged here once; page, command line and metrics only show it.
//!
//! | file | |
//! | --- | --- |
//! | `attention` | what needs somebody's attention |
//! | `checks` | the verdict of each of the monitor's checks |
//! | `standing` | where a model or a release stands now |

mod attention;
mod checks;
mod standing;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::config::{IngestionSettings, Settings};
use crate::cycle::allowed::LoopState;
use crate::cycle::commands::CommandKind;
use crate::env::Env;
use crate::replay::ReplaySpan;
use crate::stages::live_service::{LiveService, live_service, served_instead_of};
use crate::supervision::ActorStatus;
use attention::Watched;
use delayd_core::clock::{Clock, SystemClock};
use delayd_core::failure::StepFailure;
use delayd_core::ids::{DeploymentId, ModelVersion};
use delayd_core::ports::{Cluster, PortError, ReferenceKind, Replica};
use delayd_judge::decide::OperatorWord;
use delayd_judge::governor::Standing as Governor;
use delayd_ledger::{Alias, AliasRecord, Cycle, Ledger, LedgerError, ObjectStatus, Page, Snapshot};

pub use attention::Finding;
pub use checks::{Verdict, verdicts};
pub use standing::{DeploymentDocument, ListedDeployment, ListedModel};

/// `GET /api/v1/status`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StatusDocument {
    /// Whether a daemon runs. `delayd status` tells the same from the ledger where none does.
    #[serde(default = "yes")]
    pub running: bool,
    /// Version of the daemon.
    pub version: String,
    /// The daemon's clock.
    pub now: DateTime<Utc>,
    /// Where the inference service is reached; null where no daemon runs.
    pub service_url: Option<String>,
    /// What needs attention, most urgent first; empty where nothing does.
    #[serde(default)]
    pub attention: Vec<Finding>,
    /// Every command: null where it can be given now, else why it cannot.
    #[serde(default)]
    pub commands: BTreeMap<CommandKind, Option<String>>,
    /// `live`, `previous` and `candidate`.
    pub aliases: Vec<AliasRecord>,
    /// What has to be there before a first model can be trained, in words; empty where nothing is missing.
    #[serde(default)]
    pub waits_for: Vec<String>,
    /// The cycle under way or the last one.
    pub cycle: Option<Cycle>,
    /// Who paused automatic cycles, and why; null while they are not paused.
    pub paused: Option<OperatorWord>,
    /// What holds the next automatic cycle back.
    #[serde(default)]
    pub governor: Option<Governor>,
    /// The time that is replayed; null for a daemon that lives in the present.
    #[serde(default)]
    pub replay: Option<ReplaySpan>,
    /// What the cluster serves now; null where it serves nothing, or cannot be asked.
    #[serde(default)]
    pub serving: Option<Serving>,
    /// Whether the live model is being served; null where that cannot be said: without a live model, while a cycle is
    /// open (its release serves before its model is live), while a rollback is under way, or while the cluster cannot
    /// be asked.
    #[serde(default)]
    pub live_service: Option<LiveService>,
    /// The copies of the service; empty where the cluster cannot be asked.
    pub replicas: Vec<Replica>,
    /// Why the cluster cannot be asked; null where it can.
    pub replicas_unknown: Option<String>,
    /// The daemon's actors.
    pub actors: Vec<ActorStatus>,
}

fn yes() -> bool {
    true
}

/// The release that clients are answered by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Serving {
    /// The deployment.
    pub deployment: DeploymentId,
    /// Its model.
    pub model: ModelVersion,
}

impl Serving {
    /// What the cluster serves now.
    pub async fn now(cluster: &dyn Cluster) -> Result<Option<Self>, PortError> {
        let current = cluster.current().await?;
        Ok(current.map(|current| Self { deployment: current.deployment, model: current.model }))
    }
}

/// What the ledger tells, at one moment.
struct FromLedger {
    state: LoopState,
    aliases: Vec<AliasRecord>,
    cycle: Option<Cycle>,
    waits_for: Vec<String>,
    watched: Watched,
}

impl FromLedger {
    async fn read(ledger: &Ledger, settings: &IngestionSettings, now: DateTime<Utc>) -> Result<Self, LedgerError> {
        let settings = settings.clone();
        let read = move |ledger: &Snapshot<'_>| {
            Ok(Self {
                state: LoopState::read(ledger, now)?,
                aliases: ledger.aliases()?,
                cycle: ledger.cycles(Page::newest(1))?.into_iter().next(),
                waits_for: waits_for(ledger, &settings)?,
                watched: Watched::read(ledger)?,
            })
        };
        ledger.read("reading the status", read).await
    }
}

/// What the cluster tells.
#[derive(Default)]
struct FromCluster {
    replicas: Vec<Replica>,
    serving: Option<Serving>,
    live_service: Option<LiveService>,
    /// What serves in place of the release that is waiting for approval.
    served_instead: Option<String>,
    unknown: Option<String>,
}

impl FromCluster {
    /// A cluster that cannot be asked is what an administrator has to see, not a reason to see nothing.
    async fn ask(env: &Env, waiting: Option<DeploymentId>) -> Self {
        let asked = async {
            let replicas = env.cluster.replicas().await?;
            let serving = Serving::now(env.cluster.as_ref()).await?;
            let live_service = live_service(env).await?;
            let served_instead = match waiting {
                Some(deployment) => served_instead_of(env, deployment).await?,
                None => None,
            };
            Ok::<_, StepFailure>(Self { replicas, serving, live_service, served_instead, unknown: None })
        };
        asked.await.unwrap_or_else(|failure| Self { unknown: Some(failure.to_string()), ..Self::default() })
    }
}

impl StatusDocument {
    /// The status of the running daemon.
    pub async fn of_daemon(env: &Env, settings: &Settings, actors: Vec<ActorStatus>) -> Result<Self, StepFailure> {
        let now = env.now();
        let mut ledger = FromLedger::read(&env.ledger, &settings.ingestion, now).await?;
        let cluster = FromCluster::ask(env, ledger.state.waiting().map(|cycle| cycle.deployment)).await;
        ledger.state.served_instead = cluster.served_instead.clone();
        let commands = ledger.state.commands(&settings.retrain, now);
        let replay = ReplaySpan::of(&env.ledger).await?;
        let status = Self::unjudged(&ledger, cluster, settings, replay, now);
        let status = Self { service_url: Some(env.cluster.service_url()), commands, actors, ..status };
        Ok(status.judged(&ledger.watched))
    }

    /// The same from the ledger of a daemon that does not run.
    pub async fn of_ledger(ledger: &Ledger, settings: &Settings) -> Result<Self, LedgerError> {
        let now = SystemClock.now();
        let found = FromLedger::read(ledger, &settings.ingestion, now).await?;
        let missing = "no daemon is running; `delayd run` starts one";
        let cluster = FromCluster { unknown: Some(missing.to_owned()), ..FromCluster::default() };
        let commands = CommandKind::ALL.map(|kind| (kind, Some(missing.to_owned()))).into();
        let replay = ReplaySpan::of(ledger).await?;
        let status = Self::unjudged(&found, cluster, settings, replay, now);
        Ok(Self { running: false, commands, ..status }.judged(&found.watched))
    }

    fn unjudged(
        ledger: &FromLedger,
        cluster: FromCluster,
        settings: &Settings,
        replay: Option<ReplaySpan>,
        now: DateTime<Utc>,
    ) -> Self {
        Self {
            running: true,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            now,
            service_url: None,
            attention: Vec::new(),
            commands: BTreeMap::new(),
            aliases: ledger.aliases.clone(),
            waits_for: ledger.waits_for.clone(),
            cycle: ledger.cycle.clone(),
            paused: ledger.state.seen.paused.clone(),
            governor: Some(ledger.state.governor(&settings.retrain, now)),
            replay,
            serving: cluster.serving,
            live_service: cluster.live_service,
            replicas: cluster.replicas,
            replicas_unknown: cluster.unknown,
            actors: Vec::new(),
        }
    }

    fn judged(self, watched: &Watched) -> Self {
        Self { attention: attention::findings(&self, watched), ..self }
    }

    /// The model that an alias points at.
    pub fn aliased(&self, name: Alias) -> Option<ModelVersion> {
        self.aliases.iter().find(|alias| alias.alias == name).map(|alias| alias.model)
    }
}

/// What has to be there before a first model can be trained; nothing where a model is live.
fn waits_for(ledger: &Snapshot<'_>, ingestion: &IngestionSettings) -> rusqlite::Result<Vec<String>> {
    if ledger.alias(Alias::Live)?.is_some() {
        return Ok(Vec::new());
    }
    let mut missing = Vec::new();
    if ledger.newest_reference(ReferenceKind::Airports)?.is_none() {
        let key = &ingestion.airports_key;
        missing.push(if ingestion.airports_url.is_set() {
            format!("no airports yet: {key} could not be fetched by ingestion.airports_url so far")
        } else {
            format!("no airports yet: {key} is not in the object store, or cannot be read")
        });
    }
    if ledger.objects(Some(ObjectStatus::Ingested), Page::newest(1))?.is_empty() {
        let prefix = &ingestion.flights_prefix;
        missing.push(if ledger.objects(None, Page::newest(1))?.is_empty() {
            format!("no flights yet: nothing was taken in from {prefix} in the object store")
        } else {
            format!("no flights yet: every log under {prefix} was refused so far; `delayd objects` says why")
        });
    }
    Ok(missing)
}
