//! From predictions to metrics: pooled, by week, by score, and the interval of
//! what the loop gained. Pure; the metrics themselves are `evaluation`'s.

use std::collections::BTreeMap;

use chrono::{DateTime, Datelike, Days, NaiveDate, Utc};

use super::model::{DifferenceInterval, PooledMetrics, Reliability, ReliabilityBin, Week, WeekMetrics};
use delayd_core::ids::ModelVersion;
use delayd_judge::evaluation::metrics::{CALIBRATION_BINS, Confusion, Ranked, expected_calibration_error, log_loss};
use delayd_judge::stats::{BlockBootstrap, percentile_interval};

/// How often the bootstrap draws: enough for 95 % bounds that move by less than the
/// third decimal, and some seconds for ten months of flights.
const RESAMPLES: u32 = 500;

/// Confidence level of the interval.
const CONFIDENCE: f64 = 0.95;

/// One flight as the replay saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplayPrediction {
    pub carrier: String,
    pub flight_number: u32,
    pub origin: String,
    pub dest: String,
    pub scheduled_departure: DateTime<Utc>,
    pub prediction_time: DateTime<Utc>,
    /// What the live service answered: probability of a delay.
    pub score: f32,
    /// The model that answered.
    pub model_version: ModelVersion,
    /// `None` where it never arrived.
    pub delayed: Option<bool>,
    /// The first model's score.
    pub frozen_score: f32,
    /// The lookup table's score.
    pub lookup_score: f32,
}

/// From which score each of the three calls a flight delayed.
#[derive(Debug, Clone, PartialEq)]
pub struct Thresholds {
    /// Of every model that was live.
    pub by_model: BTreeMap<ModelVersion, f32>,
    /// Of the frozen first model.
    pub frozen: f32,
    /// Of the lookup table.
    pub lookup: f32,
}

/// The part of a [`Report`](super::Report) that follows from its predictions.
#[derive(Debug, Clone, PartialEq)]
pub struct Computed {
    pub live_loop: PooledMetrics,
    pub frozen: PooledMetrics,
    pub lookup: PooledMetrics,
    pub ci: Option<DifferenceInterval>,
    pub over_time: Vec<Week>,
    pub reliability: Reliability,
}

/// Predictions that cannot be evaluated.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ComputeError {
    #[error(
        "{model} answered for {flight}, but its threshold was not given: pass the threshold of every model that was live"
    )]
    UnknownModel { model: ModelVersion, flight: String },
    #[error("the {whose} score of {flight} is {score}, expected a probability from 0 to 1")]
    NotAProbability { whose: &'static str, flight: String, score: f32 },
}

/// Judges a replay's predictions. Flights without an outcome count for nothing here.
pub fn compute(predictions: &[ReplayPrediction], thresholds: &Thresholds, seed: u64) -> Result<Computed, ComputeError> {
    let judged = Judged::of(predictions, thresholds)?;
    let (live, frozen, lookup) =
        (judged.ranked(&judged.live), judged.ranked(&judged.frozen), judged.ranked(&judged.lookup));
    // A margin at or above zero is exactly a score at or above its own model's threshold.
    let at_own_threshold = Confusion::at(&judged.margins, &judged.labels, 0.0, None);
    let at = |scores: &[f32], threshold| Confusion::at(scores, &judged.labels, threshold, None);
    Ok(Computed {
        live_loop: pooled(&judged.live, &judged.labels, &live, at_own_threshold, None),
        frozen: pooled(
            &judged.frozen,
            &judged.labels,
            &frozen,
            at(&judged.frozen, thresholds.frozen),
            Some(thresholds.frozen),
        ),
        lookup: pooled(
            &judged.lookup,
            &judged.labels,
            &lookup,
            at(&judged.lookup, thresholds.lookup),
            Some(thresholds.lookup),
        ),
        ci: difference_interval(&live, &frozen, &judged.days, seed),
        over_time: judged.weeks(),
        reliability: Reliability {
            live_loop: reliability(&judged.live, &judged.labels),
            frozen: reliability(&judged.frozen, &judged.labels),
        },
    })
}

/// Flights with an outcome, column by column, by scheduled departure.
#[derive(Default)]
struct Judged {
    live: Vec<f32>,
    frozen: Vec<f32>,
    lookup: Vec<f32>,
    margins: Vec<f32>,
    labels: Vec<bool>,
    models: Vec<ModelVersion>,
    dates: Vec<NaiveDate>,
    days: Vec<u32>,
}

