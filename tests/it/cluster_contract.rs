//! Every cluster, against the contract of its port, and what is particular to
//! the local one. Most run with a scripted replica that misbehaves on demand;
//! those that need the real `delayd-serve` take it from `DELAYD_SERVE_BIN` or from
//! beside the test executables.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use delayd_core::error::ErrorKind;
use delayd_core::ids::{DeploymentId, Digest, ModelVersion};
use delayd_core::ports::{Cluster, Release, Replica, ReplicaState};
use delayd_outside::local::{ProcessCluster, ProcessClusterConfig};
use delayd_testkit::contracts::cluster::{
    Behaviour, run_if_started_as_replica, silence, write_bundle, write_executable,
};
use delayd_testkit::contracts::cluster::{
    LoadRequest, Releases, apply, keeps_the_whole_contract, ready, rolls_without_losing_a_request,
};
use delayd_testkit::tools::{assert_error, until_true};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Not a test: the process that stands in for `delayd-serve`.
#[test]
#[ignore = "started by other tests as a replica"]
fn scripted_replica_process() {
    run_if_started_as_replica();
}

fn release(number: u64, bundle_dir: &Path) -> Release {
    Release {
        deployment: DeploymentId(number),
        model: ModelVersion(number),
        bundle: Digest::of(&number.to_le_bytes()),
        image: format!("delay-ml:model_v{number}"),
        bundle_dir: bundle_dir.to_owned(),
        replicas: 2,
    }
}

/// A folder for everything, and a cluster of scripted replicas in it.
struct Playground {
    folder: tempfile::TempDir,
    config: ProcessClusterConfig,
}

impl Playground {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let binary = write_executable(folder.path(), "cluster_contract::scripted_replica_process");
        let config = ProcessClusterConfig {
            linger: Duration::ZERO,
            drain_timeout: Duration::from_secs(3),
            restart_backoff: Duration::from_secs(60),
            ..ProcessClusterConfig::new(&binary, &folder.path().join("state"))
        };
        Self { folder, config }
    }

    fn opened() -> (Self, ProcessCluster) {
        let playground = Self::new();
        let cluster = playground.open();
        (playground, cluster)
    }

    fn open(&self) -> ProcessCluster {
        ProcessCluster::open(self.config.clone()).unwrap()
    }

    fn release(&self, number: u64, behaviour: Behaviour) -> Release {
        let bundle = self.folder.path().join(format!("bundle_{number}"));
        write_bundle(&bundle, behaviour);
        release(number, &bundle)
    }

    fn releases(&self, broken: Behaviour) -> Releases {
        Releases {
            good: [self.release(1, Behaviour::Good), self.release(2, Behaviour::Good)],
            broken: self.release(3, broken),
            broken_deadline: Duration::from_secs(3),
        }
    }

    /// The process id of a replica, as the state file has it.
    fn pid_of(&self, replica: &Replica) -> Pid {
        let state = std::fs::read(self.folder.path().join("state/cluster.json")).unwrap();
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
        let records = state["replicas"].as_array().unwrap();
        let record = records.iter().find(|record| record["name"] == replica.name.as_str()).unwrap();
        Pid::from_raw(i32::try_from(record["process"]["pid"].as_i64().unwrap()).unwrap())
    }
}

impl Drop for Playground {
    /// A failed test must not leave its replicas behind.
    fn drop(&mut self) {
        let Ok(state) = std::fs::read(self.folder.path().join("state/cluster.json")) else { return };
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
        for record in state["replicas"].as_array().unwrap() {
            if let Some(pid) = record["process"]["pid"].as_i64() {
                let _ = kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL);
            }
        }
    }
}

#[tokio::test]
async fn the_local_cluster_keeps_the_contract_when_a_release_crashes() {
    let playground = Playground::new();
    keeps_the_whole_contract(&playground.open(), &playground.releases(Behaviour::CrashAtStart)).await;
}

#[tokio::test]
async fn the_local_cluster_keeps_the_contract_when_a_release_never_becomes_ready() {
    let playground = Playground::new();
    keeps_the_whole_contract(&playground.open(), &playground.releases(Behaviour::NeverReady)).await;
}

