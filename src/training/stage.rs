//! What training a challenger and comparing it with the live model do.

use super::messages::{CancelRun, CompareWithLive, DiscardRun, GateAnswered, ModelTrained, TrainModel};
use crate::supervision::{Request, StageActor};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use delayd_model::{Bundle, Predictor};
use serde::Deserialize;

use crate::config::Settings;
use crate::data::DataStage;
use crate::env::Env;
use delayd_core::document::Document;
use delayd_core::error::{ErrorKind, chain};
use delayd_core::failure::{StepFailure, run_blocking};
use delayd_core::ids::{Digest, ModelVersion, RunId};
use delayd_data::TrainingSet;
use delayd_judge::decide::Weighed;
use delayd_judge::evaluation::gate::{ChallengerSeen, GateInputs, LatencyOfBoth, RowsCompared};
use delayd_judge::evaluation::report::{LatencyReport, block_of, measure_latency};
use delayd_judge::evaluation::robustness::robustness;
use delayd_judge::evaluation::score_rows;
use delayd_judge::evaluation::{GateRows, GateVerdict, LookupTable, Scored, compare};
use delayd_ledger::{Alias, NewDecision, Run, RunState};
use delayd_outside::bundles::BundleStore;
use delayd_outside::bundles::download_bundle;
use delayd_training_job::policy::{Part, part_of};
use delayd_training_job::{BundlePlace, TrainingJob, TrainingResult};
use delayd_training_job::{Progress, TrainingControl, TrainingParameters, TuningParameters};

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
const TRAINING_DEADLINE: Duration = Duration::from_secs(12 * 3600);

