//! Trains in workers: processes beside the daemon, or Jobs of a cluster. It hands out
//! pieces of the job by documents in the object store, reads what came of them there, and takes the search's
//! decisions by the same functions as training on a thread does. Who runs the
//! workers is a [`WorkerPool`]'s business.
//!
//! Everything it knows lies in the object store and in the pool, so a daemon that
//! was killed finds its workers and their results again by asking for the same job.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};

use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::ids::{RunId, TraceId};
use delayd_core::ports::ObjectStore;
use delayd_training_job::documents::{
    FailureDocument, ProgressDocument, Work, WorkDocument, WorkPart, WorkResult, get_json, put_json, run_prefix,
};
use delayd_training_job::tune::{Search, TrialOutcome, TrialRecord, TrialTask};
use delayd_training_job::{
    CheckedParameters, Progress, Trainer, TrainingControl, TrainingJob, TrainingResult, TuningReport,
};

/// Checks in a row that may fail because something outside is unavailable; the saga waits
/// out what lasts longer.
const FAILED_CHECKS: u32 = 5;
/// Times that a worker that vanished without a word is started again.
const VANISHED: u32 = 3;

/// How workers are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitPolicy {
    /// Whether each trial of a search is a worker of its own; else one worker does the whole job.
    pub split_search: bool,
    /// Trials at a time, where they are.
    pub parallel_trials: usize,
    /// Pause between checks.
    pub poll: Duration,
    /// A worker that has not started after this long is given up.
    pub start_deadline: Duration,
}

/// Trains by workers of a pool.
#[derive(Debug)]
pub struct WorkerTrainer<P> {
    store: Arc<dyn ObjectStore>,
    pool: P,
    policy: WaitPolicy,
}

impl<P: WorkerPool> WorkerTrainer<P> {
    /// A trainer whose workers reach the same object store.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, pool: P, policy: WaitPolicy) -> Self {
        Self { store, pool, policy }
    }

    async fn run(&self, job: &TrainingJob, control: &TrainingControl) -> Result<TrainingResult, PortError> {
        let invalid = |error: &dyn std::error::Error| {
            PortError::new(ErrorKind::Invalid, job.action(), format!("its parameters cannot be used: {error}"))
        };
        let checked = job.parameters.clone().check().map_err(|faults| invalid(&faults))?;
        let split = self.policy.split_search;
        let part = match job.tuning.as_ref().filter(|tuning| split && tuning.trials > 1) {
            None => WorkPart::Whole,
            Some(tuning) => {
                let search = Search::new(&checked, tuning).map_err(|faults| invalid(&faults))?;
                let (best, report) = self.search(job, search, control).await?;
                WorkPart::Chosen { parameters: best.into_inner(), tuning: report }
            }
        };
        let (work, result) = self.done(job, part, control).await?;
        match result {
            WorkResult::Trained { bundle, roc_auc, metrics, report } => {
                let bundle_prefix = work.bundle_prefix(&bundle);
                Ok(TrainingResult { bundle, bundle_prefix, roc_auc, metrics, report: *report })
            }
            WorkResult::Trial { .. } => Err(other_result(job, &work)),
        }
    }

    async fn search(
        &self,
        job: &TrainingJob,
        mut search: Search,
        control: &TrainingControl,
    ) -> Result<(CheckedParameters, TuningReport), PortError> {
        loop {
            let tasks = search.tasks();
            if tasks.is_empty() {
                let result = search.result();
                return result.map_err(|faults| PortError::new(ErrorKind::Invalid, job.action(), faults.to_string()));
            }
            let trials = tasks.len();
            let round = futures::stream::iter(tasks.into_iter().map(|task| async move {
                let record = self.trial(job, task, control).await?;
                control.tell(&Progress::trial_finished(&record, trials));
                Ok::<TrialRecord, PortError>(record)
            }));
            let records = round.buffer_unordered(self.policy.parallel_trials.max(1)).try_collect().await?;
            search.finish_round(records);
        }
    }

    /// A candidate too large for its worker has lost; anything else that goes wrong
    /// outside concerns all of them.
    async fn trial(
        &self,
        job: &TrainingJob,
        task: TrialTask,
        control: &TrainingControl,
    ) -> Result<TrialRecord, PortError> {
        let part = WorkPart::Trial { task: task.clone() };
        match self.done(job, part.clone(), control).await {
            Ok((_, WorkResult::Trial { record })) => Ok(*record),
            Ok((work, WorkResult::Trained { .. })) => Err(other_result(job, &work)),
            Err(error) if error.kind() == ErrorKind::Exhausted => {
                let record = task.ended(TrialOutcome::Failed { reason: chain(&error) }, 0.0);
                let work = WorkDocument::new(job.clone(), part).work()?;
                put_json(
                    self.store.as_ref(),
                    &work.result_key(),
                    &WorkResult::Trial { record: Box::new(record.clone()) },
                )
                .await?;
                Ok(record)
            }
            Err(error) => Err(error),
        }
    }

    /// What an earlier attempt failed with must not be taken for this one's failure.
    async fn start(&self, worker: &Worker) -> Result<(), PortError> {
        self.store.delete(&worker.work.failure_key()).await?;
        self.pool.start(worker).await
    }

    /// What came of a part, found or waited for.
    async fn done(
        &self,
        job: &TrainingJob,
        part: WorkPart,
        control: &TrainingControl,
    ) -> Result<(Work, WorkResult), PortError> {
        let store = self.store.as_ref();
        let name = part.name();
        let document = WorkDocument::new(job.clone(), part);
        let work = document.work()?;
        if let Some(result) = get_json(store, &work.result_key()).await? {
            return Ok((work, result));
        }
        document.store(store).await?;
        let worker = Worker { run: job.run, part: name, work, trace: job.trace };
        self.start(&worker).await?;
        let result = Watch::new(self, &worker, control).until_done().await?;
        Ok((worker.work, result))
    }
}