#[tokio::test]
async fn the_error_says_how_a_replica_ended_and_what_it_said_last() {
    let (playground, cluster) = Playground::opened();
    let crash = playground.release(1, Behaviour::CrashAtStart);
    let error = apply(&cluster, &crash).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    for part in ["model_v1", "delayd-serve-1 exited with code 3", "golden row 3 scored 0.4, expected 0.2"] {
        assert!(error.to_string().contains(part), "{part} is missing in: {error}");
    }
    let never = playground.release(2, Behaviour::NeverReady);
    let error = cluster.apply(&never, Duration::from_millis(600), &|_| ()).await.unwrap_err();
    assert_error(&error, ErrorKind::Timeout, &["has not opened its administrative port"]);
}

#[tokio::test]
async fn a_replica_that_answers_no_client_is_not_called_ready_and_is_left_alive() {
    let (playground, cluster) = Playground::opened();
    let release = playground.release(1, Behaviour::Good);
    apply(&cluster, &release).await.unwrap();
    let names: Vec<String> = ready(&cluster).await.into_iter().map(|replica| replica.name).collect();
    assert_eq!(names.len(), 2);

    silence(&release.bundle_dir, &names[0]);
    for _ in 0..4 {
        let all = cluster.replicas().await.unwrap();
        let of = |name: &str| all.iter().find(|replica| replica.name == name).unwrap();
        let (silent, other) = (of(&names[0]), of(&names[1]));
        assert_eq!((silent.state, other.state), (ReplicaState::Failed, ReplicaState::Ready), "{all:?}");
        let reason = silent.reason.as_deref().unwrap();
        assert!(reason.contains("answered none of") && reason.contains("public port"), "{reason}");
        // Whoever holds its connections must not be able to have it killed.
        cluster.reconcile().await.unwrap();
    }
    cluster.tear_down().await.unwrap();
}

#[tokio::test]
async fn a_release_that_answers_no_client_does_not_become_ready() {
    let (playground, cluster) = Playground::opened();
    let release = playground.release(1, Behaviour::Good);
    silence(&release.bundle_dir, "delayd-serve-1");
    let error = cluster.apply(&release, Duration::from_secs(1), &|_| ()).await.unwrap_err();
    assert_error(&error, ErrorKind::Timeout, &["public port"]);
}

#[tokio::test]
async fn a_missing_executable_is_named() {
    let playground = Playground::new();
    let config = ProcessClusterConfig { service_binary: "/nowhere/delayd-serve".into(), ..playground.config.clone() };
    let cluster = ProcessCluster::open(config).unwrap();
    let error = apply(&cluster, &playground.release(1, Behaviour::Good)).await.unwrap_err();
    assert_error(&error, ErrorKind::NotFound, &["/nowhere/delayd-serve"]);
}

