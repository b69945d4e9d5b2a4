//! Every trainer that needs nothing but this machine, against the contract of the
//! port: a thread of this test, to which all are compared; processes beside the
//! daemon; workers that outlive it, as a cluster's do. The cluster itself is in
//! `trainer_kubernetes.rs`.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use delayd_testkit::contracts;

use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use contracts::trainer::ProcessPool;
use contracts::trainer::{PATIENCE, keeps_the_whole_contract, trained};
use contracts::training_world::{World, endless, quick_search};
use delayd_core::error::ErrorKind;
use delayd_core::ids::RunId;
use delayd_core::ports::ObjectStore;
use delayd_outside::local;
use delayd_outside::worker_trainer::{WaitPolicy, WorkerTrainer};
use delayd_testkit::programs::training_program;
use delayd_training_job::{Progress, TrainingControl, TrainingParameters};
use delayd_training_job::{Trainer, TrainingJob};
use nix::sys::signal::Signal;

fn pool_of(world: &World) -> ProcessPool {
    ProcessPool::new(world.place.path(), &world.store_dir())
}

fn trainer(world: &World, pool: &ProcessPool) -> WorkerTrainer<ProcessPool> {
    let policy = WaitPolicy {
        split_search: true,
        parallel_trials: 2,
        poll: Duration::from_millis(30),
        start_deadline: PATIENCE,
    };
    WorkerTrainer::new(world.store.clone(), pool.clone(), policy)
}

#[tokio::test]
async fn a_thread_keeps_the_contract() {
    let world = World::new().await;
    keeps_the_whole_contract(&world, &|| Box::new(world.process_trainer())).await;
}

/// As `[trainer] kind = "process"` has it.
fn beside_the_daemon(world: &World) -> WorkerTrainer<local::ProcessPool> {
    let program = training_program().unwrap_or_else(|missing| panic!("{missing}"));
    let settings = serde_json::json!({ "object_store": { "folder": world.store_dir() } });
    let pool = local::ProcessPool::new(program, &settings, world.place.path().join("state"));
    let policy = WaitPolicy {
        split_search: false,
        parallel_trials: 1,
        poll: Duration::from_millis(30),
        start_deadline: PATIENCE,
    };
    WorkerTrainer::new(world.store.clone(), pool, policy)
}

#[tokio::test]
async fn processes_beside_the_daemon_keep_the_contract() {
    let world = World::new().await;
    keeps_the_whole_contract(&world, &|| Box::new(beside_the_daemon(&world))).await;
    let left = std::fs::read_dir(world.place.path().join("state/runs")).unwrap();
    let left = left.flat_map(|run| std::fs::read_dir(run.unwrap().path()).unwrap());
    let left: Vec<_> = left.map(|file| file.unwrap().path()).filter(|path| path.is_dir()).collect();
    assert!(left.is_empty(), "temporary files are left: {left:?}");
}

#[tokio::test]
async fn workers_that_outlive_the_daemon_keep_the_contract() {
    let world = World::new().await;
    let pool = pool_of(&world);
    keeps_the_whole_contract(&world, &|| Box::new(trainer(&world, &pool))).await;
    assert_eq!(pool.running(), 0);
}

/// Waits until an object with this end is in the store.
async fn appears(store: &dyn ObjectStore, prefix: &str, end: &str) -> String {
    let began = Instant::now();
    loop {
        let listed = store.list(prefix).await.unwrap();
        if let Some(found) = listed.into_iter().find(|object| object.key.ends_with(end)) {
            return found.key;
        }
        assert!(began.elapsed() < PATIENCE, "no {prefix}…{end}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Seconds of work, so that it can be interrupted, and the same result each time.
fn some_seconds(job: &TrainingJob) -> TrainingJob {
    let parameters = TrainingParameters { batch_size: 16, max_epochs: 40, patience: 40, ..job.parameters.clone() };
    TrainingJob { parameters, ..job.clone() }
}

#[tokio::test]
async fn a_worker_that_was_killed_is_started_again_and_gives_the_same_bundle() {
    let world = World::new().await;
    let pool = pool_of(&world);
    let job = some_seconds(&world.job);
    let trainer = trainer(&world, &pool);
    let killing = async {
        appears(world.store.as_ref(), "training-jobs/", "progress.json").await;
        // SIGKILL: nothing can be put in order first.
        pool.signal(job.run, "training", Signal::SIGKILL);
    };
    let (ended, ()) = tokio::join!(async { trainer.train(&job, &TrainingControl::default()).await }, killing);
    let error = ended.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
    assert!(error.is_retryable() && error.to_string().contains("signal: 9"), "{error}");
    // The saga asks again.
    let result = trained(&world, &trainer, &job).await;
    assert_eq!(pool.starts(), ["training", "training"]);
    assert_eq!(result.bundle, trained(&world, &world.process_trainer(), &job).await.bundle);
}

#[tokio::test]
async fn a_search_goes_on_where_it_was_after_the_daemon_died() {
    let world = World::new().await;
    let pool = pool_of(&world);
    let job = TrainingJob { tuning: Some(quick_search()), ..world.job.clone() };
    let first = {
        let (trainer, job) = (trainer(&world, &pool), job.clone());
        tokio::spawn(async move { trainer.train(&job, &TrainingControl::default()).await.map(|_| ()) })
    };
    appears(world.store.as_ref(), "training-jobs/run_7/trial-1-round-0", "result.json").await;
    first.abort();
    assert!(first.await.is_err_and(|gone| gone.is_cancelled()), "it had ended before it was killed");
    let before = pool.starts();
    let result = trained(&world, &trainer(&world, &pool), &job).await;
    let after = pool.starts();
    assert_eq!(after[..before.len()], before, "what was done is not done again");
    let mut parts = after.clone();
    parts.sort();
    parts.dedup();
    assert_eq!(parts.len(), after.len(), "each part once: {after:?}");
    assert_eq!(after.len(), 5 + 2 + 1);
    assert_eq!(result.bundle, trained(&world, &world.process_trainer(), &job).await.bundle);
}

#[tokio::test]
async fn a_worker_that_is_told_to_stop_says_so_and_cleans_up() {
    let world = World::new().await;
    let pool = pool_of(&world);
    let job = TrainingJob { run: RunId(3), ..endless(&world.job) };
    let news: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let heard = news.clone();
    let control = TrainingControl::new(Arc::default(), move |news| heard.lock().unwrap().push(news.clone()));
    let trainer = trainer(&world, &pool);
    let stopping = async {
        appears(world.store.as_ref(), "training-jobs/run_3/", "progress.json").await;
        pool.signal(RunId(3), "training", Signal::SIGTERM);
    };
    let (ended, ()) = tokio::join!(trainer.train(&job, &control), stopping);
    // Nobody cancelled the run: a drained node did, and it is worth trying again.
    let error = ended.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
    assert!(error.to_string().contains("exit status: 143"), "{error}");
    let failure = appears(world.store.as_ref(), "training-jobs/run_3/", "failure.json").await;
    let failure: serde_json::Value = serde_json::from_slice(&world.store.get(&failure).await.unwrap()).unwrap();
    assert_eq!(failure["kind"], "cancelled", "{failure}");
    assert_eq!(pool.temporary_files(), Vec::<std::path::PathBuf>::new(), "temporary files of a worker that ended");
}
