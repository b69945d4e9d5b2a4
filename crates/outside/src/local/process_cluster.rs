//! The embedded cluster: replicas of `delayd-serve` as processes of this machine
//! that share one listening port (`SO_REUSEPORT`).
//!
//! Replicas outlive the daemon: they run in process groups of their own, write
//! their own logs, and are taken over by the next daemon, which finds them in the
//! state file. A rollout starts one more, waits until it is ready, drains an old
//! one, and so on; a release that does not become ready is undone as a whole.
//! It limits neither memory nor processor time, and knows one machine only.

mod launch;
mod rollout;
mod state;

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::future::join_all;
use serde::Deserialize;
use socket2::{Domain, Socket, Type};

use self::state::{ClusterState, Phase, ReplicaRecord};
use delayd_core::blocking;
use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::ports::{Cluster, Release, Replica, ReplicaState, RolloutProgress};

/// A replica that has not answered a probe by then counts as silent.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);

/// How the local cluster runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessClusterConfig {
    /// The `delayd-serve` executable.
    pub service_binary: PathBuf,
    /// The address clients connect to.
    pub listen: IpAddr,
    /// The port clients connect to; 0 chooses a free one, once, and keeps it.
    pub public_port: u16,
    /// Where the cluster remembers its replicas.
    pub state_dir: PathBuf,
    /// Where the replicas' logs go.
    pub log_dir: PathBuf,
    /// How long a replica may take to become ready when it is restarted or brought back.
    pub ready_deadline: Duration,
    /// How long a replica that was told to stop may keep accepting before it is killed.
    pub drain_timeout: Duration,
    /// How long a drained replica stays for its sketches to be fetched.
    pub linger: Duration,
    /// Delay before the second restart in a row; doubled for every further one.
    pub restart_backoff: Duration,
    /// The longest such delay.
    pub max_restart_backoff: Duration,
    /// A replica that lived this long starts afresh with the backoff.
    pub stable_after: Duration,
    /// A log is cut back above this size.
    pub max_log_bytes: u64,
    /// How many logs of replicas that are gone are kept.
    pub kept_logs: usize,
}

impl ProcessClusterConfig {
    /// The defaults, for an executable and a folder for state and logs.
    #[must_use]
    pub fn new(service_binary: &Path, state_dir: &Path) -> Self {
        Self {
            service_binary: service_binary.to_owned(),
            listen: Ipv4Addr::LOCALHOST.into(),
            public_port: 0,
            state_dir: state_dir.to_owned(),
            log_dir: state_dir.join("logs"),
            ready_deadline: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
            linger: Duration::from_secs(60),
            restart_backoff: Duration::from_secs(1),
            max_restart_backoff: Duration::from_secs(120),
            stable_after: Duration::from_secs(60),
            max_log_bytes: 16 << 20,
            kept_logs: 20,
        }
    }
}

/// Replicas as local processes behind one port.
#[derive(Debug)]
pub struct ProcessCluster {
    config: ProcessClusterConfig,
    port: u16,
    http: reqwest::Client,
    /// For the public port: a new connection for each request, so that the kernel chooses a replica for each.
    public_http: reqwest::Client,
    /// One rollout, reconciliation or tear-down at a time. Whoever holds it may change the state.
    rollout: tokio::sync::Mutex<()>,
    state: Mutex<ClusterState>,
    lives: Mutex<HashMap<String, Life>>,
    /// Keeps the port ours between replicas; it is bound and never listens.
    _reserved: Socket,
    /// Keeps a second daemon out.
    _lock: File,
}

/// What is known of a replica only while this daemon runs.
#[derive(Debug, Default)]
struct Life {
    /// Set for the replicas that this daemon started itself: they must be reaped.
    child: Option<tokio::process::Child>,
    ready_since: Option<Instant>,
    draining_since: Option<Instant>,
    failed_since: Option<Instant>,
    missed_probes: u32,
}

