//! The gate: a challenger against the live model, on rows that neither was trained on.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use delayd_model::{Bundle, Predictor};
use serde::{Deserialize, Serialize};

use super::train::{LiveModel, TRAINING_DEADLINE, TrainingStage};
use crate::config::Settings;
use crate::supervision::Request;
use delayd_core::document::Document;
use delayd_core::error::{ErrorKind, chain};
use delayd_core::failure::{StepFailure, run_blocking};
use delayd_core::ids::{CycleId, DecisionId, Digest};
use delayd_data::TrainingSet;
use delayd_judge::decide::Weighed;
use delayd_judge::evaluation::gate::{ChallengerSeen, GateInputs, LatencyOfBoth, RowsCompared};
use delayd_judge::evaluation::report::{ScoringLatency, block_of, measure_latency};
use delayd_judge::evaluation::robustness::robustness;
use delayd_judge::evaluation::{GateRows, GateVerdict, LookupTable, Scored, compare, score_rows};
use delayd_ledger::NewDecision;
use delayd_training_job::policy::{Part, part_of};

/// Compares a challenger with the live model on the same held-out rows.
#[derive(Debug, Clone)]
pub struct CompareWithLive {
    /// On behalf of which cycle.
    pub cycle: CycleId,
    /// Where the rows come from.
    pub dataset: Digest,
    /// The challenger's bundle.
    pub challenger: Digest,
    /// The moment of the retrain.
    pub as_of: DateTime<Utc>,
}

impl Request for CompareWithLive {
    type Stage = TrainingStage;
    type Answer = GateAnswered;
    const DEADLINE: Duration = TRAINING_DEADLINE;

    async fn run(self, stage: &TrainingStage) -> Result<GateAnswered, StepFailure> {
        let set = stage.data.training_set(&self.dataset).await?;
        let live = stage.live_bundle().await?;
        let run = stage.env.ledger.cycle(self.cycle).await?.map(|cycle| cycle.run);
        if let Some(run) = run
            // The journal says that the bundle is here: nothing elsewhere is needed any more.
            && let Err(error) = stage.env.trainer.forget(run).await
        {
            tracing::warn!(run.id = %run, error = chain(&error), "what the trainer kept of the run stays behind");
        }
        let dir = run.map(|run| stage.run_dir(run)).unwrap_or_default();
        let comparison = Comparison {
            set,
            live,
            dir,
            challenger: self.challenger.clone(),
            settings: stage.settings.clone(),
            as_of: self.as_of,
        };
        let seed = self.cycle.0;
        let (verdict, inputs) = run_blocking(move || comparison.run(seed)).await??;
        let option = |name: &str, taken| Weighed { name: name.to_owned(), taken, why: String::new() };
        let decision = NewDecision {
            at: stage.env.now(),
            cycle: Some(self.cycle),
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
        let decision = stage.env.ledger.decide(decision).await?;
        Ok(GateAnswered { passed: verdict.passed, reason: verdict.reason, decision })
    }
}

/// The gate's answer, recorded as a decision.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GateAnswered {
    /// Whether the challenger goes on.
    pub passed: bool,
    /// One sentence.
    pub reason: String,
    /// Where the ledger keeps the inputs and every check.
    pub decision: DecisionId,
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
) -> Result<(Scored, Option<ScoringLatency>), StepFailure> {
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
