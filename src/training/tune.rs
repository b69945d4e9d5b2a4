//! The search for better parameters, under a budget of trials and wall time.
//!
//! Trial 0 is always what is in use now, so that the search can only win. All
//! candidates are drawn before the first one runs; successive halving (Jamieson &
//! Talwalkar 2016) gives every trial one short run and only the best third a run
//! three times as long, and so on. Bounded by trials alone, the outcome depends on
//! rows, parameters and seed; a wall-clock bound makes it depend on the machine.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use delayd_model::Architecture;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::chain;
use crate::training::control::{Progress, TrainingControl};
use crate::training::error::TrainingError;
use crate::training::params::{CheckedParameters, ParameterFault, ParameterFaults, TrainingParameters};
use crate::training::threads;
use crate::training::trainer::{Start, TrainingSets, derived_seed, fit_members};
use crate::training::weights::fresh;

/// What each halving divides the trials by and multiplies the epochs with.
const HALVING: usize = 3;

/// The values among which the search draws.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SearchSpace {
    /// Lowest and highest learning rate, drawn on a logarithmic scale.
    pub learning_rate: [f64; 2],
    /// Widths.
    pub hidden: Vec<usize>,
    /// Numbers of blocks.
    pub blocks: Vec<usize>,
    /// Lowest and highest dropout.
    pub dropout: [f64; 2],
    /// Lowest and highest weight decay, drawn on a logarithmic scale.
    pub weight_decay: [f64; 2],
    /// Batch sizes.
    pub batch_size: Vec<usize>,
}

impl Default for SearchSpace {
    fn default() -> Self {
        Self {
            learning_rate: [5e-4, 6e-3],
            hidden: vec![64, 96, 128, 192],
            blocks: vec![1, 2, 3],
            dropout: [0.05, 0.4],
            weight_decay: [1e-4, 1e-1],
            batch_size: vec![512, 1024, 2048],
        }
    }
}

/// The budget of a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TuningParameters {
    /// Candidates, trial 0 included; 0 or 1 means no search.
    pub trials: usize,
    /// No trial starts, and running ones stop, after this; `None` for no bound.
    pub wall_time_secs: Option<u64>,
    /// Epochs of the first round.
    pub first_epochs: usize,
    /// Whether only the best third goes on to longer runs; otherwise all get the full run.
    pub halving: bool,
    /// Training rows per trial, at most, evenly spaced.
    pub max_rows: usize,
    /// Trials at a time; 0 for as many as there are training threads.
    pub parallel: usize,
    /// What is drawn from.
    pub space: SearchSpace,
}

impl Default for TuningParameters {
    fn default() -> Self {
        Self {
            trials: 0,
            wall_time_secs: Some(300),
            first_epochs: 1,
            halving: true,
            max_rows: 100_000,
            parallel: 0,
            space: SearchSpace::default(),
        }
    }
}

impl TuningParameters {
    /// Checks every value.
    ///
    /// # Errors
    /// Names every value that cannot be used.
    pub fn check(&self) -> Result<(), ParameterFaults> {
        let mut faults = Vec::new();
        let mut expect = |holds: bool, key: &'static str, given: String, expected: &'static str| {
            if !holds {
                faults.push(ParameterFault { key, given, expected });
            }
        };
        let ordered = |range: [f64; 2], lowest: f64| range[0] > lowest && range[0] <= range[1] && range[1].is_finite();
        let space = &self.space;
        let rate = space.learning_rate;
        expect(self.trials <= 1000, "tuning.trials", self.trials.to_string(), "at most 1000 trials");
        expect(self.first_epochs > 0, "tuning.first_epochs", self.first_epochs.to_string(), "at least 1 epoch");
        expect(self.max_rows >= 100, "tuning.max_rows", self.max_rows.to_string(), "at least 100 rows");
        expect(
            ordered(rate, 0.0) && rate[1] <= 1.0,
            "tuning.space.learning_rate",
            format!("{rate:?}"),
            "[low, high] above 0, at most 1",
        );
        let decay = space.weight_decay;
        expect(ordered(decay, 0.0), "tuning.space.weight_decay", format!("{decay:?}"), "[low, high] above 0");
        let dropout = space.dropout;
        let holds = ordered(dropout, -f64::MIN_POSITIVE) && dropout[1] < 1.0;
        expect(holds, "tuning.space.dropout", format!("{dropout:?}"), "[low, high] from 0 to below 1");
        let filled =
            |values: &[usize], lowest: usize| !values.is_empty() && values.iter().all(|value| *value >= lowest);
        let positive = "at least one value, each at least 1";
        expect(filled(&space.hidden, 1), "tuning.space.hidden", format!("{:?}", space.hidden), positive);
        expect(filled(&space.blocks, 0), "tuning.space.blocks", format!("{:?}", space.blocks), "at least one value");
        expect(filled(&space.batch_size, 1), "tuning.space.batch_size", format!("{:?}", space.batch_size), positive);
        if faults.is_empty() { Ok(()) } else { Err(ParameterFaults(faults)) }
    }
}

