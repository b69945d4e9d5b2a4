//! Everything that is known about one model on one set of rows, next to the baselines: metrics with intervals; ROC-AUC by
//! carrier, origin, hour and month, as a good average can hide a bad corner; and how long the real serving code takes, on
//! this machine, now.

use std::collections::BTreeMap;
use std::time::Instant;

use chrono::{DateTime, Utc};
use delayd_data::Example;
use delayd_features::{CategoryInput, Encoder, FlightRow};
use delayd_model::{PredictScratch, Predictor};
use serde::{Deserialize, Serialize};

use crate::evaluation::baselines::{LookupTable, Majority};
use crate::evaluation::metrics::{Metrics, Ranked, log_loss};
use crate::evaluation::robustness::{PerturbedMetrics, robustness};
use crate::evaluation::score_rows;
use crate::stats::{BlockBootstrap, Estimate, delong, percentile_interval, sorted_quantile, wilson};
use delayd_core::Stored;

/// How much effort goes into an evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluationOptions {
    /// Confidence of all intervals.
    pub confidence: f64,
    /// Bootstrap replicates.
    pub replicates: usize,
    /// Rows within so many hours are drawn together.
    pub block_hours: u32,
    /// A slice needs so many rows.
    pub min_slice_rows: usize,
    /// Rows for robustness, at most, evenly spaced.
    pub robustness_rows: usize,
    /// Calls that are timed.
    pub latency_calls: usize,
    /// Fixes the bootstrap and the noise.
    pub seed: u64,
}

impl Default for EvaluationOptions {
    fn default() -> Self {
        Self {
            confidence: 0.95,
            replicates: 200,
            block_hours: 6,
            min_slice_rows: 100,
            robustness_rows: 5000,
            latency_calls: 2000,
            seed: 2013,
        }
    }
}

/// Confidence intervals of the main metrics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricIntervals {
    /// Wilson's.
    pub accuracy: Option<Estimate>,
    /// Wilson's.
    pub recall: Option<Estimate>,
    /// Wilson's.
    pub precision: Option<Estimate>,
    /// DeLong's: rows taken as independent.
    pub roc_auc_delong: Option<Estimate>,
    /// Block bootstrap: wider, and more honest.
    pub roc_auc: Option<Estimate>,
    /// Block bootstrap.
    pub pr_auc: Option<Estimate>,
    /// Block bootstrap.
    pub log_loss: Option<Estimate>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationReport {
    pub from: DateTime<Utc>,
    pub until: DateTime<Utc>,
    pub model: Metrics,
    pub intervals: MetricIntervals,
    /// Always saying the base rate.
    pub majority: Metrics,
    /// The lookup table, its threshold at the same share of alerts as the model's.
    pub lookup: Metrics,
    pub slices: Vec<SliceMetrics>,
    pub robustness: Vec<PerturbedMetrics>,
    pub latency: Option<ScoringLatency>,
}

/// What is read back of a bundle's `metrics.json`, which the ledger keeps with the run and the model. The file has a
/// version of its own, `schema`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BundleMetrics {
    /// On held-out rows; none where none of them had an outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<EvaluationReport>,
    /// On the validation tail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Metrics>,
}

impl BundleMetrics {
    /// What the model is judged by: its metrics on held-out rows, or on its validation tail.
    #[must_use]
    pub fn judged(&self) -> Option<&Metrics> {
        self.evaluation.as_ref().map(|found| &found.model).or(self.validation.as_ref())
    }
}

impl Stored for BundleMetrics {
    const NAME: &'static str = "metrics of a model";
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("none of the {rows} rows to evaluate on has an outcome yet; evaluate on a window whose flights have landed")]
pub struct NothingToEvaluate {
    pub rows: usize,
}

