//! What every trainer must do.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::training_world::{World, damage, endless, listed, quick_search};
use crate::programs::training_program;
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ids::{Digest, RunId};
use delayd_core::ports::ObjectStore;
use delayd_data::dataset::load_manifest;
use delayd_model::Bundle;
use delayd_outside::bundles::{bundle_prefix, download_bundle, upload_bundle};
use delayd_outside::worker_trainer::{Worker, WorkerPool, WorkerState};
use delayd_training_job::report::StartedFrom;
use delayd_training_job::tune::{TrialOutcome, TrialRecord};
use delayd_training_job::{Progress, Trainer, TrainingControl, TrainingJob, TrainingParameters, TrainingResult};

/// A generous bound for anything that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Makes the trainer under test; another one each time, over the same world.
pub type Make<'a> = &'a (dyn Fn() -> Box<dyn Trainer> + Sync);

/// Runs every part of the contract.
pub async fn keeps_the_whole_contract(world: &World, make: Make<'_>) {
    let plain = the_same_job_gives_the_same_bundle(world, make).await;
    a_search_gives_the_records_of_a_process(world, make).await;
    the_live_bundle_warms_the_start(world, make, &plain).await;
    what_is_missing_or_damaged_is_told_by_its_kind(world, make).await;
    a_cancelled_run_ends_and_leaves_nothing_running(world, make).await;
    forgetting_removes_what_was_kept(world, make).await;
}

/// Trains, and sees to it that the bundle is where and what the result says.
pub async fn trained(world: &World, trainer: &dyn Trainer, job: &TrainingJob) -> TrainingResult {
    let result = trainer.train(job, &TrainingControl::default()).await.unwrap_or_else(|error| panic!("{error}"));
    let bundle = bundle_of(world, &result).await;
    assert_eq!(bundle.metrics, result.metrics);
    assert!((0.0..=1.0).contains(&result.roc_auc), "{}", result.roc_auc);
    result
}

async fn bundle_of(world: &World, result: &TrainingResult) -> Bundle {
    let dir = world.place.path().join("fetched");
    download_bundle(world.store.as_ref(), &result.bundle_prefix, &result.bundle, &dir).await.unwrap()
}

/// What a process of this machine makes of it, whichever trainer is under test.
async fn by_process(world: &World, job: &TrainingJob) -> TrainingResult {
    trained(world, &world.process_trainer(), job).await
}

async fn the_same_job_gives_the_same_bundle(world: &World, make: Make<'_>) -> TrainingResult {
    let first = trained(world, make().as_ref(), &world.job).await;
    let again = trained(world, make().as_ref(), &world.job).await;
    assert_eq!(again.bundle, first.bundle);
    let here = by_process(world, &world.job).await;
    assert_eq!((here.bundle, here.metrics, here.roc_auc), (first.bundle.clone(), first.metrics.clone(), first.roc_auc));
    // A run of the same name and other work: an earlier ledger's perhaps.
    let parameters = TrainingParameters { seed: 99, ..world.job.parameters.clone() };
    let other = trained(world, make().as_ref(), &TrainingJob { parameters, ..world.job.clone() }).await;
    assert_ne!(other.bundle, first.bundle, "another job's work was taken for its own");
    first
}

/// Trials without what depends on the machine.
fn untimed(records: &[TrialRecord]) -> Vec<TrialRecord> {
    records.iter().map(|record| TrialRecord { seconds: 0.0, ..record.clone() }).collect()
}

async fn a_search_gives_the_records_of_a_process(world: &World, make: Make<'_>) {
    let job = TrainingJob { tuning: Some(quick_search()), ..world.job.clone() };
    let (here, there) = (by_process(world, &job).await, trained(world, make().as_ref(), &job).await);
    let (here_search, there_search) = (here.report.tuning.unwrap(), there.report.tuning.unwrap());
    assert_eq!(untimed(&there_search.trials), untimed(&here_search.trials));
    assert_eq!(there_search.best_trial, here_search.best_trial);
    assert_eq!(there_search.trials.len(), 7, "five short runs, two longer ones: {:?}", there_search.trials);
    let finished = |record: &TrialRecord| matches!(record.outcome, TrialOutcome::Finished { .. });
    assert!(there_search.trials.iter().all(finished), "{:?}", there_search.trials);
    assert_eq!(there.bundle, here.bundle);
    assert_eq!(there.report.record, here.report.record);
}