#[tokio::test]
async fn a_release_without_replicas_is_refused() {
    let playground = Playground::new();
    let none = Release { replicas: 0, ..playground.release(1, Behaviour::Good) };
    assert_eq!(apply(&playground.open(), &none).await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_killed_replica_is_restarted_at_once_and_when_it_dies_again_after_a_pause() {
    let (playground, cluster) = Playground::opened();
    apply(&cluster, &playground.release(1, Behaviour::Good)).await.unwrap();
    let victim = ready(&cluster).await.remove(0);
    kill(playground.pid_of(&victim), Signal::SIGKILL).unwrap();
    until_true("the death is told", async || {
        let replicas = cluster.replicas().await.unwrap();
        let dead = replicas.into_iter().find(|replica| replica.name == victim.name).unwrap();
        dead.state == ReplicaState::Failed && dead.reason.unwrap().contains("was killed by SIGKILL")
    })
    .await;

    cluster.reconcile().await.unwrap();
    let all = cluster.replicas().await.unwrap();
    let replacement = all.iter().find(|replica| replica.restarts == 1).unwrap();
    assert_eq!((all.len(), replacement.state), (2, ReplicaState::Ready));
    assert_ne!(replacement.name, victim.name);

    kill(playground.pid_of(replacement), Signal::SIGKILL).unwrap();
    until_true("the second death is seen", async || ready(&cluster).await.len() == 1).await;
    cluster.reconcile().await.unwrap();
    assert_eq!(ready(&cluster).await.len(), 1, "its backoff is a minute");
    cluster.tear_down().await.unwrap();
}

#[tokio::test]
async fn a_new_daemon_takes_over_running_replicas_and_their_port() {
    let playground = Playground::new();
    let release = playground.release(1, Behaviour::Good);
    let cluster = playground.open();
    apply(&cluster, &release).await.unwrap();
    let (before, url) = (ready(&cluster).await, cluster.service_url());
    drop(cluster);

    let cluster = playground.open();
    cluster.reconcile().await.unwrap();
    apply(&cluster, &release).await.unwrap();
    assert_eq!((ready(&cluster).await.len(), cluster.service_url()), (2, url));
    let names = |replicas: &[Replica]| replicas.iter().map(|replica| replica.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&ready(&cluster).await), names(&before));
    assert!(ready(&cluster).await.iter().all(|replica| replica.memory_bytes.unwrap() > 0));

    // An adopted replica that dies is noticed and replaced like any other.
    kill(playground.pid_of(&before[0]), Signal::SIGKILL).unwrap();
    until_true("the death is seen", async || ready(&cluster).await.len() == 1).await;
    cluster.reconcile().await.unwrap();
    assert_eq!(ready(&cluster).await.len(), 2);
    cluster.tear_down().await.unwrap();
}

#[tokio::test]
async fn only_one_daemon_may_run_a_cluster() {
    let playground = Playground::new();
    let _first = playground.open();
    let error = ProcessCluster::open(playground.config.clone()).unwrap_err();
    assert_error(&error, ErrorKind::Conflict, &["another daemon"]);
}

#[tokio::test]
async fn a_port_of_another_program_is_named_by_number() {
    let playground = Playground::new();
    let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = stranger.local_addr().unwrap().port();
    let config = ProcessClusterConfig { public_port: port, ..playground.config.clone() };
    let error = ProcessCluster::open(config).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains(&format!("port {port} is in use")), "{error}");
}

#[tokio::test]
async fn a_rollout_that_was_interrupted_is_undone_by_the_next_daemon() {
    let (playground, cluster) = Playground::opened();
    apply(&cluster, &playground.release(1, Behaviour::Good)).await.unwrap();
    let before = ready(&cluster).await;
    let never = playground.release(2, Behaviour::NeverReady);
    // The future is dropped in the middle, as by a crash.
    let rollout = tokio::time::timeout(Duration::from_millis(500), apply(&cluster, &never)).await;
    assert!(rollout.is_err());
    drop(cluster);

    let cluster = playground.open();
    assert_eq!(cluster.replicas().await.unwrap().len(), 3);
    cluster.reconcile().await.unwrap();
    until_true("the stray replica is gone", async || {
        cluster.reconcile().await.unwrap();
        cluster.replicas().await.unwrap().len() == 2
    })
    .await;
    assert_eq!(ready(&cluster).await, before.clone());
    cluster.tear_down().await.unwrap();
}

#[tokio::test]
async fn a_replica_that_will_not_stop_is_killed_and_the_rollout_continues() {
    let mut playground = Playground::new();
    playground.config.drain_timeout = Duration::from_millis(300);
    let cluster = playground.open();
    apply(&cluster, &playground.release(1, Behaviour::IgnoresSigterm)).await.unwrap();
    apply(&cluster, &playground.release(2, Behaviour::Good)).await.unwrap();
    assert_eq!(ready(&cluster).await.len(), 2);
    cluster.reconcile().await.unwrap();
    assert_eq!(cluster.replicas().await.unwrap().len(), 2, "nothing of the old release is left");
    cluster.tear_down().await.unwrap();
}

