//! What training a challenger and comparing it with the live model do.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use chrono::{DateTime, Utc};
use delayd_features::FitOptions;
use delayd_model::{Bundle, Predictor};

use super::holdout::{Part, part_of};
use super::messages::{CompareWithLive, DiscardRun, GateAnswered, ModelTrained, TrainModel};
use super::run::{TrainedModel, TrainingInput, train};
use super::{Progress, TrainingControl, TrainingError, TrainingParameters, TuningParameters, run_on_thread};
use crate::config::Settings;
use crate::coordinator::training_policy::sample_weights;
use crate::data::{DataStage, Example, TrainingSet};
use crate::env::Env;
use crate::error::ErrorKind;
use crate::evaluation::report::block_of;
use crate::evaluation::robustness::robustness;
use crate::evaluation::score::score_rows;
use crate::evaluation::{
    EvaluationOptions, GateRows, GateVerdict, LookupTable, Majority, Scored, compare, evaluate, latency,
};
use crate::ids::{Digest, ModelVersion, RunId};
use crate::ledger::{Alias, NewDecision, Run, RunState};
use crate::registry::BundleStore;
use crate::saga::{StepFailure, run_blocking};

impl From<TrainingError> for StepFailure {
    fn from(error: TrainingError) -> Self {
        Self::of(error.kind(), &error)
    }
}

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
}

impl TrainingStage {
    fn run_dir(&self, run: RunId) -> PathBuf {
        self.settings.daemon.state_dir.join("runs").join(run.to_string())
    }

    /// Trains on a thread of its own. A run that was cut off is done again from
    /// the start: the same dataset and seed give the same bundle.
    pub(super) async fn train(&self, message: TrainModel) -> Result<ModelTrained, StepFailure> {
        let set = self.data.training_set(&message.dataset).await?;
        let live = self.live_bundle().await?.map(|(_, bundle)| bundle);
        let tuning = self.tuning_for(&message).await?;
        let parameters = self.parameters(live.as_deref())?;
        self.record(&message, &parameters, RunState::Running, None).await?;
        let job = Job {
            set,
            live,
            parameters: parameters.clone(),
            tuning,
            settings: self.settings.clone(),
            as_of: message.as_of,
            dataset: message.dataset.to_string(),
            dir: self.run_dir(message.run),
        };
        let began = Instant::now();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let control = TrainingControl::new(Arc::new(AtomicBool::new(false)), self.progress(&message));
        let thread = format!("train-{}", message.run);
        run_on_thread(
            &thread,
            move || job.run(&control),
            move |result| {
                // The receiver is gone only when the daemon is: nobody is left to tell.
                let _ = sender.send(result);
            },
        )?;
        let finished = receiver
            .await
            .map_err(|_| StepFailure::new(ErrorKind::Internal, "the training thread ended without an answer"))?;
        match finished {
            Ok(finished) => {
                self.record(
                    &message,
                    &finished.trained.report.record.parameters,
                    RunState::Succeeded,
                    Some(&finished.trained),
                )
                .await?;
                Ok(ModelTrained {
                    run: message.run,
                    bundle: finished.digest,
                    path: finished.path,
                    trained_rows: finished.trained.report.record.train_rows,
                    roc_auc: finished.roc_auc,
                    train_secs: began.elapsed().as_secs_f64(),
                })
            }
            Err(error) => {
                let state = if matches!(error, TrainingError::Cancelled { .. }) {
                    RunState::Cancelled
                } else {
                    RunState::Failed
                };
                self.record(&message, &parameters, state, None).await?;
                Err(error.into())
            }
        }
    }