async fn the_live_bundle_warms_the_start(world: &World, make: Make<'_>, live: &TrainingResult) {
    let store = world.store.as_ref();
    let dir = world.place.path().join("live");
    download_bundle(store, &live.bundle_prefix, &live.bundle, &dir).await.unwrap();
    upload_bundle(store, &dir, &bundle_prefix(&live.bundle)).await.unwrap();
    let parameters = TrainingParameters { warm_start: true, warm_start_max_epochs: 1, ..world.job.parameters.clone() };
    let job = TrainingJob { live: Some(live.bundle.clone()), parameters, ..world.job.clone() };
    let (here, there) = (by_process(world, &job).await, trained(world, make().as_ref(), &job).await);
    assert_eq!(there.report.record.started_from, StartedFrom::EarlierWeights);
    assert_eq!(there.bundle, here.bundle);
    assert_ne!(there.bundle, live.bundle);
}

/// The error of a job that cannot succeed.
async fn refused(make: Make<'_>, job: &TrainingJob) -> delayd_core::error::PortError {
    match make().train(job, &TrainingControl::default()).await {
        Ok(result) => panic!("it was trained: {}", result.bundle),
        Err(error) => error,
    }
}

async fn what_is_missing_or_damaged_is_told_by_its_kind(world: &World, make: Make<'_>) {
    let job = |change: &dyn Fn(&mut TrainingJob)| {
        let mut job = TrainingJob { run: RunId(8), ..world.job.clone() };
        change(&mut job);
        job
    };
    let nowhere = Digest::of(b"nowhere");
    let error = refused(make, &job(&|job| job.dataset = nowhere.clone())).await;
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains(nowhere.hex()), "{error}");

    let error = refused(make, &job(&|job| job.live = Some(nowhere.clone()))).await;
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains(nowhere.hex()), "{error}");

    let error = refused(make, &job(&|job| job.parameters.min_rows = 1_000_000)).await;
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("min_rows"), "{error}");

    let error = refused(make, &job(&|job| job.parameters.hidden = 0)).await;
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");

    let store = world.store.as_ref();
    assert!(load_manifest(store, &world.job.dataset).await.is_ok());
    let parts = listed(store, "parts/").await;
    let dataset = &world.job.dataset.hex()[..12];
    let inputs = &world.job.inputs;
    for (key, named) in
        [(&parts[0], parts[0].as_str()), (&inputs.weather.key, dataset), (&inputs.reference.key, dataset)]
    {
        let whole = damage(store, key).await;
        // Another cycle, so that no trainer has done this job before.
        let error = refused(make, &job(&|job| job.parameters.seed = 5)).await;
        store.put(key, whole).await.unwrap();
        let fine = matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Invalid);
        assert!(fine && error.to_string().contains(named), "{key}: {error}");
    }
    // What failed while something was damaged succeeds afterwards.
    trained(world, make().as_ref(), &job(&|job| job.parameters.seed = 5)).await;
}