fn other_result(job: &TrainingJob, work: &Work) -> PortError {
    let message = format!("{} is the result of other work; remove it", work.result_key());
    PortError::new(ErrorKind::Corrupt, job.action(), message)
}

/// What one check of a worker showed.
enum Seen {
    Done(Box<WorkResult>),
    Going,
    Vanished,
    GivenUp(PortError),
}

/// Waits for one worker.
struct Watch<'a, P> {
    trainer: &'a WorkerTrainer<P>,
    worker: &'a Worker,
    control: &'a TrainingControl,
    told: u64,
    waiting: Option<(Instant, String)>,
    ended_without_result: u32,
}

impl<'a, P: WorkerPool> Watch<'a, P> {
    fn new(trainer: &'a WorkerTrainer<P>, worker: &'a Worker, control: &'a TrainingControl) -> Self {
        Self { trainer, worker, control, told: 0, waiting: None, ended_without_result: 0 }
    }

    fn error(&self, kind: ErrorKind, message: impl Into<String>) -> PortError {
        PortError::new(kind, self.worker.action(), message)
    }

    async fn until_done(mut self) -> Result<WorkResult, PortError> {
        let pool = &self.trainer.pool;
        let (mut failed_checks, mut vanished) = (0, 0);
        loop {
            if self.control.is_cancelled() {
                pool.stop(self.worker).await?;
                return Err(self.error(ErrorKind::Cancelled, "it was cancelled"));
            }
            match self.check().await {
                Ok(Seen::Done(result)) => return Ok(*result),
                Ok(Seen::Going) => failed_checks = 0,
                Ok(Seen::Vanished) if vanished < VANISHED => {
                    vanished += 1;
                    tracing::warn!(worker = %self.worker, "the worker is gone without a result and is started again");
                    self.trainer.start(self.worker).await?;
                }
                Ok(Seen::Vanished) => {
                    let message = format!("it was removed {} times before it had a result", VANISHED + 1);
                    return Err(self.error(ErrorKind::Interrupted, message));
                }
                Ok(Seen::GivenUp(error)) => return Err(error),
                Err(error) if error.is_retryable() && failed_checks < FAILED_CHECKS => {
                    failed_checks += 1;
                    tracing::warn!(worker = %self.worker, error = chain(&error), "cannot be checked now");
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(self.trainer.policy.poll).await;
        }
    }

    async fn check(&mut self) -> Result<Seen, PortError> {
        let store = self.trainer.store.as_ref();
        let work = &self.worker.work;
        // The state first: what ended by then has written its documents.
        let state = self.trainer.pool.state(self.worker).await?;
        if let Some(result) = get_json(store, &work.result_key()).await? {
            return Ok(Seen::Done(Box::new(result)));
        }
        let failure: Option<FailureDocument> = get_json(store, &work.failure_key()).await?;
        match state {
            WorkerState::Absent => Ok(Seen::Vanished),
            WorkerState::Succeeded => Ok(self.ended_without_result()),
            WorkerState::Failed(error) => Ok(Seen::GivenUp(self.combined_failure(failure, error))),
            WorkerState::Waiting(why) => self.waiting(why).await,
            WorkerState::Running => {
                self.waiting = None;
                if let Some(failure) = failure.filter(|failure| is_final(failure.kind)) {
                    // Once more would fail the same way.
                    self.trainer.pool.stop(self.worker).await?;
                    return Ok(Seen::GivenUp(self.error(failure.kind, failure.message)));
                }
                self.report_progress().await?;
                Ok(Seen::Going)
            }
        }
    }

    fn ended_without_result(&mut self) -> Seen {
        self.ended_without_result += 1;
        if self.ended_without_result < FAILED_CHECKS {
            return Seen::Going;
        }
        let key = self.worker.work.result_key();
        let message =
            format!("it ended well, but {key} is not there; workers must reach the daemon's own object store");
        Seen::GivenUp(self.error(ErrorKind::Corrupt, message))
    }

    /// The worker's own words and the pool's.
    fn combined_failure(&self, failure: Option<FailureDocument>, error: PortError) -> PortError {
        match failure {
            // A worker that was told to stop, by a drained node perhaps, says nothing of why.
            Some(failure) if failure.kind != ErrorKind::Cancelled => {
                self.error(failure.kind, format!("{}; {}", failure.message, error.message()))
            }
            _ => error,
        }
    }

    async fn waiting(&mut self, why: String) -> Result<Seen, PortError> {
        let since = match &self.waiting {
            Some((since, before)) if *before == why => *since,
            before => {
                self.control.tell(&Progress::Waiting { what: format!("{}: {why}", self.worker.part) });
                before.as_ref().map_or_else(Instant::now, |(since, _)| *since)
            }
        };
        let limit = self.trainer.policy.start_deadline;
        self.waiting = Some((since, why.clone()));
        if since.elapsed() < limit {
            return Ok(Seen::Going);
        }
        self.trainer.pool.stop(self.worker).await?;
        let message = format!("it did not start within {} s: {why}", limit.as_secs());
        Ok(Seen::GivenUp(self.error(ErrorKind::Timeout, message)))
    }

    async fn report_progress(&mut self) -> Result<(), PortError> {
        let key = self.worker.work.progress_key();
        let news: Option<ProgressDocument> = get_json(self.trainer.store.as_ref(), &key).await?;
        if let Some(news) = news.filter(|news| news.number != self.told) {
            self.told = news.number;
            self.control.tell(&news.progress);
        }
        Ok(())
    }
}

/// Whether a worker that failed so would fail the same way again. A worker that was
/// told to stop from outside is started again by its pool.
fn is_final(kind: ErrorKind) -> bool {
    !kind.is_retryable() && kind != ErrorKind::Cancelled
}

#[async_trait]
impl<P: WorkerPool> Trainer for WorkerTrainer<P> {
    async fn train(&self, job: &TrainingJob, control: &TrainingControl) -> Result<TrainingResult, PortError> {
        let result = self.run(job, control).await;
        if control.is_cancelled() {
            // The trials that ran beside the one that noticed.
            self.pool.forget(job.run).await?;
        }
        result
    }

    async fn forget(&self, run: RunId) -> Result<(), PortError> {
        self.pool.forget(run).await?;
        for object in self.store.list(&run_prefix(run)).await? {
            self.store.delete(&object.key).await?;
        }
        Ok(())
    }

    async fn probe(&self) -> Result<String, PortError> {
        self.pool.probe().await
    }
}

/// One worker, by its place in a run. Its name is the same after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// For which run.
    pub run: RunId,
    /// Which part: `training`, `trial-2-round-0`.
    pub part: String,
    /// Where its documents lie. Two workers of the same name and other work are told
    /// apart by it.
    pub work: Work,
    /// The trace that its log belongs to.
    pub trace: Option<TraceId>,
}

impl Worker {
    /// What an error of this worker says was being done.
    #[must_use]
    pub fn action(&self) -> String {
        format!("training {}, worker `{}`", self.run, self.part)
    }
}

impl fmt::Display for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.run, self.part)
    }
}

/// How a worker is doing.
#[derive(Debug)]
pub enum WorkerState {
    /// There is none: it never was, or somebody removed it.
    Absent,
    /// Not started yet, and why.
    Waiting(String),
    /// At work, or between two attempts.
    Running,
    /// Ended well.
    Succeeded,
    /// Ended otherwise, and will not be tried again.
    Failed(PortError),
}

/// Runs `delayd-train` somewhere.
///
/// Contract: `start` of a worker that runs or succeeded changes nothing, one that
/// failed, or did other work under the same name, is replaced; `stop` and `forget` of
/// what is not there are no errors, and after them nothing runs.
#[async_trait]
pub trait WorkerPool: Send + Sync + fmt::Debug {
    /// Starts a worker.
    async fn start(&self, worker: &Worker) -> Result<(), PortError>;
    /// How it is doing.
    async fn state(&self, worker: &Worker) -> Result<WorkerState, PortError>;
    /// Stops and removes a worker.
    async fn stop(&self, worker: &Worker) -> Result<(), PortError>;
    /// Stops and removes every worker of a run.
    async fn forget(&self, run: RunId) -> Result<(), PortError>;
    /// Whether workers could be run. Changes nothing.
    async fn probe(&self) -> Result<String, PortError>;
}
