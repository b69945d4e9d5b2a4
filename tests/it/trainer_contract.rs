//! Every trainer that needs nothing but this machine, against the contract of the port: processes beside the daemon, and
//! workers that outlive it, as a cluster's do. The cluster itself is in `tests/kubernetes/trainer.rs`.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use delayd_core::error::ErrorKind;
use delayd_core::ids::{RunId, TraceId};
use delayd_core::ports::ObjectStore;
use delayd_outside::local;
use delayd_outside::worker_trainer::{WaitPolicy, WorkerTrainer};
use delayd_testkit::contracts::trainer::{PATIENCE, keeps_the_whole_contract, nonsense, trained};
use delayd_testkit::contracts::trainer::{ProcessPool, worker_command};
use delayd_testkit::contracts::training_world::{World, endless, process_trainer, quick_search};
use delayd_testkit::tools::{assert_error, until};
use delayd_training_job::documents::{FailureDocument, Work, WorkDocument, WorkPart, WorkResult, get_json};
use delayd_training_job::{Progress, Trainer, TrainingControl, TrainingJob, TrainingParameters};
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

/// As `[trainer] kind = "process"` has it.
fn beside_the_daemon(world: &World) -> WorkerTrainer<local::ProcessPool> {
    process_trainer(world.store.clone(), world.store_dir(), world.place.path().join("state"))
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
    until(&format!("there is a {prefix}…{end}"), async || {
        let listed = store.list(prefix).await.unwrap();
        listed.into_iter().map(|object| object.key).find(|key| key.ends_with(end))
    })
    .await
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
async fn a_search_resumes_where_it_was_after_the_daemon_died() {
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
    assert_error(&error, ErrorKind::Interrupted, &["exit status: 143"]);
    let failure = appears(world.store.as_ref(), "training-jobs/run_3/", "failure.json").await;
    let failure: serde_json::Value = serde_json::from_slice(&world.store.get(&failure).await.unwrap()).unwrap();
    assert_eq!(failure["kind"], "cancelled", "{failure}");
    assert_eq!(pool.temporary_files(), Vec::<std::path::PathBuf>::new(), "temporary files of a worker that ended");
}

// ----------------------------------------------------------------
// `delayd-train`, as a cluster runs it and as the daemon does.

struct Site {
    world: World,
    config: PathBuf,
}

impl Site {
    async fn new() -> Self {
        let world = World::new().await;
        let config = world.place.path().join("worker.toml");
        let store = world.store_dir();
        std::fs::write(&config, format!("[object_store]\nfolder = {:?}\n", store.to_str().unwrap())).unwrap();
        Self { world, config }
    }

    async fn document(&self) -> Work {
        let document = WorkDocument::new(self.world.job.clone(), WorkPart::Whole);
        document.store(self.world.store.as_ref()).await.unwrap()
    }

    async fn worker(&self, key: &str) -> Output {
        let mut command = worker_command();
        command.arg("--config").arg(&self.config).args(["--job", key]);
        command.env("TRACEPARENT", TraceId::of("cycle_1").traceparent("train"));
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }
}

/// Exit status and the line that says what was wrong.
fn failed(output: &Output) -> (Option<i32>, String) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let line =
        text.lines().find(|line| line.starts_with("delayd-train: ")).unwrap_or_else(|| panic!("no reason in {text}"));
    (output.status.code(), line.to_owned())
}

#[tokio::test]
async fn a_worker_writes_its_result_once_and_a_second_one_finds_it() {
    let site = Site::new().await;
    let work = site.document().await;
    let first = site.worker(&work.document_key()).await;
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    assert!(String::from_utf8_lossy(&first.stdout).contains("is done"));
    let log = String::from_utf8_lossy(&first.stderr);
    let begins = log.lines().find(|line| line.contains("the work begins")).unwrap_or_else(|| panic!("{log}"));
    assert!(begins.contains(&TraceId::of("cycle_1").to_string()) && begins.contains("run_7"), "{begins}");
    let store = site.world.store.as_ref();
    let objects = store.list("training-jobs/").await.unwrap();
    let second = site.worker(&work.document_key()).await;
    assert!(second.status.success() && String::from_utf8_lossy(&second.stdout).contains("was done already"));
    assert_eq!(store.list("training-jobs/").await.unwrap(), objects, "the second worker wrote something");
    let result: WorkResult = get_json(store, &work.result_key()).await.unwrap().unwrap();
    let WorkResult::Trained { bundle, .. } = result else { panic!("{result:?}") };
    let manifest = format!("{}manifest.json", work.bundle_prefix(&bundle));
    assert!(objects.iter().any(|object| object.key == manifest), "{objects:?}");
}

