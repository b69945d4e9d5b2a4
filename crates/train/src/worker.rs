//! A worker: one piece of a training job, done wherever the object store can be
//! reached. `delayd-train` is its program.
//!
//! The worker reads its document, the dataset, what was frozen with it and the live
//! bundle from the object store, checks every digest, and writes what came of it
//! beside the document. The result is written last and only once: a worker that
//! finds one has nothing to do, and of two workers with the same document the first
//! counts. It decides nothing and knows nothing of who started it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use delayd_model::Bundle;
use tokio::sync::watch;

use super::job::JobInputs;
use super::{TrainingError, run_on_thread};
use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::ports::ObjectStore;
use delayd_data::training_sets::{TrainingSet, load_training_set};
use delayd_outside::bundles::{bundle_prefix, download_bundle, upload_bundle};
use delayd_training_job::documents::{
    FailureDocument, ProgressDocument, Work, WorkDocument, WorkPart, WorkResult, get_json, put_json,
};
use delayd_training_job::{Progress, TrainingControl, TrainingJob, TuningParameters};

/// News of a run are written no more often than this.
const PROGRESS_PAUSE: Duration = Duration::from_secs(1);

/// How a worker ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkEnd {
    /// The work is done and its result written.
    Done,
    /// An earlier worker had done it.
    Found,
}

/// Does the work of the document at `key`. `scratch` is a folder of this worker's
/// own. A failure is written beside the document, too.
///
/// # Errors
/// What went wrong; `Cancelled` when `cancel` was set.
pub async fn run_work(
    store: Arc<dyn ObjectStore>,
    key: &str,
    scratch: &Path,
    cancel: Arc<AtomicBool>,
) -> Result<WorkEnd, PortError> {
    let work = Work::at_document(key)?;
    let ended = do_work(store.clone(), &work, scratch, cancel).await;
    if let Err(error) = &ended {
        let failure = FailureDocument { kind: error.kind(), message: chain(error) };
        if let Err(unwritten) = put_json(store.as_ref(), &work.failure_key(), &failure).await {
            tracing::warn!(error = chain(&unwritten), "the failure could not be written beside the document");
        }
    }
    ended
}

async fn do_work(
    store: Arc<dyn ObjectStore>,
    work: &Work,
    scratch: &Path,
    cancel: Arc<AtomicBool>,
) -> Result<WorkEnd, PortError> {
    let document = WorkDocument::read(store.as_ref(), work).await?;
    if get_json::<WorkResult>(store.as_ref(), &work.result_key()).await?.is_some() {
        return Ok(WorkEnd::Found);
    }
    // What an earlier attempt failed with is not this one's failure.
    store.delete(&work.failure_key()).await?;
    let job = &document.job;
    tracing::info!(cycle.id = %job.cycle, run.id = %job.run, training.part = document.part.name(), "the work begins");
    let set = load_training_set(&store, &job.dataset, &job.inputs, job.timing).await;
    let set = set.map_err(|error| PortError::new(error.kind(), job.action(), chain(&error)))?;
    let live = match &job.live {
        Some(digest) => {
            let dir = scratch.join("live");
            Some(download_bundle(store.as_ref(), &bundle_prefix(digest), digest, &dir).await?)
        }
        None => None,
    };
    let bundle_dir = scratch.join("bundle");
    let (news, told) = watch::channel(None);
    let telling = tokio::spawn(tell_progress(store.clone(), work.progress_key(), told));
    let control = TrainingControl::new(cancel, move |progress| news_of(&news, progress));
    let computed = Computation { document: document.clone(), set, live, dir: bundle_dir.clone() }.run(control).await;
    telling.abort();
    let result = computed?;
    if let WorkResult::Trained { bundle, .. } = &result {
        upload_bundle(store.as_ref(), &bundle_dir, &work.bundle_prefix(bundle)).await?;
    }
    put_json(store.as_ref(), &work.result_key(), &result).await?;
    Ok(WorkEnd::Done)
}

/// What is computed once everything is here.
struct Computation {
    document: WorkDocument,
    set: TrainingSet,
    live: Option<Bundle>,
    dir: std::path::PathBuf,
}

impl Computation {
    /// On a thread of its own, so that a panic of libtorch is an error here.
    async fn run(self, control: TrainingControl) -> Result<WorkResult, PortError> {
        let action = self.document.job.action();
        let failed = |error: &TrainingError| PortError::new(error.kind(), action.as_str(), chain(error));
        let (sender, receiver) = tokio::sync::oneshot::channel();
        run_on_thread(
            "training",
            move || self.compute(&control),
            move |result| {
                // The receiver is gone only when the process is ending.
                let _ = sender.send(result);
            },
        )
        .map_err(|error| failed(&error))?;
        let ended = receiver.await.map_err(|_| {
            PortError::new(ErrorKind::Internal, action.as_str(), "the training thread ended without an answer")
        })?;
        ended.map_err(|error| failed(&error))
    }

    fn compute(self, control: &TrainingControl) -> Result<WorkResult, TrainingError> {
        let Self { document: WorkDocument { job, part, .. }, set, live, dir } = self;
        let inputs = |job| JobInputs { job, set: &set, live: live.as_ref() };
        let (job, tuned) = match part {
            WorkPart::Trial { task } => {
                let budget = job.tuning.clone().unwrap_or_else(TuningParameters::default);
                let record = inputs(&job).run_trial(&budget, &task, control)?;
                return Ok(WorkResult::Trial { record: Box::new(record) });
            }
            WorkPart::Whole => (job, None),
            WorkPart::Chosen { parameters, tuning } => (TrainingJob { parameters, tuning: None, ..job }, Some(tuning)),
        };
        let finished = inputs(&job).train_into(&dir, control)?;
        let mut report = finished.trained.report;
        report.tuning = tuned.or(report.tuning);
        Ok(WorkResult::Trained {
            bundle: finished.bundle,
            roc_auc: finished.roc_auc,
            metrics: finished.trained.bundle.metrics,
            report: Box::new(report),
        })
    }
}

fn news_of(news: &watch::Sender<Option<ProgressDocument>>, progress: &Progress) {
    news.send_modify(|last| {
        let number = last.as_ref().map_or(0, |last| last.number) + 1;
        *last = Some(ProgressDocument { number, progress: progress.clone() });
    });
}

/// Writes the last news now and then. News that cannot be written are no failure of
/// the training.
async fn tell_progress(store: Arc<dyn ObjectStore>, key: String, mut news: watch::Receiver<Option<ProgressDocument>>) {
    while news.changed().await.is_ok() {
        let Some(last) = news.borrow_and_update().clone() else { continue };
        if let Err(error) = put_json(store.as_ref(), &key, &last).await {
            tracing::warn!(error = chain(&error), "progress could not be written");
        }
        tokio::time::sleep(PROGRESS_PAUSE).await;
    }
}