impl ProcessCluster {
    /// Opens the cluster: reads its state, reserves the port, and finds replicas
    /// that an earlier daemon started. Blocking, for a few milliseconds.
    ///
    /// # Errors
    /// When another daemon has it open, its state cannot be read or written, or
    /// the port belongs to another program.
    pub fn open(mut config: ProcessClusterConfig) -> Result<Self, PortError> {
        let opening = || format!("opening the local cluster in {}", config.state_dir.display());
        fs::create_dir_all(launch::port_files(&config.state_dir))
            .and_then(|()| fs::create_dir_all(&config.log_dir))
            .map_err(|error| PortError::io(opening(), error))?;
        let absolute = config.state_dir.canonicalize().map_err(|error| PortError::io(opening(), error))?;
        let lock = lock(&absolute).map_err(|message| PortError::new(ErrorKind::Conflict, opening(), message))?;
        let mut state = ClusterState::load(&absolute)?;
        let reserved =
            reserve_port(&config, &state).map_err(|(kind, message)| PortError::new(kind, opening(), message))?;
        let address = reserved.local_addr().map(|address| address.as_socket());
        state.public_port = match address {
            Ok(Some(address)) => address.port(),
            Ok(None) => config.public_port,
            Err(error) => return Err(PortError::io(opening(), error)),
        };
        let client = |idle_connections: usize| {
            delayd_core::http_client::client_builder()
                .no_proxy()
                .timeout(PROBE_DEADLINE)
                .pool_max_idle_per_host(idle_connections)
                .build()
                .map_err(|error| PortError::new(ErrorKind::Internal, opening(), delayd_core::error::chain(&error)))
        };
        let (http, public_http) = (client(usize::MAX)?, client(0)?);
        config.state_dir = absolute;
        launch::find_lost_processes(&config.state_dir, &mut state);
        state.save(&config.state_dir)?;
        Ok(Self {
            port: state.public_port,
            http,
            public_http,
            rollout: tokio::sync::Mutex::new(()),
            state: Mutex::new(state),
            lives: Mutex::default(),
            _reserved: reserved,
            _lock: lock,
            config,
        })
    }

    fn state(&self) -> ClusterState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn lives(&self) -> MutexGuard<'_, HashMap<String, Life>> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, on disk first. Only for whoever holds `rollout`.
    async fn change(&self, change: impl FnOnce(&mut ClusterState)) -> Result<(), PortError> {
        let before = self.state();
        let mut after = before.clone();
        change(&mut after);
        if after == before {
            return Ok(());
        }
        let (folder, written) = (self.config.state_dir.clone(), after.clone());
        blocking("writing the cluster's state", move || written.save(&folder)).await?;
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = after;
        Ok(())
    }

    async fn change_replica(&self, name: &str, change: impl FnOnce(&mut ReplicaRecord)) -> Result<(), PortError> {
        self.change(|state| {
            if let Some(record) = state.replicas.iter_mut().find(|record| record.name == name) {
                change(record);
            }
        })
        .await
    }

