//! How the trainer waits for its workers: with a pool that does as it is told, and no
//! libtorch.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ids::{RunId, TraceId};
use delayd_core::ports::ObjectStore;
use delayd_outside::local::ProcessPool;
use delayd_outside::worker_trainer::{WaitPolicy, Worker, WorkerPool, WorkerState, WorkerTrainer};
use delayd_testkit::contracts::training_world::{World, quick_search};
use delayd_testkit::tools::assert_error;
use delayd_training_job::documents::{
    FailureDocument, ProgressDocument, Work, WorkDocument, WorkPart, WorkResult, put_json,
};
use delayd_training_job::tune::TrialOutcome;
use delayd_training_job::{Progress, Trainer, TrainingControl, TrainingJob};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::json;

/// One look at a worker.
#[derive(Debug, Clone)]
enum Look {
    Absent,
    Waiting(&'static str),
    Running,
    Succeeded,
    Failed(ErrorKind),
    /// The pool itself is away.
    Away,
    /// The worker writes what it failed with.
    Fails(ErrorKind),
    /// The worker writes news.
    Tells(u64),
    /// The worker writes the result of its trial, with this log-loss.
    Result(f64),
}

#[derive(Debug, Default)]
struct Played {
    looks: BTreeMap<String, VecDeque<Look>>,
    starts: Vec<String>,
    stops: Vec<String>,
    forgotten: usize,
}

/// Shows each part's looks in turn, the last one again and again.
#[derive(Debug, Clone)]
struct Script {
    store: Arc<dyn ObjectStore>,
    played: Arc<Mutex<Played>>,
}

impl Script {
    fn new(world: &World, looks: &[(&str, &[Look])]) -> Self {
        let looks = looks.iter().map(|(part, looks)| ((*part).to_owned(), looks.iter().cloned().collect())).collect();
        let played = Played { looks, ..Played::default() };
        Self { store: world.store.clone(), played: Arc::new(Mutex::new(played)) }
    }

    fn next(&self, part: &str) -> Look {
        let mut played = self.played.lock().unwrap();
        let looks = played.looks.get_mut(part).unwrap_or_else(|| panic!("nothing is said of {part}"));
        if looks.len() > 1 { looks.pop_front().unwrap() } else { looks[0].clone() }
    }

    fn starts(&self) -> usize {
        self.played.lock().unwrap().starts.len()
    }

    fn stops(&self) -> usize {
        self.played.lock().unwrap().stops.len()
    }
}

#[async_trait]
impl WorkerPool for Script {
    async fn start(&self, worker: &Worker) -> Result<(), PortError> {
        self.played.lock().unwrap().starts.push(worker.part.clone());
        Ok(())
    }

    async fn state(&self, worker: &Worker) -> Result<WorkerState, PortError> {
        let (store, work) = (self.store.as_ref(), &worker.work);
        Ok(match self.next(&worker.part) {
            Look::Absent => WorkerState::Absent,
            Look::Waiting(why) => WorkerState::Waiting(why.to_owned()),
            Look::Running => WorkerState::Running,
            Look::Succeeded => WorkerState::Succeeded,
            Look::Failed(kind) => WorkerState::Failed(PortError::new(kind, worker.action(), "its pod ended badly")),
            Look::Away => {
                return Err(PortError::new(ErrorKind::Unavailable, "reading the Job of run_7", "connection refused"));
            }
            Look::Fails(kind) => {
                let failure = FailureDocument { kind, message: "the worker's own words".to_owned() };
                put_json(store, &work.failure_key(), &failure).await?;
                WorkerState::Running
            }
            Look::Tells(number) => {
                let progress = Progress::Encoding { train_rows: number as usize, tail_rows: 1 };
                put_json(store, &work.progress_key(), &ProgressDocument { number, progress }).await?;
                WorkerState::Running
            }
            Look::Result(log_loss) => {
                let document: WorkDocument = serde_json::from_slice(&store.get(&work.document_key()).await?).unwrap();
                let WorkPart::Trial { task } = document.part else { panic!("no trial") };
                let outcome = TrialOutcome::Finished { validation_log_loss: log_loss, validation_roc_auc: None };
                put_json(store, &work.result_key(), &WorkResult::Trial { record: Box::new(task.ended(outcome, 1.0)) })
                    .await?;
                WorkerState::Succeeded
            }
        })
    }