    /// News of a run goes to the log and, for `delayd cycles`, to the ledger.
    fn progress(&self, message: &TrainModel) -> impl Fn(&Progress) + Send + Sync + 'static {
        let (ledger, cycle, run) = (self.env.ledger.clone(), message.cycle, message.run);
        let runtime = tokio::runtime::Handle::current();
        move |progress| {
            let text = told(progress);
            tracing::info!(run.id = %run, "{text}");
            let ledger = ledger.clone();
            runtime.spawn(async move {
                if let Err(error) = ledger.step_progress(cycle, crate::coordinator::cycle::TRAIN.position, text).await {
                    tracing::warn!(error = %error, "progress could not be recorded");
                }
            });
        }
    }

    async fn live_bundle(&self) -> Result<Option<(ModelVersion, Arc<Bundle>)>, StepFailure> {
        let Some(model) = self.env.ledger.model_by_alias(Alias::Live).await? else { return Ok(None) };
        let bundle = self.read_bundle(&model.bundle).await?;
        Ok(Some((model.version, Arc::new(bundle))))
    }

    async fn read_bundle(&self, digest: &Digest) -> Result<Bundle, StepFailure> {
        let (bundles, digest) = (self.bundles.clone(), digest.clone());
        let bundle = run_blocking(move || bundles.read(&digest)).await?;
        bundle.map_err(|error| StepFailure::of(error.kind(), &error))
    }

    /// Tuning is worth its time in the first cycle and in every n-th; in between
    /// the live model's parameters are taken on.
    async fn tuning_for(&self, message: &TrainModel) -> Result<Option<TuningParameters>, StepFailure> {
        let every = u64::from(self.settings.tuning.every_cycles.max(1));
        let due = message.run.0.saturating_sub(1).is_multiple_of(every);
        Ok(due.then(|| self.settings.tuning.search.clone()).filter(|search| search.trials > 1))
    }

    /// The live model's parameters where tuning chose them, else the configured ones.
    fn parameters(&self, live: Option<&Bundle>) -> Result<TrainingParameters, StepFailure> {
        let configured = self.settings.training.clone();
        let Some(live) = live else { return Ok(configured) };
        let recorded = live.training.get("parameters").cloned().unwrap_or_default();
        let recorded: TrainingParameters = serde_json::from_value(recorded).map_err(|error| {
            StepFailure::new(
                ErrorKind::Corrupt,
                format!("the live bundle's training parameters cannot be read: {error}"),
            )
        })?;
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
        trained: Option<&TrainedModel>,
    ) -> Result<(), StepFailure> {
        let json = |value: Result<serde_json::Value, serde_json::Error>| {
            value.map_err(|error| StepFailure::of(ErrorKind::Internal, &error))
        };
        let report = trained.map(|trained| &trained.report);
        let run = Run {
            id: message.run,
            cycle: message.cycle,
            dataset: message.dataset.clone(),
            parameters: json(serde_json::to_value(parameters))?,
            seed: parameters.seed,
            device: report.map(|report| report.record.device.clone()).unwrap_or_default(),
            state,
            epochs: json(serde_json::to_value(report.map(|report| &report.epochs)))?,
            trials: json(serde_json::to_value(report.map(|report| &report.tuning)))?,
            metrics: trained.map(|trained| trained.bundle.metrics.clone()).unwrap_or_default(),
            started_at: message.as_of,
            finished_at: (state != RunState::Running).then(|| self.env.now()),
        };
        Ok(self.env.ledger.save_run(run).await?)
    }

    /// Compares challenger and live model on the rows that neither learnt from.
    pub(super) async fn compare(&self, message: CompareWithLive) -> Result<GateAnswered, StepFailure> {
        let set = self.data.training_set(&message.dataset).await?;
        let live = self.live_bundle().await?;
        let dir = self.env.ledger.cycle(message.cycle).await?.map(|cycle| self.run_dir(cycle.run)).unwrap_or_default();
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
        let json = |value: Result<serde_json::Value, serde_json::Error>| {
            value.map_err(|error| StepFailure::of(ErrorKind::Internal, &error))
        };
        let decision = NewDecision {
            at: self.env.now(),
            cycle: Some(message.cycle),
            kind: "gate".to_owned(),
            inputs,
            tests: json(serde_json::to_value(&verdict.checks))?,
            alternatives: serde_json::json!([
                { "name": "deploy the challenger", "taken": verdict.passed },
                { "name": "keep the live model", "taken": !verdict.passed },
            ]),
            outcome: if verdict.passed { "deploy the challenger" } else { "keep the live model" }.to_owned(),
            reason: verdict.reason.clone(),
        };
        let decision = self.env.ledger.decide(decision).await?;
        Ok(GateAnswered { passed: verdict.passed, reason: verdict.reason, decision })
    }

    pub(super) async fn discard(&self, message: DiscardRun) -> Result<(), StepFailure> {
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
    }
}

/// One training job, on its own thread.
struct Job {
    set: Arc<TrainingSet>,
    live: Option<Arc<Bundle>>,
    parameters: TrainingParameters,
    tuning: Option<TuningParameters>,
    settings: Arc<Settings>,
    as_of: DateTime<Utc>,
    dataset: String,
    dir: PathBuf,
}

struct Finished {
    trained: TrainedModel,
    digest: Digest,
    path: PathBuf,
    roc_auc: f64,
}

impl Job {
    fn run(self, control: &TrainingControl) -> Result<Finished, TrainingError> {
        let holdout = &self.settings.holdout;
        let part = |wanted: &[Part]| -> Vec<Example> {
            let kept =
                self.set.examples.iter().filter(|example| wanted.contains(&part_of(example, self.as_of, holdout)));
            kept.cloned().collect()
        };
        let learnt = part(&[Part::Training]);
        let times: Vec<DateTime<Utc>> = learnt.iter().map(|example| example.prediction_time).collect();
        let weights = sample_weights(&times, self.as_of, &self.settings.training_policy);
        let fit = FitOptions { horizon_minutes: self.settings.ingestion.horizon_minutes, ..FitOptions::default() };
        let input = TrainingInput {
            examples: &learnt,
            sample_weights: Some(&weights),
            airports: &self.set.reference.airports,
            holidays: &self.set.reference.holidays,
            fit: &fit,
            dataset: Some(&self.dataset),
            previous: self.live.as_deref(),
        };
        let checked = self.parameters.clone().check()?;
        let mut trained = train(&input, &checked, self.tuning.as_ref(), control)?;
        let judged = part(&[Part::Recent, Part::Seasonal]);
        let roc_auc = self.evaluate(&mut trained, &learnt, &judged)?;
        let path = self.dir.join("bundle");
        remove(&self.dir).map_err(|failure| TrainingError::Folder(failure.message))?;
        let digest = trained.bundle.write_to(&path)?;
        let digest: Digest =
            digest.parse().map_err(|error: crate::ids::InvalidId| TrainingError::Folder(error.to_string()))?;
        Ok(Finished { trained, digest, path, roc_auc })
    }

