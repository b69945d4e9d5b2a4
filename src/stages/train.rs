//! Training a challenger in a worker beside the daemon.

use crate::supervision::Request;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use delayd_model::Bundle;
use serde::{Deserialize, Serialize};

use super::ingest::DataStage;
use crate::config::Settings;
use crate::env::Env;
use delayd_core::document::Document;
use delayd_core::error::ErrorKind;
use delayd_core::failure::{StepFailure, run_blocking};
use delayd_core::ids::{CycleId, Digest, ModelVersion, RunId};
use delayd_ledger::{Alias, Run, RunState};
use delayd_outside::bundles::BundleStore;
use delayd_outside::bundles::download_bundle;
use delayd_training_job::{Progress, TrainingControl, TrainingParameters, TuningParameters};
use delayd_training_job::{TrainingJob, TrainingResult};

/// The runs under way, each with what stops it. Clones share it, so that an actor that
/// was restarted can still stop what the one before it began.
#[derive(Debug, Clone, Default)]
pub struct RunningRuns(Arc<Mutex<HashMap<RunId, Arc<AtomicBool>>>>);

impl RunningRuns {
    fn runs(&self) -> MutexGuard<'_, HashMap<RunId, Arc<AtomicBool>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The flag of a run that begins.
    fn begin(&self, run: RunId) -> RunningRun {
        let cancel = Arc::new(AtomicBool::new(false));
        self.runs().insert(run, cancel.clone());
        RunningRun { runs: self.clone(), run, cancel }
    }

    /// Stops a run; answers whether it was under way here.
    fn cancel(&self, run: RunId) -> bool {
        let running = self.runs().get(&run).cloned();
        if let Some(cancel) = &running {
            cancel.store(true, Ordering::Relaxed);
        }
        running.is_some()
    }
}

/// A run under way; it is forgotten when this is dropped.
struct RunningRun {
    runs: RunningRuns,
    run: RunId,
    cancel: Arc<AtomicBool>,
}

impl Drop for RunningRun {
    fn drop(&mut self) {
        let mut runs = self.runs.runs();
        // A later attempt may have taken its place.
        if runs.get(&self.run).is_some_and(|cancel| Arc::ptr_eq(cancel, &self.cancel)) {
            runs.remove(&self.run);
        }
    }
}

/// Training that takes longer is given up for this attempt. Hangs are noticed sooner, by supervision.
pub(super) const TRAINING_DEADLINE: Duration = Duration::from_secs(12 * 3600);

/// The training's work, apart from its actor.
#[derive(Clone)]
pub struct TrainingStage {
    /// Clock, ledger and ports.
    pub env: Env,
    /// Configuration.
    pub settings: Arc<Settings>,
    /// Bundles on this machine.
    pub bundles: BundleStore,
    /// Where examples come from.
    pub data: DataStage,
    /// What stops the runs under way.
    pub running: RunningRuns,
}

impl TrainingStage {
    pub(super) fn run_dir(&self, run: RunId) -> PathBuf {
        self.settings.daemon.state_dir.join("runs").join(run.to_string())
    }

    /// Fetches a run's bundle into a folder of this machine.
    async fn bring_here(&self, run: RunId, result: &TrainingResult) -> Result<PathBuf, StepFailure> {
        let dir = self.run_dir(run).join("bundle");
        download_bundle(self.env.object_store.as_ref(), &result.bundle_prefix, &result.bundle, &dir).await?;
        Ok(dir)
    }