impl Judged {
    fn of(predictions: &[ReplayPrediction], thresholds: &Thresholds) -> Result<Self, ComputeError> {
        let mut arrived: Vec<(&ReplayPrediction, bool)> =
            predictions.iter().filter_map(|p| p.delayed.map(|delayed| (p, delayed))).collect();
        arrived.sort_by_key(|(p, _)| p.scheduled_departure);
        let mut judged = Self::default();
        for (p, delayed) in arrived {
            let scores = [("loop", p.score), ("frozen", p.frozen_score), ("lookup", p.lookup_score)];
            if let Some((whose, score)) = scores.into_iter().find(|(_, score)| !(0.0..=1.0).contains(score)) {
                return Err(ComputeError::NotAProbability { whose, flight: name_of(p), score });
            }
            let threshold = thresholds.by_model.get(&p.model_version);
            let unknown = || ComputeError::UnknownModel { model: p.model_version, flight: name_of(p) };
            judged.margins.push(p.score - threshold.ok_or_else(unknown)?);
            judged.live.push(p.score);
            judged.frozen.push(p.frozen_score);
            judged.lookup.push(p.lookup_score);
            judged.labels.push(delayed);
            judged.models.push(p.model_version);
            let date = p.scheduled_departure.date_naive();
            judged.dates.push(date);
            judged.days.push(date.num_days_from_ce().unsigned_abs());
        }
        Ok(judged)
    }

    fn ranked<'a>(&'a self, scores: &'a [f32]) -> Ranked<'a> {
        Ranked::new(scores, &self.labels)
    }

    fn weeks(&self) -> Vec<Week> {
        let mut weeks = Vec::new();
        let mut from = 0;
        while from < self.dates.len() {
            let monday = monday_of(self.dates[from]);
            let until = from + self.dates[from..].partition_point(|date| monday_of(*date) == monday);
            let labels = &self.labels[from..until];
            let delayed = labels.iter().filter(|label| **label).count();
            weeks.push(Week {
                week_start: monday,
                rows: labels.len() as u64,
                delayed_share: (!labels.is_empty()).then(|| delayed as f64 / labels.len() as f64),
                live_model: most_frequent(&self.models[from..until]),
                live_loop: week_metrics(&self.live[from..until], labels),
                frozen: week_metrics(&self.frozen[from..until], labels),
                lookup: week_metrics(&self.lookup[from..until], labels),
            });
            from = until;
        }
        weeks
    }
}

fn name_of(p: &ReplayPrediction) -> String {
    format!(
        "{} {} from {} at {}",
        p.carrier,
        p.flight_number,
        p.origin,
        p.scheduled_departure.format("%Y-%m-%dT%H:%MZ")
    )
}

fn monday_of(date: NaiveDate) -> NaiveDate {
    let since_monday = Days::new(u64::from(date.weekday().num_days_from_monday()));
    date.checked_sub_days(since_monday).unwrap_or(date)
}

/// Of equally frequent models the later one: it is the one that stays.
fn most_frequent(models: &[ModelVersion]) -> ModelVersion {
    let mut counts: BTreeMap<ModelVersion, usize> = BTreeMap::new();
    models.iter().for_each(|model| *counts.entry(*model).or_default() += 1);
    counts.into_iter().max_by_key(|(model, count)| (*count, *model)).map_or(ModelVersion(1), |(model, _)| model)
}

fn pooled(
    scores: &[f32],
    labels: &[bool],
    ranked: &Ranked<'_>,
    confusion: Confusion,
    threshold: Option<f32>,
) -> PooledMetrics {
    PooledMetrics {
        rows: confusion.rows(),
        roc_auc: ranked.roc_auc(None),
        pr_auc: ranked.pr_auc(None),
        log_loss: log_loss(scores, labels, None),
        ece: expected_calibration_error(scores, labels),
        recall: confusion.recall(),
        precision: confusion.precision(),
        threshold,
    }
}

fn week_metrics(scores: &[f32], labels: &[bool]) -> WeekMetrics {
    WeekMetrics {
        roc_auc: Ranked::new(scores, labels).roc_auc(None),
        log_loss: log_loss(scores, labels, None),
        ece: expected_calibration_error(scores, labels),
    }
}

