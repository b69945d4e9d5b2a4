//! How the daemon runs training workers as processes beside itself: what they are given, and what it says when they end.
//! The workers are shell scripts; that the real one trains is tested in `trainer_contract.rs`.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ids::{RunId, TraceId};
use delayd_outside::local::ProcessPool;
use delayd_outside::worker_trainer::{Worker, WorkerPool, WorkerState};
use delayd_training_job::documents::Work;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::json;

const DOCUMENT: &str = "training-jobs/run_7/training-0123456789ab/job.json";
const PATIENCE: Duration = Duration::from_secs(30);
/// Part of the secret in the settings, and of nothing else.
const MARK: &str = "m4rk3d-s3cr3t";

/// A pool whose workers are a script.
struct Bench {
    place: tempfile::TempDir,
    pool: ProcessPool,
}

impl Bench {
    fn of_script(script: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        let program = place.path().join("worker");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Self::of_program(place, program)
    }

    fn of_program(place: tempfile::TempDir, program: PathBuf) -> Self {
        let settings = json!({ "object_store": { "kind": "s3", "s3": { "secret_access_key": MARK } } });
        let pool = ProcessPool::new(program, &settings, place.path().join("state"));
        Self { place, pool }
    }

    /// What the script wrote beside itself.
    fn written(&self, name: &str) -> String {
        fs::read_to_string(self.place.path().join(name)).unwrap_or_default()
    }

    /// The worker's state once it runs no more.
    async fn ended(&self) -> WorkerState {
        let began = Instant::now();
        loop {
            let state = self.pool.state(&worker()).await.unwrap();
            if !matches!(state, WorkerState::Running) {
                return state;
            }
            assert!(began.elapsed() < PATIENCE, "the worker does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn failed(&self) -> PortError {
        match self.ended().await {
            WorkerState::Failed(error) => error,
            other => panic!("{other:?}"),
        }
    }
}

fn worker() -> Worker {
    let work = Work::at_document(DOCUMENT).unwrap();
    Worker { run: RunId(7), part: "training".to_owned(), work, trace: Some(TraceId::of("cycle_1")) }
}

#[tokio::test]
async fn a_worker_gets_its_document_by_argument_and_secrets_by_standard_input_alone() {
    let bench = Bench::of_script(
        "printf '%s\\n' \"$@\" >\"$0.arguments\"\nenv >\"$0.environment\"\nIFS= read -r line\nprintf %s \"$line\" >\"$0.settings\"",
    );
    bench.pool.start(&worker()).await.unwrap();
    assert!(matches!(bench.ended().await, WorkerState::Succeeded));
    let arguments = bench.written("worker.arguments");
    let scratch = bench.place.path().join("state/runs/run_7");
    let expected = ["--settings-from-stdin", "--job", DOCUMENT, "--scratch", scratch.to_str().unwrap()];
    assert_eq!(arguments.lines().collect::<Vec<_>>(), expected);
    let environment = bench.written("worker.environment");
    assert!(environment.contains(&TraceId::of("cycle_1").to_string()), "{environment}");
    assert!(!arguments.contains(MARK) && !environment.contains(MARK));
    let settings: serde_json::Value = serde_json::from_str(&bench.written("worker.settings")).unwrap();
    assert_eq!(settings["object_store"]["s3"]["secret_access_key"], MARK);
    assert!(!format!("{:?}", bench.pool).contains(MARK));
}

#[tokio::test]
async fn what_a_failed_worker_said_last_is_told_and_kept_beside_the_run() {
    let bench = Bench::of_script("echo 'delayd-train: the disk is full' >&2\nexit 75");
    bench.pool.start(&worker()).await.unwrap();
    let error = bench.failed().await;
    assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
    assert!(error.to_string().contains("the disk is full") && error.to_string().contains("75"), "{error}");
    assert!(bench.written("state/runs/run_7/training.log").contains("the disk is full"));
}

#[tokio::test]
async fn a_worker_that_the_system_killed_is_reported_as_a_lack_of_memory() {
    let bench = Bench::of_script("kill -9 $$");
    bench.pool.start(&worker()).await.unwrap();
    let error = bench.failed().await;
    assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
    assert!(error.is_retryable() && error.to_string().contains("memory"), "{error}");
}

#[tokio::test]
async fn a_worker_that_aborts_ends_alone_and_is_started_again() {
    let bench = Bench::of_script("kill -ABRT $$");
    bench.pool.start(&worker()).await.unwrap();
    let error = bench.failed().await;
    assert!(error.is_retryable() && error.to_string().contains("signal 6"), "{error}");
    // The saga asks again: the failed one is replaced.
    bench.pool.start(&worker()).await.unwrap();
    assert!(bench.failed().await.to_string().contains("signal 6"));
}

#[tokio::test]
async fn a_forgotten_run_leaves_no_process() {
    let bench = Bench::of_script("echo $$ >\"$0.pid\"\nexec sleep 600");
    bench.pool.start(&worker()).await.unwrap();
    let began = Instant::now();
    while bench.written("worker.pid").trim().is_empty() {
        assert!(began.elapsed() < PATIENCE, "the worker does not begin");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let pid = Pid::from_raw(bench.written("worker.pid").trim().parse().unwrap());
    assert!(matches!(bench.pool.state(&worker()).await.unwrap(), WorkerState::Running));
    bench.pool.forget(RunId(8)).await.unwrap();
    assert!(kill(pid, None).is_ok(), "another run's end ended it");
    bench.pool.forget(RunId(7)).await.unwrap();
    assert!(kill(pid, None).is_err(), "it still runs");
    assert!(matches!(bench.pool.state(&worker()).await.unwrap(), WorkerState::Absent));
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named_with_what_to_do() {
    let place = tempfile::tempdir().unwrap();
    let nowhere = Path::new("/nowhere/delayd-train").to_owned();
    let bench = Bench::of_program(place, nowhere);
    for error in [bench.pool.start(&worker()).await.unwrap_err(), bench.pool.probe().await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        let text = error.to_string();
        assert!(text.contains("/nowhere/delayd-train") && text.contains("trainer.program"), "{text}");
    }
}

#[tokio::test]
async fn a_probe_says_what_the_worker_says() {
    let bench = Bench::of_script("[ \"$1\" = --probe ] && echo 'cpu, libtorch 2.11.0'");
    let said = bench.pool.probe().await.unwrap();
    assert!(said.contains("processes of this machine") && said.contains("libtorch 2.11.0"), "{said}");
    let refusing = Bench::of_script("echo 'libtorch_cpu.so: cannot open shared object file' >&2\nexit 127");
    let error = refusing.pool.probe().await.unwrap_err();
    assert!(error.to_string().contains("libtorch_cpu.so"), "{error}");
}
