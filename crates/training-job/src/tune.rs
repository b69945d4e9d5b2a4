//! The search for better parameters, under a budget of trials and wall time.
//!
//! Trial 0 is always what is in use now, so that the search can only win. All
//! candidates are drawn before the first one runs; successive halving (Jamieson &
//! Talwalkar 2016) gives every trial one short run and only the best third a run
//! three times as long, and so on. Bounded by trials alone, the outcome depends on
//! rows, parameters and seed; a wall-clock bound makes it depend on the machine.
//!
//! Here is what is decided; who runs the trials, threads of this process or pods of
//! a cluster, is decided elsewhere (`trial.rs`, the trainers).

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::params::{CheckedParameters, ParameterFaults, TrainingParameters};
use delayd_core::Stored;

/// What each halving divides the trials by and multiplies the epochs with.
const HALVING: usize = 3;

/// Seeds that differ for each use of one run's seed.
pub fn derived_seed(seed: u64, purpose: &str, index: usize) -> u64 {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(format!("{seed}/{purpose}/{index}"));
    digest.iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}

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
    /// Whether only the best third proceeds to longer runs; otherwise all get the full run.
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
    pub fn check(&self) -> Result<(), ParameterFaults> {
        let mut faults = ParameterFaults::default();
        let ordered = |range: [f64; 2], lowest: f64| range[0] > lowest && range[0] <= range[1] && range[1].is_finite();
        let filled =
            |values: &[usize], lowest: usize| !values.is_empty() && values.iter().all(|value| *value >= lowest);
        let positive = "at least one value, each at least 1";
        let SearchSpace { learning_rate: rate, hidden, blocks, dropout, weight_decay: decay, batch_size } = &self.space;
        faults.expect(self.trials <= 1000, "tuning.trials", self.trials, "at most 1000 trials");
        faults.expect(self.first_epochs > 0, "tuning.first_epochs", self.first_epochs, "at least 1 epoch");
        faults.expect(self.max_rows >= 100, "tuning.max_rows", self.max_rows, "at least 100 rows");
        let holds = ordered(*rate, 0.0) && rate[1] <= 1.0;
        faults.expect(holds, "tuning.space.learning_rate", rate, "[low, high] above 0, at most 1");
        faults.expect(ordered(*decay, 0.0), "tuning.space.weight_decay", decay, "[low, high] above 0");
        let holds = ordered(*dropout, -f64::MIN_POSITIVE) && dropout[1] < 1.0;
        faults.expect(holds, "tuning.space.dropout", dropout, "[low, high] from 0 to below 1");
        faults.expect(filled(hidden, 1), "tuning.space.hidden", hidden, positive);
        faults.expect(filled(blocks, 0), "tuning.space.blocks", blocks, "at least one value");
        faults.expect(filled(batch_size, 1), "tuning.space.batch_size", batch_size, positive);
        faults.or(())
    }
}

/// One run of one candidate that is wanted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrialTask {
    pub trial: usize,
    pub round: usize,
    pub epochs: usize,
    pub parameters: TrainingParameters,
}