    async fn stop(&self, worker: &Worker) -> Result<(), PortError> {
        self.played.lock().unwrap().stops.push(worker.part.clone());
        Ok(())
    }

    async fn forget(&self, _: RunId) -> Result<(), PortError> {
        self.played.lock().unwrap().forgotten += 1;
        Ok(())
    }

    async fn probe(&self) -> Result<String, PortError> {
        Ok("a script".to_owned())
    }
}

struct Stage {
    world: World,
    script: Script,
    news: Arc<Mutex<Vec<Progress>>>,
}

impl Stage {
    async fn new(looks: &[(&str, &[Look])]) -> Self {
        let world = World::new().await;
        let script = Script::new(&world, looks);
        Self { world, script, news: Arc::default() }
    }

    async fn fails(&self, job: &TrainingJob) -> PortError {
        let heard = self.news.clone();
        let control = TrainingControl::new(Arc::default(), move |news| heard.lock().unwrap().push(news.clone()));
        let policy = WaitPolicy {
            split_search: true,
            parallel_trials: 2,
            poll: Duration::from_millis(1),
            start_deadline: Duration::from_millis(60),
        };
        let trainer = WorkerTrainer::new(self.world.store.clone(), self.script.clone(), policy);
        match trainer.train(job, &control).await {
            Ok(result) => panic!("it was trained: {}", result.bundle),
            Err(error) => error,
        }
    }