    /// News of a run goes to the log and, for `delayd cycles`, to the ledger.
    fn progress(&self, message: &TrainModel) -> impl Fn(&Progress) + Send + Sync + 'static {
        let (ledger, cycle, run) = (self.env.ledger.clone(), message.cycle, message.run);
        let runtime = tokio::runtime::Handle::current();
        let span = tracing::Span::current();
        move |progress| {
            let text = told(progress);
            // It is told from the run's own threads.
            span.in_scope(|| tracing::info!(run.id = %run, "{text}"));
            let ledger = ledger.clone();
            runtime.spawn(async move {
                if let Err(error) = ledger.step_progress(cycle, text).await {
                    tracing::warn!(error = %error, "progress could not be recorded");
                }
            });
        }
    }

    pub(super) async fn live_bundle(&self) -> Result<Option<LiveModel>, StepFailure> {
        let Some(model) = self.env.ledger.model_by_alias(Alias::Live).await? else { return Ok(None) };
        let (bundles, digest) = (self.bundles.clone(), model.bundle.clone());
        let bundle = run_blocking(move || bundles.read(&digest)).await?;
        let bundle = bundle.map_err(|error| StepFailure::of(error.kind(), &error))?;
        Ok(Some(LiveModel { version: model.version, digest: model.bundle, bundle: Arc::new(bundle) }))
    }

    /// Tuning is worth its time in the first cycle and in every n-th; in between
    /// the live model's parameters are taken on.
    fn tuning_for(&self, message: &TrainModel) -> Option<TuningParameters> {
        let every = u64::from(self.settings.tuning.every_cycles.max(1));
        let due = message.run.0.saturating_sub(1).is_multiple_of(every);
        due.then(|| self.settings.tuning.search.clone()).filter(|search| search.trials > 1)
    }

    /// The live model's parameters where tuning chose them, else the configured ones.
    fn parameters(&self, live: Option<&Bundle>) -> Result<TrainingParameters, StepFailure> {
        let configured = self.settings.training.clone();
        let Some(live) = live else { return Ok(configured) };
        let recorded = TrainedWith::deserialize(&live.training).map_err(|error| {
            StepFailure::new(
                ErrorKind::Corrupt,
                format!("the live bundle's training parameters cannot be read: {error}"),
            )
        })?;
        let TrainedWith { parameters: recorded } = recorded;
        // What tuning searches is taken on; all else is the administrator's word.
        Ok(TrainingParameters {
            learning_rate: recorded.learning_rate,
            hidden: recorded.hidden,
            blocks: recorded.blocks,
            dropout: recorded.dropout,
            weight_decay: recorded.weight_decay,
            batch_size: recorded.batch_size,
            ..configured
        })
    }

    async fn record(
        &self,
        message: &TrainModel,
        parameters: &TrainingParameters,
        state: RunState,
        result: Option<&TrainingResult>,
    ) -> Result<(), StepFailure> {
        let report = result.map(|result| &result.report);
        let run = Run {
            id: message.run,
            cycle: message.cycle,
            dataset: message.dataset.clone(),
            parameters: Document::of(parameters)?,
            seed: parameters.seed,
            device: report.map(|report| report.record.device.clone()).unwrap_or_default(),
            state,
            epochs: Document::of(&report.map(|report| report.epochs.clone()))?,
            trials: Document::of(&report.and_then(|report| report.tuning.clone()))?,
            metrics: result.map(|result| result.metrics.clone()).unwrap_or_default().into(),
            record: Document::of(&report.map(|report| report.record.clone()))?,
            started_at: message.as_of,
            finished_at: (state != RunState::Running).then(|| self.env.now()),
        };
        Ok(self.env.ledger.save_run(run).await?)
    }
}

fn remove(dir: &Path) -> Result<(), StepFailure> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StepFailure::new(ErrorKind::of_io(&error), format!("removing {}: {error}", dir.display())))
        }
        _ => Ok(()),
    }
}

fn told(progress: &Progress) -> String {
    match progress {
        Progress::Encoding { train_rows, tail_rows } => {
            format!("encoding {train_rows} rows, {tail_rows} to validate on")
        }
        Progress::TrialFinished { trial, trials, validation_log_loss } => match validation_log_loss {
            Some(loss) => format!("trial {} of {trials}: validation log-loss {loss:.4}", trial + 1),
            None => format!("trial {} of {trials} failed", trial + 1),
        },
        Progress::EpochFinished { max_epochs, record } => {
            format!(
                "epoch {} of at most {max_epochs}: validation log-loss {:.4}",
                record.epoch, record.validation_log_loss
            )
        }
        Progress::Packing => "weights are there; calibrating and packing".to_owned(),
        Progress::Waiting { what } => format!("waiting: {what}"),
    }
}

/// The model that serves now.
pub(super) struct LiveModel {
    pub(super) version: ModelVersion,
    digest: Digest,
    pub(super) bundle: Arc<Bundle>,
}

/// What is read of a bundle's training record: an earlier delayd's has other fields beside it.
#[derive(Deserialize)]
struct TrainedWith {
    parameters: TrainingParameters,
}