impl TrialTask {
    pub fn ended(&self, outcome: TrialOutcome, seconds: f64) -> TrialRecord {
        let Self { trial, round, epochs, parameters } = self.clone();
        TrialRecord { trial, round, epochs, parameters, outcome, seconds }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrialRecord {
    pub trial: usize,
    pub round: usize,
    pub epochs: usize,
    pub parameters: TrainingParameters,
    pub outcome: TrialOutcome,
    pub seconds: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ended", rename_all = "snake_case")]
pub enum TrialOutcome {
    Finished {
        validation_log_loss: f64,
        validation_roc_auc: Option<f64>,
    },
    Failed {
        reason: String,
    },
    /// Not at all, or not to its end: the time was up.
    OutOfTime,
}

impl TrialOutcome {
    /// Log-loss on the tail, of a trial that finished.
    pub fn log_loss(&self) -> Option<f64> {
        match self {
            Self::Finished { validation_log_loss, .. } => Some(*validation_log_loss),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TuningReport {
    pub trials: Vec<TrialRecord>,
    pub best_trial: usize,
    /// Whether the wall-clock bound cut the search short.
    pub out_of_time: bool,
}

impl Stored for TuningReport {
    const NAME: &'static str = "search report";
}

/// Draws the candidates: the parameters in use, then random ones.
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

#[derive(Debug, Clone)]
pub struct Search {
    candidates: Vec<TrainingParameters>,
    max_epochs: usize,
    alive: Vec<usize>,
    round: usize,
    epochs: usize,
    over: bool,
    report: TuningReport,
}

impl Search {
    /// A search that begins with all candidates.
    pub fn new(base: &CheckedParameters, tuning: &TuningParameters) -> Result<Self, ParameterFaults> {
        tuning.check()?;
        let candidates = candidates(base, tuning);
        let epochs = if tuning.halving { tuning.first_epochs.min(base.max_epochs) } else { base.max_epochs };
        Ok(Self {
            alive: (0..candidates.len()).collect(),
            candidates,
            max_epochs: base.max_epochs,
            round: 0,
            epochs,
            over: false,
            report: TuningReport { trials: Vec::new(), best_trial: 0, out_of_time: false },
        })
    }

    /// The trials to run now, in the order of trials; none when the search is over.
    pub fn tasks(&self) -> Vec<TrialTask> {
        let alive = self.alive.iter().filter(|_| !self.over);
        let candidates = alive.filter_map(|trial| Some((*trial, self.candidates.get(*trial)?)));
        let task = |(trial, parameters): (usize, &TrainingParameters)| TrialTask {
            trial,
            round: self.round,
            epochs: self.epochs,
            parameters: parameters.clone(),
        };
        candidates.map(task).collect()
    }

    /// Takes in how this round's trials ended, and decides which proceed.
    pub fn finish_round(&mut self, mut records: Vec<TrialRecord>) {
        records.sort_by_key(|record| record.trial);
        self.report.out_of_time |= records.iter().any(|record| record.outcome == TrialOutcome::OutOfTime);
        // Log-loss first; equal ones in the order of trials, so that trial 0 wins ties.
        let mut ranked: Vec<(f64, usize)> =
            records.iter().filter_map(|record| Some((record.outcome.log_loss()?, record.trial))).collect();
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        self.report.trials.extend(records);
        if let Some((_, best)) = ranked.first() {
            self.report.best_trial = *best;
        }
        let kept = ranked.len().div_ceil(HALVING);
        self.over = self.report.out_of_time || kept <= 1 || self.epochs >= self.max_epochs;
        self.alive = ranked.into_iter().take(kept).map(|(_, trial)| trial).collect();
        self.epochs = (self.epochs * HALVING).min(self.max_epochs);
        self.round += 1;
    }

    /// The best parameters so far, and every trial.
    pub fn result(self) -> Result<(CheckedParameters, TuningReport), ParameterFaults> {
        let best = self.candidates.into_iter().nth(self.report.best_trial).unwrap_or_default();
        Ok((best.check()?, self.report))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(trials: usize, halving: bool) -> Search {
        let base = TrainingParameters { max_epochs: 6, ..TrainingParameters::default() }.check().unwrap();
        Search::new(&base, &TuningParameters { trials, halving, ..TuningParameters::default() }).unwrap()
    }

    /// Ends a round with these log-losses, `None` for a trial that failed.
    fn end(search: &mut Search, losses: &[Option<f64>]) {
        let ended = |(task, loss): (TrialTask, &Option<f64>)| {
            let outcome = loss.map_or(TrialOutcome::Failed { reason: "not finite".to_owned() }, |loss| {
                TrialOutcome::Finished { validation_log_loss: loss, validation_roc_auc: None }
            });
            task.ended(outcome, 1.0)
        };
        let records = search.tasks().into_iter().zip(losses).map(ended).collect();
        search.finish_round(records);
    }

    #[test]
    fn each_round_gives_the_best_third_three_times_the_epochs() {
        let mut search = search(5, true);
        let of = |search: &Search| search.tasks().iter().map(|task| (task.trial, task.epochs)).collect::<Vec<_>>();
        assert_eq!(of(&search), [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1)]);
        end(&mut search, &[Some(0.5), None, Some(0.4), Some(0.6), Some(0.45)]);
        assert_eq!(of(&search), [(2, 3), (4, 3)]);
        end(&mut search, &[Some(0.41), Some(0.40)]);
        assert!(search.tasks().is_empty());
        let (best, report) = search.result().unwrap();
        assert_eq!((report.best_trial, report.trials.len(), report.out_of_time), (4, 7, false));
        assert_eq!(*best, report.trials[4].parameters);
    }

    #[test]
    fn what_is_in_use_wins_ties_and_when_nothing_finishes() {
        let mut tied = search(3, false);
        end(&mut tied, &[Some(0.5), Some(0.5), Some(0.5)]);
        assert!(tied.tasks().is_empty());
        assert_eq!(tied.result().unwrap().1.best_trial, 0);
        let mut none = search(3, true);
        end(&mut none, &[None, None, None]);
        assert!(none.tasks().is_empty());
        assert_eq!(none.result().unwrap().1.best_trial, 0);
    }

    #[test]
    fn a_trial_that_ran_out_of_time_ends_the_search() {
        let mut search = search(9, true);
        let records = search.tasks().into_iter().map(|task| {
            let outcome = match task.trial {
                8 => TrialOutcome::OutOfTime,
                trial => {
                    TrialOutcome::Finished { validation_log_loss: 0.5 - trial as f64 / 100.0, validation_roc_auc: None }
                }
            };
            task.ended(outcome, 1.0)
        });
        let records = records.collect();
        search.finish_round(records);
        assert!(search.tasks().is_empty());
        let (_, report) = search.result().unwrap();
        assert_eq!((report.best_trial, report.out_of_time), (7, true));
    }
}
