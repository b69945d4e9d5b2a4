//! How good predictions turned out to be, and how good they should be by their
//! own account: metrics of matured outcomes, with intervals that respect that
//! flights of one day stand and fall together, and the confidence-based estimate
//! (CBPE) for the time until outcomes are in. Verdicts are in [`super::performance`].

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::stats::{Interval, sorted_quantile};

/// Bins of the score for the bootstrap: fine enough that AUC is exact to 1e-4.
const SCORE_BINS: usize = 1_000;
/// Bins of the expected calibration error.
const CALIBRATION_BINS: usize = 10;
/// Scores are kept this far from 0 and 1 in logarithms.
const LOG_MARGIN: f64 = 1e-6;

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaturedPrediction {
    pub score: f32,
    pub delayed: bool,
    pub at: DateTime<Utc>,
}

/// Metrics of a set of predictions. What is not defined (AUC of one class) is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Realised {
    pub rows: u64,
    pub delayed: u64,
    pub auc: Option<f64>,
    pub log_loss: Option<f64>,
    /// `1 - log_loss / entropy of the share delayed`: what the scores add beyond
    /// that share. Unlike the log-loss it can be compared between a calm and a stormy month.
    pub log_loss_skill: Option<f64>,
    /// Expected calibration error over ten equal bins.
    pub calibration_error: Option<f64>,
    /// Mean score minus share delayed: above 0 the model cries wolf.
    pub bias: Option<f64>,
    /// Share of the delayed that were called delayed.
    pub recall: Option<f64>,
    /// Share of those called delayed that were.
    pub precision: Option<f64>,
    /// Share of calls that were right.
    pub accuracy: Option<f64>,
}

/// Counts of one day that add up to everything in [`Realised`].
#[derive(Debug, Clone)]
struct DayCounts {
    delayed: Vec<f64>,
    punctual: Vec<f64>,
    score_sum: Vec<f64>,
    loss: f64,
    called: [[f64; 2]; 2],
}

impl DayCounts {
    fn empty() -> Self {
        let zeros = || vec![0.0; SCORE_BINS];
        Self { delayed: zeros(), punctual: zeros(), score_sum: zeros(), loss: 0.0, called: [[0.0; 2]; 2] }
    }

    /// `share` of a flight with this outcome; 1 for a known one.
    fn count(&mut self, score: f64, delayed: bool, threshold: f64, share: f64) {
        let bin = ((score * SCORE_BINS as f64) as usize).min(SCORE_BINS - 1);
        let slot = if delayed { &mut self.delayed[bin] } else { &mut self.punctual[bin] };
        *slot += share;
        self.score_sum[bin] += score * share;
        let p = score.clamp(LOG_MARGIN, 1.0 - LOG_MARGIN);
        self.loss -= share * if delayed { p.ln() } else { (1.0 - p).ln() };
        self.called[usize::from(delayed)][usize::from(score >= threshold)] += share;
    }

    fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.delayed, &other.delayed),
            (&mut self.punctual, &other.punctual),
            (&mut self.score_sum, &other.score_sum),
        ];
        for (mine, theirs) in pairs {
            mine.iter_mut().zip(theirs).for_each(|(sum, part)| *sum += part);
        }
        self.loss += other.loss;
        for (mine, theirs) in self.called.iter_mut().flatten().zip(other.called.iter().flatten()) {
            *mine += theirs;
        }
    }

    fn metrics(&self) -> Realised {
        let (delayed, punctual) = (self.delayed.iter().sum::<f64>(), self.punctual.iter().sum::<f64>());
        let rows = delayed + punctual;
        if rows <= 0.0 {
            return Realised::default();
        }
        let ratio = |part: f64, whole: f64| (whole > 0.0).then(|| part / whole);
        let share = delayed / rows;
        let entropy = -(share * share.ln() + (1.0 - share) * (1.0 - share).ln());
        let [[true_negative, false_positive], [false_negative, true_positive]] = self.called;
        let log_loss = self.loss / rows;
        Realised {
            rows: rows.round() as u64,
            delayed: delayed.round() as u64,
            auc: self.auc(delayed, punctual),
            log_loss: Some(log_loss),
            log_loss_skill: (entropy > 0.0).then(|| 1.0 - log_loss / entropy),
            calibration_error: Some(self.calibration_error(rows)),
            bias: Some(self.score_sum.iter().sum::<f64>() / rows - share),
            recall: ratio(true_positive, true_positive + false_negative),
            precision: ratio(true_positive, true_positive + false_positive),
            accuracy: ratio(true_positive + true_negative, rows),
        }
    }

    /// Mann-Whitney over the bins, ties counted half.
    fn auc(&self, delayed: f64, punctual: f64) -> Option<f64> {
        let (mut below, mut wins) = (0.0, 0.0);
        for (positive, negative) in self.delayed.iter().zip(&self.punctual) {
            wins += positive * (below + negative / 2.0);
            below += negative;
        }
        (delayed > 0.0 && punctual > 0.0).then(|| wins / (delayed * punctual))
    }

    fn calibration_error(&self, rows: f64) -> f64 {
        let width = SCORE_BINS / CALIBRATION_BINS;
        let gap = |bin: usize| {
            let range = bin * width..(bin + 1) * width;
            (self.score_sum[range.clone()].iter().sum::<f64>() - self.delayed[range].iter().sum::<f64>()).abs()
        };
        (0..CALIBRATION_BINS).map(gap).sum::<f64>() / rows
    }
}

/// Metrics with their intervals, from resampling whole days.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RealisedWithIntervals {
    pub first_day: NaiveDate,
    pub last_day: NaiveDate,
    pub days: u32,
    /// The metrics. AUC is over 1,000 score bins, exact to about 1e-4.
    pub metrics: Realised,
    pub auc_interval: Option<Interval>,
    pub log_loss_interval: Option<Interval>,
    pub log_loss_skill_interval: Option<Interval>,
    pub calibration_error_interval: Option<Interval>,
    pub recall_interval: Option<Interval>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Resampling {
    pub replicates: u32,
    /// Two-sided confidence, 0 to 1.
    pub confidence: f64,
    /// Seed: the same outcomes give the same interval.
    pub seed: u64,
}

/// Metrics of the outcomes, with intervals by bootstrap over days; `None` when
/// there are no outcomes.
pub fn realise(
    outcomes: &[MaturedPrediction],
    threshold: f32,
    resampling: Resampling,
) -> Option<RealisedWithIntervals> {
    let mut days: BTreeMap<NaiveDate, DayCounts> = BTreeMap::new();
    for outcome in outcomes.iter().filter(|outcome| outcome.score.is_finite()) {
        let day = days.entry(outcome.at.date_naive()).or_insert_with(DayCounts::empty);
        day.count(f64::from(outcome.score), outcome.delayed, f64::from(threshold), 1.0);
    }
    let (first_day, last_day) = (*days.keys().next()?, *days.keys().next_back()?);
    let days: Vec<DayCounts> = days.into_values().collect();
    let mut all = DayCounts::empty();
    days.iter().for_each(|day| all.add(day));
    let replicates = resample(&days, resampling);
    let interval = |metric: fn(&Realised) -> Option<f64>| {
        let mut values: Vec<f64> = replicates.iter().filter_map(metric).collect();
        values.sort_by(f64::total_cmp);
        let tail = (1.0 - resampling.confidence) / 2.0;
        Some(Interval { low: sorted_quantile(&values, tail)?, high: sorted_quantile(&values, 1.0 - tail)? })
    };
    Some(RealisedWithIntervals {
        first_day,
        last_day,
        days: days.len() as u32,
        metrics: all.metrics(),
        auc_interval: interval(|found| found.auc),
        log_loss_interval: interval(|found| found.log_loss),
        log_loss_skill_interval: interval(|found| found.log_loss_skill),
        calibration_error_interval: interval(|found| found.calibration_error),
        recall_interval: interval(|found| found.recall),
    })
}