/// Tunes and trains a challenger. A run that was interrupted is asked for again: the same dataset and seed give the same
/// bundle.
#[derive(Debug, Clone)]
pub struct TrainModel {
    /// On behalf of which cycle.
    pub cycle: CycleId,
    /// The run's identity, minted with the cycle.
    pub run: RunId,
    /// What to learn from.
    pub dataset: Digest,
    /// The moment of the retrain: history is weighed from here.
    pub as_of: DateTime<Utc>,
}

impl Request for TrainModel {
    type Stage = TrainingStage;
    type Answer = ModelTrained;
    const DEADLINE: Duration = TRAINING_DEADLINE;

    async fn run(self, stage: &TrainingStage) -> Result<ModelTrained, StepFailure> {
        // Before the ledger is asked whether the cycle is to stop: whoever says so later finds the flag.
        let running = stage.running.begin(self.run);
        let cycle = stage.env.ledger.cycle(self.cycle).await?;
        if cycle.as_ref().is_some_and(|cycle| cycle.cancel.is_some()) {
            running.cancel.store(true, Ordering::Relaxed);
        }
        let set = stage.data.training_set(&self.dataset).await?;
        let live = stage.live_bundle().await?;
        let job = TrainingJob {
            run: self.run,
            cycle: self.cycle,
            as_of: self.as_of,
            dataset: self.dataset.clone(),
            inputs: set.inputs.clone(),
            timing: set.timing,
            parameters: stage.parameters(live.as_ref().map(|live| live.bundle.as_ref()))?,
            live: live.map(|live| live.digest),
            tuning: stage.tuning_for(&self),
            holdout: stage.settings.holdout.clone(),
            policy: stage.settings.training_policy.clone(),
            trace: cycle.map(|cycle| cycle.trace_id()),
        };
        stage.record(&self, &job.parameters, RunState::Running, None).await?;
        let began = Instant::now();
        let control = TrainingControl::new(running.cancel.clone(), stage.progress(&self));
        match stage.env.trainer.train(&job, &control).await {
            Ok(result) => {
                let path = stage.bring_here(self.run, &result).await?;
                let parameters = &result.report.record.parameters;
                stage.record(&self, parameters, RunState::Succeeded, Some(&result)).await?;
                Ok(ModelTrained {
                    run: self.run,
                    bundle: result.bundle,
                    path,
                    trained_rows: result.report.record.train_rows,
                    roc_auc: result.roc_auc,
                    train_secs: began.elapsed().as_secs_f64(),
                })
            }
            Err(error) => {
                let cancelled = error.kind() == ErrorKind::Cancelled;
                let state = if cancelled { RunState::Cancelled } else { RunState::Failed };
                stage.record(&self, &job.parameters, state, None).await?;
                Err(error.into())
            }
        }
    }
}

/// A bundle lies in the run's folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ModelTrained {
    /// The run.
    pub run: RunId,
    /// The bundle's digest.
    pub bundle: Digest,
    /// Where it lies until it is registered.
    pub path: PathBuf,
    /// Flights it learnt from.
    pub trained_rows: usize,
    /// ROC-AUC on the held-out rows.
    pub roc_auc: f64,
    /// Seconds of training, tuning included.
    pub train_secs: f64,
}

/// Undo of [`TrainModel`]: removes the run's folder; the run stays on record.
#[derive(Debug, Clone)]
pub struct DiscardRun {
    /// Which run.
    pub run: RunId,
}

impl Request for DiscardRun {
    type Stage = TrainingStage;
    type Answer = ();
    const DEADLINE: Duration = TRAINING_DEADLINE;

    async fn run(self, stage: &TrainingStage) -> Result<(), StepFailure> {
        stage.env.trainer.forget(self.run).await?;
        let dir = stage.run_dir(self.run);
        run_blocking(move || remove(&dir)).await?
    }
}

/// Stops a run that is under way; it ends as cancelled within a batch. One that is not under way here needs no stopping:
/// its cycle starts no further step.
#[derive(Debug, Clone)]
pub struct CancelRun {
    /// Which.
    pub run: RunId,
}

impl Request for CancelRun {
    type Stage = TrainingStage;
    type Answer = ();

    async fn run(self, stage: &TrainingStage) -> Result<(), StepFailure> {
        if stage.running.cancel(self.run) {
            tracing::info!(run.id = %self.run, "the run is stopped");
        }
        Ok(())
    }
}