    /// The replicas that should be answering clients.
    fn serving<'a>(&self, records: &'a [ReplicaRecord]) -> Vec<&'a str> {
        let serving = records.iter().filter(|record| {
            // A replica of before a change of port is being replaced.
            record.phase == Phase::Serving && record.port == self.port && self.ended(record).is_none()
        });
        serving.map(|record| record.name.as_str()).collect()
    }

    /// Whether a serving replica is ready: it says so itself, and clients reach it.
    async fn probe_serving(&self, record: &ReplicaRecord, public: &PublicAnswers) -> Result<(), String> {
        self.probe(record.admin_url.as_deref().unwrap_or_default()).await?;
        if record.port == self.port { public.reach(&record.name) } else { Ok(()) }
    }

    /// How a replica looks from outside now; `None` for one that drained and left.
    async fn observe(&self, record: ReplicaRecord, public: &PublicAnswers) -> Option<Replica> {
        let gone = self.ended(&record);
        let (state, reason) = match (record.phase, gone) {
            (Phase::Draining, Some(_)) => return None,
            (Phase::Failed, _) => (ReplicaState::Failed, record.reason.clone()),
            (Phase::Serving, Some(ending)) => (ReplicaState::Failed, Some(ending.reason)),
            (Phase::Draining, None) => (ReplicaState::Draining, None),
            (Phase::Starting, _) => (ReplicaState::Starting, None),
            (Phase::Serving, None) => match self.probe_serving(&record, public).await {
                Ok(()) => (ReplicaState::Ready, None),
                Err(reason) => (ReplicaState::Failed, Some(reason)),
            },
        };
        Some(Replica {
            memory_bytes: record.process.as_ref().and_then(state::ProcessIdentity::memory_bytes),
            name: record.name,
            model: record.release.model,
            deployment: record.release.deployment,
            state,
            admin_url: record.admin_url.unwrap_or_default(),
            restarts: record.restarts,
            reason,
        })
    }
}

#[async_trait]
impl Cluster for ProcessCluster {
    async fn apply(
        &self,
        release: &Release,
        deadline: Duration,
        progress: &(dyn Fn(RolloutProgress) + Send + Sync),
    ) -> Result<(), PortError> {
        let _rollout = self.rollout.lock().await;
        self.apply_release(release, Instant::now() + deadline, progress).await
    }

    async fn current(&self) -> Result<Option<Release>, PortError> {
        Ok(self.state().release)
    }

    async fn replicas(&self) -> Result<Vec<Replica>, PortError> {
        let records = self.state().replicas;
        let public = self.ask_public_port(&self.serving(&records)).await;
        let observed = records.into_iter().map(|record| self.observe(record, &public));
        Ok(join_all(observed).await.into_iter().flatten().collect())
    }

    async fn reconcile(&self) -> Result<Vec<String>, PortError> {
        let _rollout = self.rollout.lock().await;
        self.rotate_logs().await?;
        self.restore_wanted_state().await?;
        // Nobody else can change processes that only we know of.
        Ok(Vec::new())
    }

    fn service_url(&self) -> String {
        self.public_url()
    }

    async fn tear_down(&self) -> Result<(), PortError> {
        let _rollout = self.rollout.lock().await;
        self.stop_everything().await
    }

    async fn probe(&self) -> Result<String, PortError> {
        Ok(format!("local processes in {}, port {}", self.config.state_dir.display(), self.port))
    }
}

/// Holds the cluster's folder for this process.
fn lock(state_dir: &Path) -> Result<File, String> {
    let path = state_dir.join(".lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(|error| format!("{}: {error}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(error) => Err(format!("another daemon runs this cluster, stop it first ({}: {error})", path.display())),
    }
}

/// Binds the configured port, or the one kept, or a free one.
fn reserve_port(config: &ProcessClusterConfig, state: &ClusterState) -> Result<Socket, (ErrorKind, String)> {
    let bind = |port: u16| -> std::io::Result<Socket> {
        let address = SocketAddr::new(config.listen, port);
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_port(true)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        Ok(socket)
    };
    let describe = |port: u16, error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            let message = format!("port {port} is in use by another program; stop it or configure another port");
            (ErrorKind::Conflict, message)
        }
        _ => (ErrorKind::of_io(&error), format!("port {port} cannot be bound: {error}")),
    };
    if config.public_port != 0 {
        return bind(config.public_port).map_err(|error| describe(config.public_port, error));
    }
    // The port kept may have gone to somebody else while nothing of ours was running.
    bind(state.public_port).or_else(|_| bind(0)).map_err(|error| describe(0, error))
}

