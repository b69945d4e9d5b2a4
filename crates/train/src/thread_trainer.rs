//! Trains on a thread of this process: nothing else is needed, and nothing of a run
//! survives the process. A run that was cut off is done again from the start.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use delayd_model::Bundle;

use delayd_data::training_sets::{TrainingSet, TrainingSets, load_training_set};
use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::ids::RunId;
use delayd_training_job::{BundlePlace, Trainer, TrainingJob, TrainingResult};
use delayd_core::ports::ObjectStore;
use delayd_outside::bundles::BundleStore;
use delayd_outside::bundles::{bundle_prefix, download_bundle};
use crate::job::{FinishedJob, JobInputs};
use delayd_training_job::TrainingControl;
use crate::{TrainingError, run_on_thread};

/// Trains here.
#[derive(Debug)]
pub struct ThreadTrainer {
    store: Arc<dyn ObjectStore>,
    sets: TrainingSets,
    bundles: BundleStore,
    runs_dir: PathBuf,
    attempts: AtomicU64,
    running: Mutex<BTreeMap<RunId, Arc<AtomicBool>>>,
}

impl ThreadTrainer {
    /// A trainer that leaves each run's bundle in `runs_dir/<run>/bundle`. `sets` is
    /// shared with the data stage, so that no dataset is read twice.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, sets: TrainingSets, bundles: BundleStore, runs_dir: PathBuf) -> Self {
        Self { store, sets, bundles, runs_dir, attempts: AtomicU64::new(0), running: Mutex::default() }
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<RunId, Arc<AtomicBool>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn set(&self, job: &TrainingJob) -> Result<Arc<TrainingSet>, PortError> {
        let load = || load_training_set(self.store.as_ref(), &job.dataset, &job.inputs, job.timing);
        let read = async {
            let kept = self.sets.get_or(&job.dataset, load()).await?;
            let same = kept.inputs == job.inputs && kept.timing == job.timing;
            if same { Ok(kept) } else { load().await.map(Arc::new) }
        };
        read.await
            .map_err(|failure: delayd_core::failure::StepFailure| PortError::new(failure.kind, job.action(), failure.message))
    }

    /// The live bundle as this machine has it, or from the object store.
    async fn live(&self, job: &TrainingJob) -> Result<Option<Bundle>, PortError> {
        let Some(digest) = job.live.clone() else { return Ok(None) };
        let dir = self.bundles.path_of(&digest);
        if !dir.exists() {
            return download_bundle(self.store.as_ref(), &bundle_prefix(&digest), &digest, &dir).await.map(Some);
        }
        let bundles = self.bundles.clone();
        let read = blocking(job, move || bundles.read(&digest)).await?;
        read.map(Some).map_err(|error| PortError::new(error.kind(), job.action(), chain(&error)))
    }
}

async fn blocking<T: Send + 'static>(
    job: &TrainingJob,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, PortError> {
    let failed = |error: tokio::task::JoinError| PortError::new(ErrorKind::Internal, job.action(), error.to_string());
    delayd_core::spans::spawn_blocking(work).await.map_err(failed)
}

/// Stops the thread when the call that waits for it is dropped.
struct StopWhenDropped<'a> {
    trainer: &'a ThreadTrainer,
    run: RunId,
    cancel: Arc<AtomicBool>,
    ended: bool,
}

impl Drop for StopWhenDropped<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.cancel.store(true, Ordering::Relaxed);
        }
        let mut running = self.trainer.running();
        if running.get(&self.run).is_some_and(|cancel| Arc::ptr_eq(cancel, &self.cancel)) {
            running.remove(&self.run);
        }
    }
}

#[async_trait]
impl Trainer for ThreadTrainer {
    async fn train(&self, job: &TrainingJob, control: &TrainingControl) -> Result<TrainingResult, PortError> {
        let set = self.set(job).await?;
        let live = self.live(job).await?;
        let run_dir = self.runs_dir.join(job.run.to_string());
        // A thread of an earlier attempt may still be ending: each writes elsewhere.
        let attempt = run_dir.join(format!("attempt-{}", self.attempts.fetch_add(1, Ordering::Relaxed)));
        let of_training = |error: &TrainingError| PortError::new(error.kind(), job.action(), chain(error));
        if control.is_cancelled() {
            return Err(of_training(&TrainingError::Cancelled { epoch: 0 }));
        }
        let mut stop = StopWhenDropped { trainer: self, run: job.run, cancel: control.cancel.clone(), ended: false };
        self.running().insert(job.run, control.cancel.clone());
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let (work, dir, control) = (job.clone(), attempt.clone(), control.clone());
        let train = move || {
            remove(&dir).map_err(|error| TrainingError::Folder(format!("{}: {error}", dir.display())))?;
            JobInputs { job: &work, set: &set, live: live.as_ref() }.train_into(&dir, &control)
        };
        let name = format!("train-{}", job.run);
        run_on_thread(&name, train, move |result| {
            // The receiver is gone only when nobody waits any more.
            let _ = sender.send(result);
        })
        .map_err(|error| of_training(&error))?;
        let ended = receiver.await.map_err(|_| {
            PortError::new(ErrorKind::Internal, job.action(), "the training thread ended without an answer")
        })?;
        stop.ended = true;
        let FinishedJob { trained, bundle, roc_auc } = ended.map_err(|error| of_training(&error))?;
        let folder = run_dir.join("bundle");
        let moved = blocking(job, {
            let folder = folder.clone();
            move || remove(&folder).and_then(|()| std::fs::rename(&attempt, &folder))
        });
        moved.await?.map_err(|error| PortError::io(format!("{}: moving the bundle", job.action()), error))?;
        let metrics = trained.bundle.metrics;
        Ok(TrainingResult { bundle, place: BundlePlace::Folder(folder), roc_auc, metrics, report: trained.report })
    }

    async fn forget(&self, run: RunId) -> Result<(), PortError> {
        if let Some(cancel) = self.running().remove(&run) {
            cancel.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn probe(&self) -> Result<String, PortError> {
        Ok("threads of this process".to_owned())
    }
}

fn remove(dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