/// The stage's actor.
pub type TrainingActor = StageActor<TrainingStage>;

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
    fn run_dir(&self, run: RunId) -> PathBuf {
        self.settings.daemon.state_dir.join("runs").join(run.to_string())
    }

    /// Has a model trained by whoever trains. A run that was cut off is asked for
    /// again: the same dataset and seed give the same bundle.
    pub(super) async fn train(&self, message: TrainModel) -> Result<ModelTrained, StepFailure> {
        // Before the ledger is asked whether the cycle is to stop: whoever says so later finds the flag.
        let running = self.running.begin(message.run);
        let cycle = self.env.ledger.cycle(message.cycle).await?;
        if cycle.as_ref().is_some_and(|cycle| cycle.cancel.is_some()) {
            running.cancel.store(true, Ordering::Relaxed);
        }
        let set = self.data.training_set(&message.dataset).await?;
        let live = self.live_bundle().await?;
        let job = TrainingJob {
            run: message.run,
            cycle: message.cycle,
            as_of: message.as_of,
            dataset: message.dataset.clone(),
            inputs: set.inputs.clone(),
            timing: set.timing,
            parameters: self.parameters(live.as_ref().map(|live| live.bundle.as_ref()))?,
            live: live.map(|live| live.digest),
            tuning: self.tuning_for(&message),
            holdout: self.settings.holdout.clone(),
            policy: self.settings.training_policy.clone(),
            trace: cycle.map(|cycle| cycle.trace_id()),
        };
        self.record(&message, &job.parameters, RunState::Running, None).await?;
        let began = Instant::now();
        let control = TrainingControl::new(running.cancel.clone(), self.progress(&message));
        match self.env.trainer.train(&job, &control).await {
            Ok(result) => {
                let path = self.bring_here(message.run, &result).await?;
                let parameters = &result.report.record.parameters;
                self.record(&message, parameters, RunState::Succeeded, Some(&result)).await?;
                Ok(ModelTrained {
                    run: message.run,
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
                self.record(&message, &job.parameters, state, None).await?;
                Err(error.into())
            }
        }
    }

    /// The folder of this machine where a run's bundle lies, fetched if need be.
    async fn bring_here(&self, run: RunId, result: &TrainingResult) -> Result<PathBuf, StepFailure> {
        match &result.place {
            BundlePlace::Folder(folder) => Ok(folder.clone()),
            BundlePlace::Store(prefix) => {
                let dir = self.run_dir(run).join("bundle");
                download_bundle(self.env.object_store.as_ref(), prefix, &result.bundle, &dir).await?;
                Ok(dir)
            }
        }
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
                if let Err(error) = ledger.step_progress(cycle, crate::cycle::steps::TRAIN.position, text).await {
                    tracing::warn!(error = %error, "progress could not be recorded");
                }
            });
        }
    }

    async fn live_bundle(&self) -> Result<Option<LiveModel>, StepFailure> {
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
        let recorded = LearntWith::deserialize(&live.training).map_err(|error| {
            StepFailure::new(
                ErrorKind::Corrupt,
                format!("the live bundle's training parameters cannot be read: {error}"),
            )
        })?;
        let LearntWith { parameters: recorded } = recorded;
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

    /// Compares challenger and live model on the rows that neither learnt from.
    pub(super) async fn compare(&self, message: CompareWithLive) -> Result<GateAnswered, StepFailure> {
        let set = self.data.training_set(&message.dataset).await?;
        let live = self.live_bundle().await?;
        let run = self.env.ledger.cycle(message.cycle).await?.map(|cycle| cycle.run);
        if let Some(run) = run
            // The journal says that the bundle is here: nothing elsewhere is needed any more.
            && let Err(error) = self.env.trainer.forget(run).await
        {
            tracing::warn!(run.id = %run, error = chain(&error), "what the trainer kept of the run stays behind");
        }
        let dir = run.map(|run| self.run_dir(run)).unwrap_or_default();
        let comparison = Comparison {
            set,
            live,
            dir,
            challenger: message.challenger.clone(),
            settings: self.settings.clone(),
            as_of: message.as_of,
        };
        let seed = message.cycle.0;
        let (verdict, inputs) = run_blocking(move || comparison.run(seed)).await??;
        let option = |name: &str, taken| Weighed { name: name.to_owned(), taken, why: String::new() };
        let decision = NewDecision {
            at: self.env.now(),
            cycle: Some(message.cycle),
            kind: "gate".to_owned(),
            inputs: Document::of(&inputs)?,
            tests: Document::of(&verdict.checks)?,
            alternatives: Document::of(&vec![
                option("deploy the challenger", verdict.passed),
                option("keep the live model", !verdict.passed),
            ])?,
            outcome: if verdict.passed { "deploy the challenger" } else { "keep the live model" }.to_owned(),
            reason: verdict.reason.clone(),
        };
        let decision = self.env.ledger.decide(decision).await?;
        Ok(GateAnswered { passed: verdict.passed, reason: verdict.reason, decision })
    }

    /// Stops a run. One that is not under way here needs no stopping: its cycle begins no further step.
    pub(super) fn cancel(&self, message: &CancelRun) {
        if self.running.cancel(message.run) {
            tracing::info!(run.id = %message.run, "the run is stopped");
        }
    }

    pub(super) async fn discard(&self, message: DiscardRun) -> Result<(), StepFailure> {
        self.env.trainer.forget(message.run).await?;
        let dir = self.run_dir(message.run);
        run_blocking(move || remove(&dir)).await?
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
struct LiveModel {
    version: ModelVersion,
    digest: Digest,
    bundle: Arc<Bundle>,
}

/// One comparison, off the actor's thread.
struct Comparison {
    set: TrainingSet,
    live: Option<LiveModel>,
    dir: PathBuf,
    challenger: Digest,
    settings: Arc<Settings>,
    as_of: DateTime<Utc>,
}

/// What is read of a bundle's training record: an earlier delayd's has other fields beside it.
#[derive(Deserialize)]
struct LearntWith {
    parameters: TrainingParameters,
}

impl Comparison {
    fn run(self, seed: u64) -> Result<(GateVerdict, GateInputs), StepFailure> {
        let corrupt = |error: &(dyn std::error::Error + 'static)| StepFailure::of(ErrorKind::Corrupt, error);
        let (bundle, found) = Bundle::read_from(&self.dir.join("bundle")).map_err(|error| corrupt(&error))?;
        if found != self.challenger.as_str() {
            return Err(StepFailure::new(
                ErrorKind::Corrupt,
                format!("the run's folder holds bundle {found}, not {}", self.challenger),
            ));
        }
        let (holdout, airports) = (&self.settings.holdout, &self.set.reference.airports);
        let (mut lookup, mut judged) = (LookupTable::empty(), Vec::new());
        for stretch in self.set.examples()? {
            for example in stretch? {
                match part_of(&example, self.as_of, holdout) {
                    Part::Training => lookup.count(&example, airports),
                    part @ (Part::Recent | Part::Seasonal) => judged.push((example, part)),
                    Part::Unknown => {}
                }
            }
        }
        let rows = GateRows {
            labels: judged.iter().map(|(example, _)| example.outcome.is_some_and(|outcome| outcome.delayed)).collect(),
            blocks: judged.iter().map(|(example, _)| block_of(example.prediction_time, 24)).collect(),
            recent: judged.iter().map(|(_, part)| *part == Part::Recent).collect(),
        };
        let flights: Vec<&delayd_features::FlightRow> = judged.iter().map(|(example, _)| &example.row).collect();
        let lookup = Scored {
            name: "the lookup table".to_owned(),
            scores: flights.iter().map(|row| lookup.score(row)).collect(),
            threshold: 0.5,
            ..Scored::default()
        };
        let (challenger, challenger_latency) = scored("the challenger", &bundle, &flights, &rows.labels)?;
        let (live, live_latency) = match &self.live {
            Some(live) => {
                let (live, latency) = scored(&live.version.to_string(), &live.bundle, &flights, &rows.labels)?;
                (Some(live), latency)
            }
            None => (None, None),
        };
        let verdict = compare(&rows, &challenger, live.as_ref(), &lookup, &self.settings.gate, seed);
        let inputs = GateInputs {
            challenger: ChallengerSeen { bundle: self.challenger, latency_p95_us: challenger.latency_p95_us },
            latency: LatencyOfBoth { challenger: challenger_latency, live: live_latency },
            live: self.live.as_ref().map(|live| live.version),
            feature_difference: self.live.as_ref().map(|live| bundle.features.difference_from(&live.bundle.features)),
            dataset: self.set.version.clone(),
            rows: RowsCompared { recent: rows.recent.iter().filter(|recent| **recent).count(), all: rows.labels.len() },
            policy: self.settings.gate.clone(),
        };
        Ok((verdict, inputs))
    }
}

/// A model on the rows, and how quick it is on this machine.
fn scored(
    name: &str,
    bundle: &Bundle,
    rows: &[&delayd_features::FlightRow],
    labels: &[bool],
) -> Result<(Scored, Option<LatencyReport>), StepFailure> {
    const ROBUSTNESS_ROWS: usize = 4000;
    const LATENCY_CALLS: usize = 1000;
    let predictor = Predictor::from_bundle(bundle).map_err(|error| StepFailure::of(ErrorKind::Corrupt, &error))?;
    let step = (rows.len() / ROBUSTNESS_ROWS).max(1);
    let sampled: Vec<&delayd_features::FlightRow> = rows.iter().copied().step_by(step).collect();
    let sampled_labels: Vec<bool> = labels.iter().copied().step_by(step).collect();
    let perturbed = robustness(&predictor, &sampled, &sampled_labels, 7);
    let robustness = perturbed
        .into_iter()
        .filter_map(|found| Some((found.perturbation.name().to_owned(), found.roc_auc?)))
        .collect();
    let measured = measure_latency(&predictor, &sampled, LATENCY_CALLS);
    let scored = Scored {
        name: name.to_owned(),
        scores: score_rows(&predictor, rows),
        threshold: predictor.threshold(),
        latency_p95_us: measured.as_ref().map(|measured| measured.per_row.p95_us),
        robustness,
    };
    Ok((scored, measured))
}

impl Request for TrainModel {
    type Stage = TrainingStage;
    type Answer = ModelTrained;
    const DEADLINE: Duration = TRAINING_DEADLINE;

    async fn run(self, stage: &TrainingStage) -> Result<ModelTrained, StepFailure> {
        stage.train(self).await
    }
}

impl Request for CompareWithLive {
    type Stage = TrainingStage;
    type Answer = GateAnswered;
    const DEADLINE: Duration = TRAINING_DEADLINE;

    async fn run(self, stage: &TrainingStage) -> Result<GateAnswered, StepFailure> {
        stage.compare(self).await
    }
}

impl Request for DiscardRun {
    type Stage = TrainingStage;
    type Answer = ();
    const DEADLINE: Duration = TRAINING_DEADLINE;

    async fn run(self, stage: &TrainingStage) -> Result<(), StepFailure> {
        stage.discard(self).await
    }
}

impl Request for CancelRun {
    type Stage = TrainingStage;
    type Answer = ();

    async fn run(self, stage: &TrainingStage) -> Result<(), StepFailure> {
        stage.cancel(&self);
        Ok(())
    }
}