pub fn evaluate(
    predictor: &Predictor,
    examples: &[Example],
    majority: Majority,
    lookup: &LookupTable,
    options: &EvaluationOptions,
) -> Result<EvaluationReport, NothingToEvaluate> {
    let judged: Vec<(&Example, bool)> =
        examples.iter().filter_map(|example| example.outcome.map(|outcome| (example, outcome.delayed))).collect();
    let times = || judged.iter().map(|(example, _)| example.prediction_time);
    let (Some(from), Some(until)) = (times().min(), times().max()) else {
        return Err(NothingToEvaluate { rows: examples.len() });
    };
    let rows: Vec<&FlightRow> = judged.iter().map(|(example, _)| &example.row).collect();
    let labels: Vec<bool> = judged.iter().map(|(_, delayed)| *delayed).collect();
    let scores = score_rows(predictor, &rows);
    let model = Metrics::of(&scores, &labels, predictor.threshold());
    let table: Vec<f32> = rows.iter().map(|row| lookup.score(row)).collect();
    let share = model.confusion.alert_share();
    let blocks: Vec<u32> = times().map(|time| block_of(time, options.block_hours)).collect();
    let step = rows.len().div_ceil(options.robustness_rows.max(1)).max(1);
    let sampled: Vec<&FlightRow> = rows.iter().step_by(step).copied().collect();
    let sampled_labels: Vec<bool> = labels.iter().step_by(step).copied().collect();
    Ok(EvaluationReport {
        from,
        until,
        intervals: intervals(&model, &scores, &labels, &blocks, options),
        majority: Metrics::of(&vec![majority.rate; rows.len()], &labels, 0.5),
        lookup: Metrics::of(&table, &labels, threshold_for_alert_share(&table, share)),
        slices: by_slice(predictor.encoder(), &rows, &scores, &labels, options.min_slice_rows, options.confidence),
        robustness: robustness(predictor, &sampled, &sampled_labels, options.seed),
        latency: measure_latency(predictor, &sampled, options.latency_calls),
        model,
    })
}

/// Rows of the same stretch of `hours` share a block.
pub fn block_of(time: DateTime<Utc>, hours: u32) -> u32 {
    (time.timestamp().div_euclid(3600 * i64::from(hours.max(1)))) as u32
}

/// The score that this share of the rows reach.
pub fn threshold_for_alert_share(scores: &[f32], share: f64) -> f32 {
    let mut sorted = scores.to_vec();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    let alerts = (scores.len() as f64 * share).round() as usize;
    match alerts.checked_sub(1) {
        None => 1.0,
        Some(last) => sorted.get(last.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.5),
    }
}