#[tokio::test]
async fn a_replica_that_hangs_is_replaced() {
    let (playground, cluster) = Playground::opened();
    apply(&cluster, &Release { replicas: 1, ..playground.release(1, Behaviour::Good) }).await.unwrap();
    let hanging = ready(&cluster).await.remove(0);
    kill(playground.pid_of(&hanging), Signal::SIGSTOP).unwrap();
    // How many looks it takes is the machine's business: the signal and the new process need their time.
    let deadline = Instant::now() + Duration::from_secs(60);
    let replacement = loop {
        cluster.reconcile().await.unwrap();
        let all = ready(&cluster).await;
        if let Some(other) = all.into_iter().find(|replica| replica.name != hanging.name) {
            break other;
        }
        assert!(Instant::now() < deadline, "{} still stands alone", hanging.name);
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(replacement.restarts >= 1, "{replacement:?}");
    cluster.tear_down().await.unwrap();
}

#[tokio::test]
async fn replicas_run_in_process_groups_of_their_own() {
    let (playground, cluster) = Playground::opened();
    apply(&cluster, &playground.release(1, Behaviour::Good)).await.unwrap();
    for replica in ready(&cluster).await {
        let pid = playground.pid_of(&replica);
        assert_eq!(nix::unistd::getpgid(Some(pid)).unwrap(), pid);
    }
    cluster.tear_down().await.unwrap();
}

/// The real service, or `None` after saying so.
fn real_service() -> Option<PathBuf> {
    let beside = || Some(std::env::current_exe().ok()?.parent()?.parent()?.join("delayd-serve"));
    let path = std::env::var_os("DELAYD_SERVE_BIN").map(PathBuf::from).or_else(beside);
    let runs = |path: &PathBuf| {
        let version = std::process::Command::new(path).arg("--version").process_group(0).output();
        version.is_ok_and(|output| output.stdout.starts_with(b"delayd-serve"))
    };
    let found = path.filter(runs);
    if found.is_none() {
        eprintln!("SKIPPED: there is no delayd-serve (build it with `cargo build --release -p delayd-serve`)");
    }
    found
}

/// A playground whose replicas are the real service with real, tiny bundles.
fn real_playground() -> Option<(Playground, Releases)> {
    let mut playground = Playground::new();
    playground.config.service_binary = real_service()?;
    let bundle = |seed: u64| {
        let dir = playground.folder.path().join(format!("real_{seed}"));
        delayd_model::testing::tiny_bundle(seed).write_to(&dir).unwrap();
        dir
    };
    let damaged = bundle(3);
    std::fs::write(damaged.join("weights.safetensors"), "bit rot").unwrap();
    let releases = Releases {
        good: [release(1, &bundle(1)), release(2, &bundle(2))],
        broken: release(3, &damaged),
        broken_deadline: Duration::from_secs(10),
    };
    Some((playground, releases))
}

#[tokio::test]
async fn the_local_cluster_keeps_the_contract_with_the_real_service() {
    let Some((playground, releases)) = real_playground() else { return };
    keeps_the_whole_contract(&playground.open(), &releases).await;
}

#[tokio::test]
async fn a_damaged_bundle_is_reported_as_the_reason() {
    let Some((playground, releases)) = real_playground() else { return };
    let error = apply(&playground.open(), &releases.broken).await.unwrap_err();
    assert_error(&error, ErrorKind::Invalid, &["weights.safetensors is damaged"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_updates_under_load_lose_no_request() {
    let Some((mut playground, releases)) = real_playground() else { return };
    // Long enough for the clients to have their connections closed between two requests.
    playground.config.linger = Duration::from_secs(2);
    let flight = serde_json::json!({
        "carrier": "AA", "flight_number": 1, "origin": "JFK", "dest": "LAX",
        "scheduled_departure": "2013-03-05T14:00:00Z",
    });
    let request = LoadRequest { path: "/predict".to_owned(), json: Some(flight) };
    let answered = rolls_without_losing_a_request(&playground.open(), &releases, &request).await;
    assert!(answered > 500, "only {answered} requests were answered");
}