    fn news(&self) -> Vec<Progress> {
        self.news.lock().unwrap().clone()
    }
}

/// What a training's looks lead to, with starts and stops of the worker.
async fn expect(looks: &[Look], kind: ErrorKind, words: &str, starts: usize, stops: usize) -> Stage {
    let stage = Stage::new(&[("training", looks)]).await;
    let error = stage.fails(&stage.world.job).await;
    assert_eq!(error.kind(), kind, "{looks:?}: {error}");
    assert!(error.to_string().contains(words) && error.to_string().contains("run_7"), "{looks:?}: {error}");
    assert_eq!((stage.script.starts(), stage.script.stops()), (starts, stops), "{looks:?}");
    stage
}

#[tokio::test]
async fn a_worker_that_does_not_start_is_given_up_with_the_pools_reason() {
    let looks = [Look::Waiting("its pod is not made yet"), Look::Waiting("Unschedulable: no GPU")];
    let stage = expect(&looks, ErrorKind::Timeout, "Unschedulable: no GPU", 1, 1).await;
    let told: Vec<String> = stage
        .news()
        .into_iter()
        .filter_map(|news| match news {
            Progress::Waiting { what } => Some(what),
            _ => None,
        })
        .collect();
    assert_eq!(told, ["training: its pod is not made yet", "training: Unschedulable: no GPU"], "each reason once");
}

#[tokio::test]
async fn what_would_fail_again_is_given_up_at_once_and_what_may_pass_is_left_to_the_pool() {
    let again = [Look::Running, Look::Fails(ErrorKind::Invalid), Look::Running];
    expect(&again, ErrorKind::Invalid, "the worker's own words", 1, 1).await;
    // A store that was away, a node that was drained: the pool tries again, until it gives up.
    for passing in [ErrorKind::Unavailable, ErrorKind::Cancelled] {
        let looks = [Look::Fails(passing), Look::Running, Look::Running, Look::Failed(ErrorKind::Interrupted)];
        let (kind, words) = match passing {
            ErrorKind::Cancelled => (ErrorKind::Interrupted, "its pod ended badly"),
            kind => (kind, "the worker's own words"),
        };
        expect(&looks, kind, words, 1, 0).await;
    }
}

#[tokio::test]
async fn a_worker_that_vanishes_is_started_again_a_few_times() {
    expect(&[Look::Running, Look::Absent], ErrorKind::Interrupted, "it was removed 4 times", 4, 0).await;
    expect(
        &[Look::Absent, Look::Running, Look::Failed(ErrorKind::Exhausted)],
        ErrorKind::Exhausted,
        "ended badly",
        2,
        0,
    )
    .await;
}

#[tokio::test]
async fn a_pool_that_is_unavailable_for_a_few_checks_costs_nothing_and_a_lasting_outage_is_the_sagas() {
    let mut looks = vec![Look::Away; 5];
    looks.extend([Look::Running, Look::Away, Look::Away, Look::Failed(ErrorKind::Timeout)]);
    expect(&looks, ErrorKind::Timeout, "ended badly", 1, 0).await;
    expect(&[Look::Away], ErrorKind::Unavailable, "connection refused", 1, 0).await;
}

#[tokio::test]
async fn a_worker_that_ended_well_without_a_result_used_another_store() {
    expect(&[Look::Running, Look::Succeeded], ErrorKind::Corrupt, "own object store", 1, 0).await;
}

#[tokio::test]
async fn news_are_reported_once_each() {
    let looks = [Look::Tells(1), Look::Running, Look::Tells(1), Look::Tells(3), Look::Failed(ErrorKind::Timeout)];
    let stage = expect(&looks, ErrorKind::Timeout, "", 1, 0).await;
    let rows = |news: Progress| match news {
        Progress::Encoding { train_rows, .. } => train_rows,
        other => panic!("{other:?}"),
    };
    assert_eq!(stage.news().into_iter().map(rows).collect::<Vec<_>>(), [1, 3]);
}

#[tokio::test]
async fn a_candidate_too_large_for_its_pod_has_lost_and_the_best_of_the_others_is_trained() {
    let part = |trial: usize, round: usize| format!("trial-{trial}-round-{round}");
    let names = [part(0, 0), part(1, 0), part(2, 0), part(3, 0), part(4, 0), part(2, 1), part(3, 1)];
    let stage = Stage::new(&[
        (&names[0], &[Look::Running, Look::Result(0.6)]),
        (&names[1], &[Look::Failed(ErrorKind::Exhausted)]),
        (&names[2], &[Look::Waiting("soon"), Look::Running, Look::Result(0.5)]),
        (&names[3], &[Look::Result(0.4)]),
        (&names[4], &[Look::Result(0.7)]),
        (&names[5], &[Look::Result(0.35)]),
        (&names[6], &[Look::Result(0.45)]),
        ("training", &[Look::Failed(ErrorKind::Timeout)]),
    ])
    .await;
    let job = TrainingJob { tuning: Some(quick_search()), ..stage.world.job.clone() };
    assert_eq!(stage.fails(&job).await.kind(), ErrorKind::Timeout);
    let store = stage.world.store.as_ref();
    let objects = store.list("training-jobs/run_7/training-").await.unwrap();
    let document = objects.iter().find(|object| object.key.ends_with("job.json")).unwrap();
    let document: WorkDocument = serde_json::from_slice(&store.get(&document.key).await.unwrap()).unwrap();
    let WorkPart::Chosen { parameters, tuning } = document.part else { panic!("{document:?}") };
    assert_eq!(tuning.best_trial, 2);
    assert_eq!(parameters, tuning.trials[2].parameters);
    let order: Vec<(usize, usize)> = tuning.trials.iter().map(|record| (record.round, record.trial)).collect();
    assert_eq!(order, [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (1, 3)]);
    let lost = &tuning.trials[1].outcome;
    assert!(matches!(lost, TrialOutcome::Failed { reason } if reason.contains("ended badly")), "{lost:?}");
    // Asked again, only the training is left to do.
    let starts = stage.script.starts();
    stage.fails(&job).await;
    assert_eq!(stage.script.starts(), starts + 1);
}

#[tokio::test]
async fn a_run_that_is_cancelled_stops_its_worker_and_all_beside_it() {
    let stage = Stage::new(&[("training", &[Look::Running])]).await;
    let control = TrainingControl::default();
    control.cancel.store(true, std::sync::atomic::Ordering::Relaxed);
    let policy = WaitPolicy {
        split_search: true,
        parallel_trials: 1,
        poll: Duration::from_millis(1),
        start_deadline: Duration::from_secs(60),
    };
    let trainer = WorkerTrainer::new(stage.world.store.clone(), stage.script.clone(), policy);
    let error = trainer.train(&stage.world.job, &control).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    assert_eq!((stage.script.stops(), stage.script.played.lock().unwrap().forgotten), (1, 1));
}

// ----------------------------------------------------------------
// How the daemon runs training workers as processes beside itself: what they are given, and what it says when they end.
// The workers are shell scripts; that the real one trains is tested in `trainer_contract.rs`.

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
async fn what_a_failed_worker_said_last_is_reported_and_kept_beside_the_run() {
    let bench = Bench::of_script("echo 'delayd-train: the disk is full' >&2\nexit 75");
    bench.pool.start(&worker()).await.unwrap();
    let error = bench.failed().await;
    assert_error(&error, ErrorKind::Interrupted, &["the disk is full", "75"]);
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