fn intervals(
    model: &Metrics,
    scores: &[f32],
    labels: &[bool],
    blocks: &[u32],
    options: &EvaluationOptions,
) -> MetricIntervals {
    let ranked = Ranked::new(scores, labels);
    let (mut roc, mut pr, mut loss) = (Vec::new(), Vec::new(), Vec::new());
    BlockBootstrap::new(blocks, options.replicates, options.seed).each(|weights| {
        roc.extend(ranked.roc_auc(Some(weights)));
        pr.extend(ranked.pr_auc(Some(weights)));
        loss.extend(log_loss(scores, labels, Some(weights)));
    });
    let confidence = options.confidence;
    let around = |value: Option<f64>, replicates| value.and_then(|v| percentile_interval(v, replicates, confidence));
    let counts = model.confusion;
    let hits = counts.true_positives;
    MetricIntervals {
        accuracy: wilson(hits + counts.true_negatives, counts.rows(), confidence),
        recall: wilson(hits, hits + counts.false_negatives, confidence),
        precision: wilson(hits, hits + counts.false_positives, confidence),
        roc_auc_delong: delong(scores, labels, confidence),
        roc_auc: around(model.roc_auc, roc),
        pr_auc: around(model.pr_auc, pr),
        log_loss: around(model.log_loss, loss),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SliceBy {
    Carrier,
    Origin,
    /// Hour of the scheduled departure, local time.
    Hour,
    /// Month of the scheduled departure, local time, `2013-07`.
    Month,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SliceMetrics {
    pub by: SliceBy,
    pub value: String,
    pub rows: u64,
    pub positives: u64,
    pub mean_score: f64,
    /// ROC-AUC with DeLong's interval; `None` where a class has fewer than two rows.
    pub roc_auc: Option<Estimate>,
}

/// Cuts rows in every way and judges each slice of at least `min_rows`.
pub fn by_slice(
    encoder: &Encoder,
    rows: &[&FlightRow],
    scores: &[f32],
    labels: &[bool],
    min_rows: usize,
    confidence: f64,
) -> Vec<SliceMetrics> {
    let mut slices: BTreeMap<(SliceBy, String), (Vec<f32>, Vec<bool>)> = BTreeMap::new();
    for ((row, score), label) in rows.iter().zip(scores).zip(labels) {
        let hour = encoder.raw(row).with_category(row, CategoryInput::DepartureHour, |hour| format!("{hour:0>2}"));
        let values = [
            (SliceBy::Carrier, row.carrier.clone()),
            (SliceBy::Origin, row.origin.clone()),
            (SliceBy::Hour, hour),
            (SliceBy::Month, encoder.local_departure(row).format("%Y-%m").to_string()),
        ];
        for key in values {
            let slice = slices.entry(key).or_default();
            slice.0.push(*score);
            slice.1.push(*label);
        }
    }
    let kept = slices.into_iter().filter(|(_, (scores, _))| scores.len() >= min_rows);
    kept.map(|((by, value), (scores, labels))| SliceMetrics {
        by,
        value,
        rows: scores.len() as u64,
        positives: labels.iter().filter(|label| **label).count() as u64,
        mean_score: scores.iter().map(|score| f64::from(*score)).sum::<f64>() / scores.len().max(1) as f64,
        roc_auc: delong(&scores, &labels, confidence),
    })
    .collect()
}

pub const BATCHES: [usize; 3] = [1, 32, 1024];

/// Quantiles of a duration in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatencyQuantiles {
    pub calls: u64,
    pub p50_us: f64,
    pub p95_us: f64,
    pub p99_us: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchLatency {
    pub batch: usize,
    pub per_batch: LatencyQuantiles,
    pub p50_us_per_row: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoringLatency {
    pub per_row: LatencyQuantiles,
    pub batches: Vec<BatchLatency>,
}

/// Times `calls` calls of each batch size on one thread, after a tenth as many to
/// warm up. Large batches are called less often, so that each size sees about the
/// same number of rows, but never fewer than 20 times. `None` without rows.
pub fn measure_latency(predictor: &Predictor, rows: &[&FlightRow], calls: usize) -> Option<ScoringLatency> {
    if rows.is_empty() || calls == 0 {
        return None;
    }
    let batches: Vec<BatchLatency> = BATCHES
        .into_iter()
        .map(|batch| {
            let per_batch = time_batches(predictor, rows, batch, (calls / batch).max(20));
            BatchLatency { batch, per_batch, p50_us_per_row: per_batch.p50_us / batch as f64 }
        })
        .collect();
    batches.first().map(|single| single.per_batch).map(|per_row| ScoringLatency { per_row, batches })
}

fn time_batches(predictor: &Predictor, rows: &[&FlightRow], batch: usize, calls: usize) -> LatencyQuantiles {
    let mut scratch = PredictScratch::default();
    let mut next = rows.iter().cycle();
    let mut call = || {
        let began = Instant::now();
        for row in next.by_ref().take(batch) {
            std::hint::black_box(predictor.predict(row, &mut scratch));
        }
        began.elapsed().as_secs_f64() * 1e6
    };
    (0..calls / 10).for_each(|_| {
        call();
    });
    let mut times: Vec<f64> = (0..calls).map(|_| call()).collect();
    times.sort_unstable_by(f64::total_cmp);
    quantiles(&times)
}

/// Quantiles by nearest rank of ascending values.
fn quantiles(sorted: &[f64]) -> LatencyQuantiles {
    let at = |share: f64| sorted_quantile(sorted, share).unwrap_or(f64::NAN);
    LatencyQuantiles { calls: sorted.len() as u64, p50_us: at(0.5), p95_us: at(0.95), p99_us: at(0.99) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_alerts_gives_the_score_that_share_reaches() {
        let scores = [0.1, 0.4, 0.3, 0.2];
        assert_eq!(threshold_for_alert_share(&scores, 0.5), 0.3);
        assert_eq!(threshold_for_alert_share(&scores, 0.0), 1.0);
        assert_eq!(threshold_for_alert_share(&scores, 1.0), 0.1);
        assert_eq!(threshold_for_alert_share(&[], 0.5), 1.0);
    }

    #[test]
    fn hours_of_one_block_are_drawn_together() {
        let time = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let block = |text| block_of(time(text), 6);
        assert_eq!(block("2013-01-01T00:00:00Z"), block("2013-01-01T05:59:59Z"));
        assert_ne!(block("2013-01-01T05:59:59Z"), block("2013-01-01T06:00:00Z"));
    }

    #[test]
    fn quantiles_are_taken_by_nearest_rank() {
        let times: Vec<f64> = (1..=100).map(f64::from).collect();
        let found = quantiles(&times);
        assert_eq!((found.p50_us, found.p95_us, found.p99_us), (50.0, 95.0, 99.0));
        assert_eq!(quantiles(&[7.0]).p99_us, 7.0);
    }
}