/// One run of one candidate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrialRecord {
    /// Which candidate; 0 is what is in use now.
    pub trial: usize,
    /// Which round of the halving, from 0.
    pub round: usize,
    /// Epochs it was given.
    pub epochs: usize,
    /// Its parameters.
    pub parameters: TrainingParameters,
    /// How it ended.
    pub outcome: TrialOutcome,
    /// Wall-clock time.
    pub seconds: f64,
}

/// How a trial ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ended", rename_all = "snake_case")]
pub enum TrialOutcome {
    /// With a model.
    Finished {
        /// Best log-loss on the tail.
        validation_log_loss: f64,
        /// ROC-AUC there.
        validation_roc_auc: Option<f64>,
    },
    /// Without one.
    Failed {
        /// Why.
        reason: String,
    },
    /// Not at all, or not to its end: the time was up.
    OutOfTime,
}

impl TrialOutcome {
    fn log_loss(&self) -> Option<f64> {
        match self {
            Self::Finished { validation_log_loss, .. } => Some(*validation_log_loss),
            _ => None,
        }
    }
}

/// The search as it went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TuningReport {
    /// Every run of every trial.
    pub trials: Vec<TrialRecord>,
    /// The winner.
    pub best_trial: usize,
    /// Whether the wall-clock bound cut the search short.
    pub out_of_time: bool,
}

/// Draws the candidates: the parameters in use, then random ones.
#[must_use]
pub fn candidates(base: &TrainingParameters, tuning: &TuningParameters) -> Vec<TrainingParameters> {
    let mut random = ChaCha8Rng::seed_from_u64(derived_seed(base.seed, "tuning", 0));
    let space = &tuning.space;
    let mut drawn = vec![base.clone()];
    while drawn.len() < tuning.trials.max(1) {
        let logarithmic = |random: &mut ChaCha8Rng, range: [f64; 2]| {
            (range[0].ln() + random.random::<f64>() * (range[1] / range[0]).ln()).exp()
        };
        let pick = |random: &mut ChaCha8Rng, values: &[usize], now: usize| *values.choose(random).unwrap_or(&now);
        drawn.push(TrainingParameters {
            learning_rate: logarithmic(&mut random, space.learning_rate),
            hidden: pick(&mut random, &space.hidden, base.hidden),
            blocks: pick(&mut random, &space.blocks, base.blocks),
            dropout: space.dropout[0] + random.random::<f64>() * (space.dropout[1] - space.dropout[0]),
            weight_decay: logarithmic(&mut random, space.weight_decay),
            batch_size: pick(&mut random, &space.batch_size, base.batch_size),
            ..base.clone()
        });
    }
    drawn
}

/// Searches; answers the best parameters and every trial.
pub(crate) fn search(
    base: &CheckedParameters,
    tuning: &TuningParameters,
    sets: &TrainingSets,
    architecture: &(dyn Fn(&TrainingParameters) -> Architecture + Sync),
    control: &TrainingControl,
) -> Result<(CheckedParameters, TuningReport), TrainingError> {
    tuning.check()?;
    let candidates = candidates(base, tuning);
    let sets = TrainingSets { train: sets.train.thinned(tuning.max_rows)?, tail: sets.tail.share() };
    let deadline = tuning.wall_time_secs.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut report = TuningReport { trials: Vec::new(), best_trial: 0, out_of_time: false };
    let mut alive: Vec<usize> = (0..candidates.len()).collect();
    let mut epochs = if tuning.halving { tuning.first_epochs.min(base.max_epochs) } else { base.max_epochs };
    for round in 0.. {
        let trials = alive.iter().map(|trial| (*trial, round, epochs, &candidates[*trial])).collect();
        let records = run_round(trials, tuning, &sets, architecture, control, deadline);
        if control.is_cancelled() {
            return Err(TrainingError::Cancelled { epoch: 0 });
        }
        report.out_of_time |= records.iter().any(|record| record.outcome == TrialOutcome::OutOfTime);
        // Log-loss first; equal ones in the order of trials, so that trial 0 wins ties.
        let mut ranked: Vec<(f64, usize)> =
            records.iter().filter_map(|record| Some((record.outcome.log_loss()?, record.trial))).collect();
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        report.trials.extend(records);
        if let Some((_, best)) = ranked.first() {
            report.best_trial = *best;
        }
        let kept = ranked.len().div_ceil(HALVING);
        if report.out_of_time || kept <= 1 || epochs >= base.max_epochs {
            break;
        }
        alive = ranked.into_iter().take(kept).map(|(_, trial)| trial).collect();
        epochs = (epochs * HALVING).min(base.max_epochs);
    }
    let best = candidates[report.best_trial].clone().check()?;
    Ok((best, report))
}