    /// Puts the evaluation on the held-out rows beside the metrics. Latency is
    /// left to the gate: a measured time would give every run another digest.
    fn evaluate(
        &self,
        trained: &mut TrainedModel,
        learnt: &[Example],
        judged: &[Example],
    ) -> Result<f64, TrainingError> {
        let predictor = Predictor::from_bundle(&trained.bundle)?;
        let lookup = LookupTable::fit(learnt, &self.set.reference.airports);
        let options = EvaluationOptions { latency_calls: 0, ..EvaluationOptions::default() };
        let report = match evaluate(&predictor, judged, Majority::fit(learnt), &lookup, &options) {
            Ok(report) => report,
            Err(nothing) => {
                tracing::warn!(error = %nothing, "the model is judged by its validation tail alone");
                return Ok(trained.report.validation.roc_auc.unwrap_or(0.5));
            }
        };
        let roc_auc = report.model.roc_auc.unwrap_or(0.5);
        if let Some(metrics) = trained.bundle.metrics.as_object_mut() {
            metrics.insert("evaluation".to_owned(), serde_json::to_value(&report)?);
        }
        Ok(roc_auc)
    }
}

/// One comparison, off the actor's thread.
struct Comparison {
    set: Arc<TrainingSet>,
    live: Option<(ModelVersion, Arc<Bundle>)>,
    dir: PathBuf,
    challenger: Digest,
    settings: Arc<Settings>,
    as_of: DateTime<Utc>,
}

impl Comparison {
    fn run(self, seed: u64) -> Result<(GateVerdict, serde_json::Value), StepFailure> {
        let corrupt = |error: &(dyn std::error::Error + 'static)| StepFailure::of(ErrorKind::Corrupt, error);
        let (bundle, found) = Bundle::read_from(&self.dir.join("bundle")).map_err(|error| corrupt(&error))?;
        if found != self.challenger.as_str() {
            return Err(StepFailure::new(
                ErrorKind::Corrupt,
                format!("the run's folder holds bundle {found}, not {}", self.challenger),
            ));
        }
        let holdout = &self.settings.holdout;
        let parts: Vec<(&Example, Part)> =
            self.set.examples.iter().map(|example| (example, part_of(example, self.as_of, holdout))).collect();
        let judged: Vec<(&Example, Part)> =
            parts.iter().filter(|(_, part)| matches!(part, Part::Recent | Part::Seasonal)).copied().collect();
        let learnt = parts.iter().filter(|(_, part)| *part == Part::Training).map(|(example, _)| *example);
        let rows = GateRows {
            labels: judged.iter().map(|(example, _)| example.outcome.is_some_and(|outcome| outcome.delayed)).collect(),
            blocks: judged.iter().map(|(example, _)| block_of(example.prediction_time, 24)).collect(),
            recent: judged.iter().map(|(_, part)| *part == Part::Recent).collect(),
        };
        let lookup = LookupTable::fit(learnt, &self.set.reference.airports);
        let flights: Vec<&delayd_features::FlightRow> = judged.iter().map(|(example, _)| &example.row).collect();
        let lookup = Scored {
            name: "the lookup table".to_owned(),
            scores: flights.iter().map(|row| lookup.score(row)).collect(),
            threshold: 0.5,
            ..Scored::default()
        };
        let challenger = scored("the challenger", &bundle, &flights, &rows.labels)?;
        let live = match &self.live {
            Some((version, bundle)) => Some(scored(&version.to_string(), bundle, &flights, &rows.labels)?),
            None => None,
        };
        let verdict = compare(&rows, &challenger, live.as_ref(), &lookup, &self.settings.gate, seed);
        let inputs = serde_json::json!({
            "challenger": { "bundle": self.challenger, "latency_p95_us": challenger.latency_p95_us },
            "live": self.live.as_ref().map(|(version, _)| version),
            "feature_difference": self.live.as_ref().map(|(_, live)| bundle.features.difference_from(&live.features)),
            "dataset": self.set.version,
            "rows": { "recent": rows.recent.iter().filter(|recent| **recent).count(), "all": rows.labels.len() },
            "policy": self.settings.gate,
        });
        Ok((verdict, inputs))
    }
}

fn scored(
    name: &str,
    bundle: &Bundle,
    rows: &[&delayd_features::FlightRow],
    labels: &[bool],
) -> Result<Scored, StepFailure> {
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
    Ok(Scored {
        name: name.to_owned(),
        scores: score_rows(&predictor, rows),
        threshold: predictor.threshold(),
        latency_p95_us: latency::measure(&predictor, &sampled, LATENCY_CALLS).map(|measured| measured.per_row.p95_us),
        robustness,
    })
}