/// Metrics of bootstrap samples of whole days; none of fewer than two days.
fn resample(days: &[DayCounts], resampling: Resampling) -> Vec<Realised> {
    if days.len() < 2 {
        return Vec::new();
    }
    let mut random = ChaCha8Rng::seed_from_u64(resampling.seed);
    let mut replicate = || {
        let mut sum = DayCounts::empty();
        for _ in 0..days.len() {
            sum.add(&days[random.random_range(0..days.len())]);
        }
        sum.metrics()
    };
    (0..resampling.replicates).map(|_| replicate()).collect()
}

/// What calibrated scores promise of themselves: a flight of score `p` counts as
/// delayed with weight `p` and as punctual with `1 - p` (confidence-based
/// performance estimation). It sees a harder mix of flights; it cannot see that
/// scores have stopped being right, so it stands in only until outcomes mature.
pub fn estimate(scores: impl IntoIterator<Item = f32>, threshold: f32) -> Realised {
    let mut counts = DayCounts::empty();
    for score in scores.into_iter().filter(|score| score.is_finite()).map(f64::from) {
        let score = score.clamp(0.0, 1.0);
        counts.count(score, true, f64::from(threshold), score);
        counts.count(score, false, f64::from(threshold), 1.0 - score);
    }
    counts.metrics()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESAMPLING: Resampling = Resampling { replicates: 200, confidence: 0.95, seed: 7 };

    fn calibrated(days: i64, per_day: usize) -> Vec<MaturedPrediction> {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let start: DateTime<Utc> = "2013-03-01T12:00:00Z".parse().unwrap();
        let flights = (0..days).flat_map(|day| std::iter::repeat_n(start + chrono::Duration::days(day), per_day));
        flights
            .map(|at| {
                let score: f32 = random.random::<f32>().powi(2);
                MaturedPrediction { score, delayed: random.random::<f32>() < score, at }
            })
            .collect()
    }

    #[test]
    fn metrics_of_four_flights_are_those_worked_by_hand() {
        let at: DateTime<Utc> = "2013-03-01T12:00:00Z".parse().unwrap();
        let flight = |score, delayed| MaturedPrediction { score, delayed, at };
        let found =
            realise(&[flight(0.9, true), flight(0.2, true), flight(0.4, false), flight(0.1, false)], 0.3, RESAMPLING)
                .unwrap();
        let metrics = found.metrics;
        assert_eq!(
            (metrics.auc, metrics.recall, metrics.precision, metrics.accuracy),
            (Some(0.75), Some(0.5), Some(0.5), Some(0.5))
        );
        let expected = -(0.9_f64.ln() + 0.2_f64.ln() + 0.6_f64.ln() + 0.9_f64.ln()) / 4.0;
        assert!((metrics.log_loss.unwrap() - expected).abs() < 1e-6);
        assert_eq!(found.auc_interval, None, "one day tells nothing of its spread");
    }

    #[test]
    fn one_class_alone_has_no_auc_and_nothing_at_all_has_no_metrics() {
        let at: DateTime<Utc> = "2013-03-01T12:00:00Z".parse().unwrap();
        let found = realise(&[MaturedPrediction { score: 0.5, delayed: true, at }], 0.5, RESAMPLING).unwrap();
        assert_eq!((found.metrics.auc, found.metrics.log_loss_skill), (None, None));
        assert!(realise(&[], 0.5, RESAMPLING).is_none());
    }

    #[test]
    fn a_calibrated_model_does_as_it_promised_and_its_interval_holds_the_promise() {
        let outcomes = calibrated(14, 800);
        let found = realise(&outcomes, 0.4, RESAMPLING).unwrap();
        let promised = estimate(outcomes.iter().map(|outcome| outcome.score), 0.4);
        let interval = found.auc_interval.unwrap();
        assert!(
            interval.low <= promised.auc.unwrap() && promised.auc.unwrap() <= interval.high,
            "{promised:?} {found:?}"
        );
        assert!((promised.accuracy.unwrap() - found.metrics.accuracy.unwrap()).abs() < 0.02);
        assert!(found.metrics.calibration_error.unwrap() < 0.02);
        assert_eq!(found, realise(&outcomes, 0.4, RESAMPLING).unwrap(), "the same seed gives the same interval");
    }
}
