//! Everything that is known about one model on one set of rows, next to the baselines.

use chrono::{DateTime, Utc};
use delayd_features::FlightRow;
use delayd_model::Predictor;
use serde::{Deserialize, Serialize};

use crate::evaluation::baselines::{LookupTable, Majority};
use crate::evaluation::intervals::{BlockBootstrap, Interval, delong, percentile_interval, wilson};
use crate::evaluation::latency::{self, LatencyReport};
use crate::evaluation::metrics::{Metrics, Ranked, log_loss};
use crate::evaluation::robustness::{PerturbedMetrics, robustness};
use crate::evaluation::score::score_rows;
use crate::evaluation::slices::{SliceMetrics, by_slice};
use delayd_core::Stored;
use delayd_data::Example;

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
    pub accuracy: Option<Interval>,
    /// Wilson's.
    pub recall: Option<Interval>,
    /// Wilson's.
    pub precision: Option<Interval>,
    /// DeLong's: rows taken as independent.
    pub roc_auc_delong: Option<Interval>,
    /// Block bootstrap: wider, and more honest.
    pub roc_auc: Option<Interval>,
    /// Block bootstrap.
    pub pr_auc: Option<Interval>,
    /// Block bootstrap.
    pub log_loss: Option<Interval>,
}

/// The whole evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationReport {
    /// First prediction time.
    pub from: DateTime<Utc>,
    /// Last prediction time.
    pub until: DateTime<Utc>,
    /// The model.
    pub model: Metrics,
    /// Its intervals.
    pub intervals: MetricIntervals,
    /// Always saying the base rate.
    pub majority: Metrics,
    /// The lookup table, its threshold at the same share of alerts as the model's.
    pub lookup: Metrics,
    /// By carrier, origin, hour and month.
    pub slices: Vec<SliceMetrics>,
    /// Under perturbations.
    pub robustness: Vec<PerturbedMetrics>,
    /// Of the serving code.
    pub latency: Option<LatencyReport>,
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

/// Why an evaluation is not possible.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("none of the {rows} rows to evaluate on has an outcome yet; evaluate on a window whose flights have landed")]
pub struct NothingToEvaluate {
    /// Rows given.
    pub rows: usize,
}

/// Judges a model on the examples with an outcome.
///
/// # Errors
/// When no example has an outcome.
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
        latency: latency::measure(predictor, &sampled, options.latency_calls),
        model,
    })
}

/// Rows of the same stretch of `hours` share a block.
#[must_use]
pub fn block_of(time: DateTime<Utc>, hours: u32) -> u32 {
    (time.timestamp().div_euclid(3600 * i64::from(hours.max(1)))) as u32
}

/// The score that this share of the rows reach.
#[must_use]
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
}