type Trial<'a> = (usize, usize, usize, &'a TrainingParameters);

fn run_round(
    trials: Vec<Trial<'_>>,
    tuning: &TuningParameters,
    sets: &TrainingSets,
    architecture: &(dyn Fn(&TrainingParameters) -> Architecture + Sync),
    control: &TrainingControl,
    deadline: Option<Instant>,
) -> Vec<TrialRecord> {
    let threads = trials.first().map_or(1, |(_, _, _, parameters)| parameters.torch_threads);
    let workers = if tuning.parallel == 0 { threads } else { tuning.parallel }.clamp(1, trials.len().max(1));
    let next = AtomicUsize::new(0);
    let records = Mutex::new(Vec::with_capacity(trials.len()));
    let work = |sets: TrainingSets| {
        while let Some(trial) = trials.get(next.fetch_add(1, Ordering::Relaxed)) {
            let record = run_trial(*trial, &sets, architecture, control, deadline);
            let log_loss = record.outcome.log_loss();
            let news = Progress::TrialFinished { trial: trial.0, trials: trials.len(), validation_log_loss: log_loss };
            control.tell(&news);
            records.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(record);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let sets = sets.share();
            let work = &work;
            scope.spawn(move || work(sets));
        }
    });
    let mut records = records.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    records.sort_by_key(|record| record.trial);
    records
}

fn run_trial(
    (trial, round, epochs, parameters): Trial<'_>,
    sets: &TrainingSets,
    architecture: &(dyn Fn(&TrainingParameters) -> Architecture + Sync),
    control: &TrainingControl,
    deadline: Option<Instant>,
) -> TrialRecord {
    let began = Instant::now();
    // One member on one thread: trials run side by side, and what is right for one
    // member is right for all of them.
    let run = TrainingParameters { members: 1, torch_threads: 1, max_epochs: epochs, ..parameters.clone() };
    // What is in use now is measured whatever the time.
    let control = TrainingControl {
        deadline: deadline.filter(|_| trial != 0),
        progress: std::sync::Arc::new(|_| ()),
        cancel: std::sync::Arc::clone(&control.cancel),
    };
    let fit = || {
        control.check(0)?;
        let shape = architecture(&run);
        let mut random = ChaCha8Rng::seed_from_u64(derived_seed(run.seed, "weights", 0));
        let positives = sets.train.labels.iter().filter(|label| **label).count();
        let weights = fresh(&shape, log_odds(positives, sets.train.rows()), &mut random);
        fit_members(&shape, sets, &[Start { weights, warm: false }], &run, &control)
    };
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(fit));
    let outcome = match result.unwrap_or_else(|payload| Err(threads::panicked(&*payload))) {
        Ok(members) => members.first().map_or(TrialOutcome::OutOfTime, |member| TrialOutcome::Finished {
            validation_log_loss: member.best.validation_log_loss,
            validation_roc_auc: member.best.validation_roc_auc,
        }),
        Err(TrainingError::Cancelled { .. }) => TrialOutcome::OutOfTime,
        Err(error) => TrialOutcome::Failed { reason: chain(&error) },
    };
    let seconds = began.elapsed().as_secs_f64();
    TrialRecord { trial, round, epochs, parameters: parameters.clone(), outcome, seconds }
}

/// The log-odds of a class among rows.
pub(crate) fn log_odds(positives: usize, rows: usize) -> f64 {
    ((positives as f64 + 0.5) / ((rows - positives) as f64 + 0.5)).ln()
}