#[tokio::test]
async fn a_wrong_document_is_refused_by_its_key_with_what_was_expected() {
    let site = Site::new().await;
    let store = site.world.store.as_ref();
    let (status, line) = failed(&site.worker("flights/2013-01.csv").await);
    assert_eq!(status, Some(2), "{line}");
    assert!(line.contains("flights/2013-01.csv") && line.contains("training-jobs/run_7/"), "{line}");

    let missing = "training-jobs/run_7/training-0123456789ab/job.json";
    let (status, line) = failed(&site.worker(missing).await);
    assert_eq!(status, Some(4), "{line}");
    assert!(line.contains(missing), "{line}");

    let work = site.document().await;
    let whole = store.get(&work.document_key()).await.unwrap();
    store.put(&work.document_key(), nonsense()).await.unwrap();
    let (status, line) = failed(&site.worker(&work.document_key()).await);
    assert_eq!(status, Some(2), "{line}");
    assert!(line.contains("digest"), "{line}");
    let told: FailureDocument = get_json(store, &work.failure_key()).await.unwrap().unwrap();
    assert!(line.contains(&told.message), "{told:?}");

    // Written by another build of delayd.
    let version = format!("\"version\": \"{}\"", env!("CARGO_PKG_VERSION"));
    let other = String::from_utf8(whole.to_vec()).unwrap().replace(&version, "\"version\": \"99.0.0\"");
    let key =
        format!("training-jobs/run_7/training-{}/job.json", delayd_core::ids::Digest::of(other.as_bytes()).short());
    store.put(&key, other.into()).await.unwrap();
    let (status, line) = failed(&site.worker(&key).await);
    assert_eq!(status, Some(2), "{line}");
    assert!(line.contains("99.0.0") && line.contains("image"), "{line}");
}

#[tokio::test]
async fn a_store_that_cannot_be_opened_is_named() {
    let site = Site::new().await;
    let blocked = site.world.place.path().join("file");
    std::fs::write(&blocked, "no folder").unwrap();
    std::fs::write(&site.config, format!("[object_store]\nfolder = {:?}\n", blocked.to_str().unwrap())).unwrap();
    let (_, line) = failed(&site.worker("training-jobs/run_7/training-0123456789ab/job.json").await);
    assert!(line.contains(blocked.to_str().unwrap()), "{line}");
}

#[tokio::test]
async fn a_worker_whose_daemon_is_gone_stops_and_leaves_no_temporary_files() {
    let site = Site::new().await;
    let store = site.world.store.as_ref();
    let document = WorkDocument::new(endless(&site.world.job), WorkPart::Whole);
    let work = document.store(store).await.unwrap();
    let scratch = site.world.place.path().join("scratch");
    let mut command = worker_command();
    command.args(["--settings-from-stdin", "--job", &work.document_key(), "--scratch"]).arg(&scratch);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let settings = serde_json::json!({ "object_store": { "folder": site.world.store_dir() } });
    writeln!(stdin, "{settings}").unwrap();
    let began = Instant::now();
    while store.get(&work.progress_key()).await.is_err() {
        assert!(began.elapsed() < PATIENCE && child.try_wait().unwrap().is_none(), "it does not begin");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(child.try_wait().unwrap().is_none(), "it ended although its daemon is there");

    drop(stdin);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(began.elapsed() < PATIENCE, "it goes on although nobody waits for it");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(status.code(), Some(143));
    assert!(get_json::<WorkResult>(store, &work.result_key()).await.unwrap().is_none());
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0, "temporary files are left");
}