fn reliability(scores: &[f32], labels: &[bool]) -> Vec<ReliabilityBin> {
    let mut sums = [(0.0_f64, 0_u64, 0_u64); CALIBRATION_BINS];
    for (score, label) in scores.iter().zip(labels) {
        let bin = ((score * CALIBRATION_BINS as f32) as usize).min(CALIBRATION_BINS - 1);
        sums[bin].0 += f64::from(*score);
        sums[bin].1 += u64::from(*label);
        sums[bin].2 += 1;
    }
    let mean = |sum: f64, rows: u64| (rows > 0).then(|| sum / rows as f64);
    sums.into_iter()
        .map(|(score, delayed, rows)| ReliabilityBin {
            mean_score: mean(score, rows),
            observed_share: mean(delayed as f64, rows),
            rows,
        })
        .collect()
}

/// Paired: both are judged on the same draws. Whole days are drawn, because
/// flights of one day share their weather and their queues.
fn difference_interval(live: &Ranked<'_>, frozen: &Ranked<'_>, days: &[u32], seed: u64) -> Option<DifferenceInterval> {
    let difference = live.roc_auc(None)? - frozen.roc_auc(None)?;
    let mut replicates = Vec::with_capacity(RESAMPLES as usize);
    BlockBootstrap::new(days, RESAMPLES as usize, seed).each(|weights| {
        let both = live.roc_auc(Some(weights)).zip(frozen.roc_auc(Some(weights)));
        replicates.extend(both.map(|(live, frozen)| live - frozen));
    });
    let interval = percentile_interval(difference, replicates, CONFIDENCE)?;
    Some(DifferenceInterval {
        difference,
        low: interval.low,
        high: interval.high,
        confidence: CONFIDENCE,
        resamples: RESAMPLES,
    })
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;

    use super::*;

    /// Day of January 2013 (a Tuesday the 1st), live score, frozen score, model, outcome.
    fn flight(day: u32, score: f32, frozen_score: f32, model: u64, delayed: Option<bool>) -> ReplayPrediction {
        let scheduled_departure = Utc.with_ymd_and_hms(2013, 1, day, 12, 0, 0).unwrap();
        ReplayPrediction {
            carrier: "B6".into(),
            flight_number: 1,
            origin: "JFK".into(),
            dest: "BOS".into(),
            scheduled_departure,
            prediction_time: scheduled_departure - chrono::TimeDelta::hours(2),
            score,
            model_version: ModelVersion(model),
            delayed,
            frozen_score,
            lookup_score: 0.2,
        }
    }

    fn thresholds() -> Thresholds {
        Thresholds { by_model: [(ModelVersion(1), 0.5), (ModelVersion(2), 0.3)].into(), frozen: 0.5, lookup: 0.5 }
    }

    fn six_flights() -> Vec<ReplayPrediction> {
        vec![
            flight(7, 0.3, 0.9, 2, Some(true)),
            flight(1, 0.9, 0.9, 1, Some(true)),
            flight(2, 0.4, 0.4, 1, Some(false)),
            flight(6, 0.4, 0.4, 1, Some(true)),
            flight(8, 0.2, 0.95, 2, Some(false)),
            flight(8, 0.99, 0.99, 2, None),
        ]
    }

    fn close(found: Option<f64>, expected: f64) {
        assert!((found.unwrap() - expected).abs() < 1e-6, "{found:?} is not {expected}");
    }

    #[test]
    fn pooled_metrics_agree_with_the_hand_computed_values_and_leave_out_who_never_arrived() {
        let computed = compute(&six_flights(), &thresholds(), 7).unwrap();
        // Delayed 0.3, 0.9, 0.4 against punctual 0.4, 0.2: pairs 1, 2, 1½ of 6.
        close(computed.live_loop.roc_auc, 4.5 / 6.0);
        // Delayed 0.9, 0.9, 0.4 against punctual 0.4, 0.95: pairs 1, 1, ½.
        close(computed.frozen.roc_auc, 2.5 / 6.0);
        close(computed.lookup.roc_auc, 0.5);
        assert_eq!(computed.live_loop.rows, 5);
        let losses = [0.3_f64, 0.9, 0.6, 0.4, 0.8].map(|p| -p.ln());
        close(computed.live_loop.log_loss, losses.iter().sum::<f64>() / 5.0);
    }

    #[test]
    fn each_flight_is_called_by_the_threshold_of_the_model_that_answered() {
        let computed = compute(&six_flights(), &thresholds(), 7).unwrap();
        // 0.9 >= 0.5 (v1) and 0.3 >= 0.3 (v2) are called; 0.4 < 0.5 (v1) is missed.
        close(Some(computed.live_loop.recall), 2.0 / 3.0);
        close(Some(computed.live_loop.precision), 1.0);
        assert_eq!(computed.live_loop.threshold, None);
        close(Some(computed.frozen.recall), 2.0 / 3.0);
        close(Some(computed.frozen.precision), 2.0 / 3.0);
    }

    #[test]
    fn weeks_begin_on_monday_and_name_the_model_that_judged_most() {
        let weeks = compute(&six_flights(), &thresholds(), 7).unwrap().over_time;
        let day = |y, m, d| NaiveDate::from_ymd_opt(y, m, d).unwrap();
        assert_eq!(weeks.iter().map(|w| w.week_start).collect::<Vec<_>>(), [day(2012, 12, 31), day(2013, 1, 7)]);
        assert_eq!(weeks.iter().map(|w| (w.rows, w.live_model.0)).collect::<Vec<_>>(), [(3, 1), (2, 2)]);
        close(weeks[0].delayed_share, 2.0 / 3.0);
        close(weeks[0].live_loop.roc_auc, 0.75);
        close(weeks[1].frozen.roc_auc, 0.0);
    }

    #[test]
    fn a_week_in_which_nobody_was_late_has_no_roc_auc_but_a_log_loss() {
        let weeks = compute(&[flight(1, 0.2, 0.2, 1, Some(false))], &thresholds(), 7).unwrap().over_time;
        assert_eq!(weeks[0].live_loop.roc_auc, None);
        close(weeks[0].live_loop.log_loss, -(0.8_f64.ln()));
    }

    #[test]
    fn reliability_has_fifteen_bins_and_its_gaps_add_up_to_the_calibration_error() {
        let computed = compute(&six_flights(), &thresholds(), 7).unwrap();
        let bins = computed.reliability.live_loop;
        assert_eq!(bins.len(), 15);
        assert_eq!(bins[6].rows, 2, "both scores of 0.4 lie in the seventh bin");
        close(bins[6].observed_share, 0.5);
        assert_eq!((bins[0].mean_score, bins[0].rows), (None, 0));
        let gap = |bin: &ReliabilityBin| {
            bin.mean_score.zip(bin.observed_share).map_or(0.0, |(s, o)| (s - o).abs() * bin.rows as f64 / 5.0)
        };
        close(computed.live_loop.ece, bins.iter().map(gap).sum());
        let last = compute(&[flight(1, 1.0, 0.0, 1, Some(true))], &thresholds(), 7).unwrap().reliability;
        assert_eq!((last.live_loop[14].rows, last.frozen[0].rows), (1, 1), "0 and 1 have bins too");
    }

    #[test]
    fn the_interval_holds_the_difference_and_is_the_same_for_the_same_seed() {
        let flights: Vec<_> = (0..600)
            .map(|n| {
                let delayed = n % 4 == 0;
                let noise = (n * 37 % 101) as f32 / 101.0;
                let live = 0.5 * noise + if delayed { 0.3 } else { 0.0 };
                flight(1 + n % 28, live, 0.5 * noise + if delayed { 0.1 } else { 0.0 }, 1, Some(delayed))
            })
            .collect();
        let interval = compute(&flights, &thresholds(), 7).unwrap().ci.unwrap();
        assert!(0.0 < interval.low && interval.low < interval.difference && interval.difference < interval.high);
        assert_eq!(compute(&flights, &thresholds(), 7).unwrap().ci.unwrap(), interval);
    }

    #[test]
    fn without_any_outcome_there_are_no_metrics_and_no_failure() {
        let computed = compute(&[flight(1, 0.2, 0.2, 1, None)], &thresholds(), 7).unwrap();
        assert_eq!((computed.live_loop.rows, computed.live_loop.roc_auc, computed.ci), (0, None, None));
        assert!(computed.over_time.is_empty());
    }

    #[test]
    fn an_invalid_score_and_an_unknown_model_are_reported_with_their_flight() {
        let wrong = compute(&[flight(1, 0.2, f32::NAN, 1, Some(true))], &thresholds(), 7).unwrap_err();
        assert!(
            wrong.to_string().starts_with("the frozen score of B6 1 from JFK at 2013-01-01T12:00Z is NaN"),
            "{wrong}"
        );
        let unknown = compute(&[flight(1, 0.2, 0.2, 9, Some(true))], &thresholds(), 7).unwrap_err();
        assert!(unknown.to_string().starts_with("model_v9 answered for B6 1"), "{unknown}");
    }
}