async fn a_cancelled_run_ends_and_leaves_nothing_running(world: &World, make: Make<'_>) {
    let news: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let heard = news.clone();
    let cancel = Arc::new(AtomicBool::new(false));
    let control = TrainingControl::new(cancel.clone(), move |progress| heard.lock().unwrap().push(progress.clone()));
    let trainer = make();
    let job = TrainingJob { run: RunId(9), ..endless(&world.job) };
    let cancelling = async {
        let at_work = || news.lock().unwrap().iter().any(|news| !matches!(news, Progress::Waiting { .. }));
        let began = Instant::now();
        while !at_work() {
            assert!(began.elapsed() < PATIENCE, "no news of the run: {:?}", news.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        cancel.store(true, Ordering::Relaxed);
        Instant::now()
    };
    let (ended, cancelled) = tokio::join!(trainer.train(&job, &control), cancelling);
    let error = ended.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    assert!(cancelled.elapsed() < PATIENCE);
}

async fn forgetting_removes_what_was_kept(world: &World, make: Make<'_>) {
    let trainer = make();
    let result = trained(world, trainer.as_ref(), &world.job).await;
    for run in [7, 8, 9, 7, 12_345] {
        trainer.forget(RunId(run)).await.unwrap();
    }
    let left = world.store.list("training-jobs/").await.unwrap();
    assert!(left.is_empty(), "{left:?}");
    // And it can be trained again.
    assert_eq!(trained(world, trainer.as_ref(), &world.job).await.bundle, result.bundle);
    trainer.forget(world.job.run).await.unwrap();
    assert!(!trainer.probe().await.unwrap().is_empty());
}

/// Something that is no document of a worker.
pub fn nonsense() -> Bytes {
    Bytes::from_static(b"{\"format\": 1, \"job\": \"the cat ate it\"}")
}

/// What the pool remembers; clones share it, as daemons share a cluster.
#[derive(Debug, Clone)]
pub struct ProcessPool(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    config: PathBuf,
    logs: PathBuf,
    /// Where its workers put their temporary files.
    scratch: PathBuf,
    workers: BTreeMap<(RunId, String), Started>,
    /// Starts, by part.
    starts: Vec<String>,
}

#[derive(Debug)]
struct Started {
    document: String,
    child: Child,
    log: PathBuf,
}

impl Drop for Inner {
    fn drop(&mut self) {
        for started in self.workers.values_mut() {
            let _ = started.child.kill();
            let _ = started.child.wait();
        }
    }
}

impl ProcessPool {
    /// A pool whose workers use the folder store at `store_dir`.
    pub fn new(place: &Path, store_dir: &Path) -> Self {
        let config = place.join("worker.toml");
        std::fs::write(&config, format!("[object_store]\nfolder = {:?}\n", store_dir.to_str().unwrap())).unwrap();
        let (logs, scratch) = (place.to_owned(), place.join("scratch"));
        std::fs::create_dir_all(&scratch).unwrap();
        Self(Arc::new(Mutex::new(Inner { config, logs, scratch, workers: BTreeMap::new(), starts: Vec::new() })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// The parts for which a worker was started, in order.
    pub fn starts(&self) -> Vec<String> {
        self.inner().starts.clone()
    }

    /// What its workers have left among their temporary files.
    pub fn temporary_files(&self) -> Vec<PathBuf> {
        std::fs::read_dir(&self.inner().scratch).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    /// Sends a signal to a worker.
    pub fn signal(&self, run: RunId, part: &str, signal: Signal) {
        let inner = self.inner();
        let started = inner.workers.get(&(run, part.to_owned())).unwrap_or_else(|| panic!("no worker {part}"));
        kill(Pid::from_raw(i32::try_from(started.child.id()).unwrap()), signal).unwrap();
    }

    /// How many workers still run.
    pub fn running(&self) -> usize {
        self.inner()
            .workers
            .values_mut()
            .filter_map(|started| started.child.try_wait().unwrap().is_none().then_some(()))
            .count()
    }
}

/// A command that runs `delayd-train` with nothing of this test's environment.
pub fn worker_command() -> Command {
    let mut command = Command::new(training_program().unwrap_or_else(|missing| panic!("{missing}")));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DELAYD_") {
            command.env_remove(&name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// SIGTERM, and SIGKILL where it does not help.
fn end(child: &mut Child) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let _ = kill(pid, Signal::SIGTERM);
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > Duration::from_secs(20) {
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[async_trait]
impl WorkerPool for ProcessPool {
    async fn start(&self, worker: &Worker) -> Result<(), PortError> {
        let mut inner = self.inner();
        let (id, document) = ((worker.run, worker.part.clone()), worker.work.document_key());
        if let Some(there) = inner.workers.get_mut(&id) {
            let fine = there.child.try_wait().unwrap().is_none_or(|status| status.success());
            if fine && there.document == document {
                return Ok(());
            }
            end(&mut there.child);
        }
        let log = inner.logs.join(format!("{}-{}.log", worker.run, worker.part));
        let out = File::create(&log).unwrap();
        let mut command = worker_command();
        command.arg("--config").arg(&inner.config).args(["--job", &document]);
        command.stdout(out.try_clone().unwrap()).stderr(out);
        command.env("TMPDIR", &inner.scratch);
        let child = command.spawn().unwrap();
        inner.starts.push(worker.part.clone());
        inner.workers.insert(id, Started { document, child, log });
        Ok(())
    }

    async fn state(&self, worker: &Worker) -> Result<WorkerState, PortError> {
        let mut inner = self.inner();
        let Some(started) = inner.workers.get_mut(&(worker.run, worker.part.clone())) else {
            return Ok(WorkerState::Absent);
        };
        Ok(match started.child.try_wait().unwrap() {
            None => WorkerState::Running,
            Some(status) if status.success() => WorkerState::Succeeded,
            Some(status) => {
                let words = std::fs::read_to_string(&started.log).unwrap_or_default();
                let message = format!("the process ended: {status}: {words}");
                WorkerState::Failed(PortError::new(ErrorKind::Interrupted, worker.action(), message))
            }
        })
    }

    async fn stop(&self, worker: &Worker) -> Result<(), PortError> {
        if let Some(mut started) = self.inner().workers.remove(&(worker.run, worker.part.clone())) {
            end(&mut started.child);
        }
        Ok(())
    }

    async fn forget(&self, run: RunId) -> Result<(), PortError> {
        let mut inner = self.inner();
        let ids: Vec<(RunId, String)> = inner.workers.keys().filter(|(of, _)| *of == run).cloned().collect();
        for id in ids {
            if let Some(mut started) = inner.workers.remove(&id) {
                end(&mut started.child);
            }
        }
        Ok(())
    }

    async fn probe(&self) -> Result<String, PortError> {
        Ok("processes of this machine".to_owned())
    }
}