/// Requests in one round, for each replica that listens.
const REQUESTS_PER_REPLICA: usize = 4;
/// Rounds at most. With [`REQUESTS_PER_REPLICA`] a replica that is fine misses all of them
/// once in ten million times: (1 - 1/n)^(16 n) is about e^-16.
const ROUNDS: usize = 4;

/// The part of `/health/ready`'s answer that is read.
#[derive(Deserialize)]
struct Answer {
    replica: Option<String>,
}

/// What came of asking the public port.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PublicAnswers {
    named: BTreeSet<String>,
    /// Answers that name no replica, as those of services before 0.1.0's `replica`.
    unnamed: usize,
    asked: usize,
    failure: Option<String>,
}

impl PublicAnswers {
    /// Whether clients reach a replica.
    pub(super) fn reach(&self, name: &str) -> Result<(), String> {
        // An answer without a name may be anybody's.
        if self.named.contains(name) || self.unnamed > 0 || self.asked == 0 {
            return Ok(());
        }
        let Self { asked, .. } = self;
        Err(match &self.failure {
            Some(failure) => {
                format!("it answered none of {asked} requests to the public port, of which some failed: {failure}")
            }
            None => format!("it answered none of {asked} requests to the public port; others answered all of them"),
        })
    }

    fn note(&mut self, answer: Result<Option<String>, String>) {
        self.asked += 1;
        match answer {
            Ok(Some(name)) => {
                self.named.insert(name);
            }
            Ok(None) => self.unnamed += 1,
            Err(failure) => self.failure = Some(failure),
        }
    }

    fn settles(&self, names: &[&str]) -> bool {
        names.iter().all(|name| self.named.contains(*name)) || self.unnamed > 0
    }
}

impl ProcessCluster {
    /// Asks the public port until each of these replicas has answered, or often enough.
    pub(super) async fn ask_public_port(&self, names: &[&str]) -> PublicAnswers {
        let mut answers = PublicAnswers::default();
        if names.is_empty() {
            return answers;
        }
        // All that may still listen share the connections, also those that are not asked about.
        let requests = REQUESTS_PER_REPLICA * self.state().replicas.len().max(names.len());
        for _ in 0..ROUNDS {
            let round = join_all((0..requests).map(|_| self.ask_once())).await;
            round.into_iter().for_each(|answer| answers.note(answer));
            if answers.settles(names) {
                break;
            }
        }
        answers
    }

    /// The name of the replica that answered.
    async fn ask_once(&self) -> Result<Option<String>, String> {
        let answer = self.public_http.get(format!("{}/health/ready", self.public_url())).send().await;
        let body = match answer {
            Ok(answer) => answer.bytes().await,
            Err(error) => Err(error),
        };
        let body = body.map_err(|error| chain(&error))?;
        Ok(serde_json::from_slice::<Answer>(&body).ok().and_then(|answer| answer.replica))
    }

    /// Where clients of this machine find the service.
    pub(super) fn public_url(&self) -> String {
        let host = if self.config.listen.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { self.config.listen };
        format!("http://{}", SocketAddr::new(host, self.port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_answers_no_client_is_not_reached() {
        let (mine, other) = (Ok(Some("mine".to_owned())), Ok(Some("other".to_owned())));
        let (unnamed, silence) = (Ok(None), Err("timed out".to_owned()));
        let cases = [
            (vec![], true, "nobody asked"),
            (vec![&mine, &silence], true, "it answered, whatever else happened"),
            (vec![&other, &silence], false, "silence, and another answered"),
            (vec![&silence, &silence], false, "silence"),
            (vec![&other, &other], false, "another answered everything"),
            (vec![&unnamed, &silence], true, "an older service says no name"),
        ];
        for (given, reached, why) in cases {
            let mut answers = PublicAnswers::default();
            given.into_iter().for_each(|answer| answers.note(answer.clone()));
            assert_eq!(answers.reach("mine").is_ok(), reached, "{why}: {answers:?}");
        }
    }
}
