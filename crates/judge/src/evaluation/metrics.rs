//! What a set of scores is worth against what came of the flights.
//!
//! Every metric is computed from one ranking of the rows and one weight per row,
//! so that the bootstrap (see `intervals`) costs a pass over the rows instead of a
//! sort. The functions are pure; scores must be finite.

use serde::{Deserialize, Serialize};

pub const CALIBRATION_BINS: usize = 15;

/// Probabilities are kept this far from 0 and 1 before their logarithm is taken.
const PROBABILITY_FLOOR: f64 = 1e-7;

/// Rows in descending order of their score, made once for many weightings.
#[derive(Debug, Clone)]
pub struct Ranked<'a> {
    scores: &'a [f32],
    labels: &'a [bool],
    order: Vec<u32>,
}

impl<'a> Ranked<'a> {
    /// Ranks rows; of unequal lengths the shorter counts.
    pub fn new(scores: &'a [f32], labels: &'a [bool]) -> Self {
        let rows = scores.len().min(labels.len());
        let mut order: Vec<u32> = (0..rows as u32).collect();
        order.sort_unstable_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]).then(a.cmp(b)));
        Self { scores, labels, order }
    }

    /// Calls `visit` with the weight of positives and of negatives at each distinct
    /// score, from the highest score to the lowest.
    fn each_score(&self, weights: Option<&[u32]>, mut visit: impl FnMut(f64, f64)) {
        let (mut positives, mut negatives) = (0.0, 0.0);
        let mut previous = f32::NAN;
        for index in &self.order {
            let index = *index as usize;
            let score = self.scores[index];
            if score != previous && positives + negatives > 0.0 {
                visit(positives, negatives);
                (positives, negatives) = (0.0, 0.0);
            }
            previous = score;
            let weight = weights.map_or(1.0, |weights| f64::from(weights[index]));
            if self.labels[index] { positives += weight } else { negatives += weight }
        }
        if positives + negatives > 0.0 {
            visit(positives, negatives);
        }
    }

    /// Area under the ROC curve: the share of (delayed, punctual) pairs ranked
    /// rightly, ties counting half. `None` where one class is missing.
    pub fn roc_auc(&self, weights: Option<&[u32]>) -> Option<f64> {
        let (mut seen_positives, mut positives, mut negatives, mut pairs) = (0.0, 0.0, 0.0, 0.0);
        self.each_score(weights, |p, n| {
            pairs += n * (seen_positives + p / 2.0);
            seen_positives += p;
            positives += p;
            negatives += n;
        });
        (positives > 0.0 && negatives > 0.0).then(|| pairs / (positives * negatives))
    }

    /// Average precision: `Σ (recall_k - recall_{k-1}) · precision_k` over distinct
    /// scores. `None` without positives.
    pub fn pr_auc(&self, weights: Option<&[u32]>) -> Option<f64> {
        let (mut positives, mut all, mut area) = (0.0, 0.0, 0.0);
        self.each_score(weights, |p, n| {
            positives += p;
            all += p + n;
            area += p * positives / all;
        });
        (positives > 0.0).then(|| area / positives)
    }

    /// Recall among the `share` of rows with the highest scores; ties at the cut
    /// count in proportion. `None` without positives.
    pub fn recall_at_alert_share(&self, share: f64, weights: Option<&[u32]>) -> Option<f64> {
        let total: f64 = match weights {
            None => self.order.len() as f64,
            Some(weights) => self.order.iter().map(|index| f64::from(weights[*index as usize])).sum(),
        };
        let mut left = total * share.clamp(0.0, 1.0);
        let (mut positives, mut caught) = (0.0, 0.0);
        self.each_score(weights, |p, n| {
            let taken = (left / (p + n)).clamp(0.0, 1.0);
            caught += p * taken;
            left -= taken * (p + n);
            positives += p;
        });
        (positives > 0.0).then(|| caught / positives)
    }
}

/// Area under the ROC curve; see [`Ranked::roc_auc`].
pub fn roc_auc(scores: &[f32], labels: &[bool]) -> Option<f64> {
    Ranked::new(scores, labels).roc_auc(None)
}

fn weighted_mean(rows: usize, weights: Option<&[u32]>, value: impl Fn(usize) -> f64) -> Option<f64> {
    let (mut sum, mut total) = (0.0, 0.0);
    for index in 0..rows {
        let weight = weights.map_or(1.0, |weights| f64::from(weights[index]));
        if weight > 0.0 {
            sum += weight * value(index);
            total += weight;
        }
    }
    (total > 0.0).then(|| sum / total)
}

/// Mean negative log-likelihood in nats; `None` without rows.
pub fn log_loss(scores: &[f32], labels: &[bool], weights: Option<&[u32]>) -> Option<f64> {
    weighted_mean(scores.len().min(labels.len()), weights, |index| {
        let p = f64::from(scores[index]).clamp(PROBABILITY_FLOOR, 1.0 - PROBABILITY_FLOOR);
        if labels[index] { -p.ln() } else { -(1.0 - p).ln() }
    })
}

/// Mean squared error of the probability (Brier 1950); `None` without rows.
pub fn brier(scores: &[f32], labels: &[bool]) -> Option<f64> {
    weighted_mean(scores.len().min(labels.len()), None, |index| {
        let error = f64::from(scores[index]) - f64::from(u8::from(labels[index]));
        error * error
    })
}

/// Expected calibration error over [`CALIBRATION_BINS`] bins of equal width: the
/// mean distance between predicted and observed rate, weighted by rows.
pub fn expected_calibration_error(scores: &[f32], labels: &[bool]) -> Option<f64> {
    let mut bins = [(0.0_f64, 0.0_f64, 0.0_f64); CALIBRATION_BINS];
    for (score, label) in scores.iter().zip(labels) {
        let bin = ((score * CALIBRATION_BINS as f32).max(0.0) as usize).min(CALIBRATION_BINS - 1);
        bins[bin].0 += 1.0;
        bins[bin].1 += f64::from(*score);
        bins[bin].2 += f64::from(u8::from(*label));
    }
    let rows: f64 = bins.iter().map(|bin| bin.0).sum();
    (rows > 0.0).then(|| bins.iter().map(|(_, predicted, observed)| (predicted - observed).abs()).sum::<f64>() / rows)
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confusion {
    pub true_positives: u64,
    pub false_positives: u64,
    pub true_negatives: u64,
    pub false_negatives: u64,
}

impl Confusion {
    /// Counts rows; a score at the threshold counts as delayed.
    pub fn at(scores: &[f32], labels: &[bool], threshold: f32, weights: Option<&[u32]>) -> Self {
        let mut counts = Self::default();
        for (index, (score, label)) in scores.iter().zip(labels).enumerate() {
            let weight = weights.map_or(1, |weights| u64::from(weights[index]));
            let slot = match (*score >= threshold, *label) {
                (true, true) => &mut counts.true_positives,
                (true, false) => &mut counts.false_positives,
                (false, false) => &mut counts.true_negatives,
                (false, true) => &mut counts.false_negatives,
            };
            *slot += weight;
        }
        counts
    }

    pub fn rows(&self) -> u64 {
        self.true_positives + self.false_positives + self.true_negatives + self.false_negatives
    }

    /// Share of rows judged rightly.
    pub fn accuracy(&self) -> f64 {
        share(self.true_positives + self.true_negatives, self.rows())
    }

    /// Share of the alerts that were right; 0 without alerts.
    pub fn precision(&self) -> f64 {
        share(self.true_positives, self.true_positives + self.false_positives)
    }

    /// Share of the delayed flights that were found; 0 without any.
    pub fn recall(&self) -> f64 {
        share(self.true_positives, self.true_positives + self.false_negatives)
    }

    pub fn f1(&self) -> f64 {
        share(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)
    }

    pub fn alert_share(&self) -> f64 {
        share(self.true_positives + self.false_positives, self.rows())
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    pub rows: u64,
    pub positives: u64,
    pub roc_auc: Option<f64>,
    pub pr_auc: Option<f64>,
    pub log_loss: Option<f64>,
    pub brier: Option<f64>,
    pub expected_calibration_error: Option<f64>,
    pub threshold: f32,
    pub confusion: Confusion,
    pub accuracy: f64,
    pub precision: f64,
    /// Recall of the delayed class at the threshold.
    pub recall: f64,
    pub f1: f64,
}

impl Metrics {
    pub fn of(scores: &[f32], labels: &[bool], threshold: f32) -> Self {
        let ranked = Ranked::new(scores, labels);
        let confusion = Confusion::at(scores, labels, threshold, None);
        Self {
            rows: confusion.rows(),
            positives: confusion.true_positives + confusion.false_negatives,
            roc_auc: ranked.roc_auc(None),
            pr_auc: ranked.pr_auc(None),
            log_loss: log_loss(scores, labels, None),
            brier: brier(scores, labels),
            expected_calibration_error: expected_calibration_error(scores, labels),
            threshold,
            confusion,
            accuracy: confusion.accuracy(),
            precision: confusion.precision(),
            recall: confusion.recall(),
            f1: confusion.f1(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCORES: [f32; 6] = [0.9, 0.8, 0.7, 0.6, 0.55, 0.1];
    const LABELS: [bool; 6] = [true, true, false, true, false, false];

    fn close(found: Option<f64>, expected: f64) {
        assert!((found.unwrap() - expected).abs() < 1e-6, "{found:?} is not {expected}");
    }

    #[test]
    fn roc_auc_is_the_share_of_pairs_ranked_rightly() {
        // 9 pairs; only (0.6 delayed, 0.7 punctual) is wrong.
        close(roc_auc(&SCORES, &LABELS), 8.0 / 9.0);
    }

    #[test]
    fn ties_count_half_in_roc_auc() {
        close(roc_auc(&[0.5; 4], &[true, false, true, false]), 0.5);
        close(roc_auc(&[0.7, 0.5, 0.5], &[true, true, false]), 0.75);
    }

    #[test]
    fn roc_auc_needs_both_classes() {
        assert_eq!(roc_auc(&[0.1, 0.2], &[true, true]), None);
        assert_eq!(roc_auc(&[], &[]), None);
    }

    #[test]
    fn average_precision_agrees_with_the_hand_computed_value() {
        // 1/3·1 + 1/3·1 + 1/3·3/4
        close(Ranked::new(&SCORES, &LABELS).pr_auc(None), (1.0 + 1.0 + 0.75) / 3.0);
        // All tied: the base rate.
        close(Ranked::new(&[0.5; 4], &[true, false, false, false]).pr_auc(None), 0.25);
    }

    #[test]
    fn log_loss_and_brier_agree_with_the_hand_computed_values() {
        let (scores, labels) = ([0.8, 0.4], [true, false]);
        close(log_loss(&scores, &labels, None), -(0.8_f64.ln() + 0.6_f64.ln()) / 2.0);
        close(brier(&scores, &labels), (0.04 + 0.16) / 2.0);
        assert!(log_loss(&[0.0], &[true], None).unwrap().is_finite());
    }

    #[test]
    fn calibration_error_is_the_weighted_gap_of_each_bin() {
        // Bin of 0.9: predicted 0.9, observed 1/2. Bin of 0.1: predicted 0.1, observed 0.
        let found = expected_calibration_error(&[0.9, 0.9, 0.1, 0.1], &[true, false, false, false]);
        close(found, 0.5 * 0.4 + 0.5 * 0.1);
        close(expected_calibration_error(&[1.0], &[true]), 0.0);
    }

    #[test]
    fn the_confusion_at_a_threshold_counts_a_score_on_it_as_delayed() {
        let counts = Confusion::at(&SCORES, &LABELS, 0.7, None);
        assert_eq!(counts, Confusion { true_positives: 2, false_positives: 1, true_negatives: 2, false_negatives: 1 });
        let metrics = Metrics::of(&SCORES, &LABELS, 0.7);
        close(Some(metrics.accuracy), 4.0 / 6.0);
        close(Some(metrics.precision), 2.0 / 3.0);
        close(Some(metrics.recall), 2.0 / 3.0);
        close(Some(metrics.f1), 2.0 / 3.0);
        assert_eq!((metrics.rows, metrics.positives), (6, 3));
    }

    #[test]
    fn without_alerts_precision_is_zero_and_nothing_divides_by_zero() {
        let counts = Confusion::at(&[0.1], &[false], 0.5, None);
        assert_eq!((counts.precision(), counts.recall(), counts.f1()), (0.0, 0.0, 0.0));
        assert_eq!(Confusion::default().accuracy(), 0.0);
    }

    #[test]
    fn recall_at_an_alert_share_takes_tied_rows_in_proportion() {
        let ranked = Ranked::new(&SCORES, &LABELS);
        close(ranked.recall_at_alert_share(0.5, None), 2.0 / 3.0);
        let tied = Ranked::new(&[0.5; 4], &[true, true, false, false]);
        close(tied.recall_at_alert_share(0.25, None), 0.25);
    }

    #[test]
    fn a_weight_of_two_is_the_same_as_the_row_twice() {
        let weights = [2, 1, 0, 1, 3, 1];
        let rows: Vec<usize> = weights.iter().enumerate().flat_map(|(i, n)| vec![i; *n as usize]).collect();
        let scores: Vec<f32> = rows.iter().map(|i| SCORES[*i]).collect();
        let labels: Vec<bool> = rows.iter().map(|i| LABELS[*i]).collect();
        let ranked = Ranked::new(&SCORES, &LABELS);
        close(ranked.roc_auc(Some(&weights)), roc_auc(&scores, &labels).unwrap());
        close(ranked.pr_auc(Some(&weights)), Ranked::new(&scores, &labels).pr_auc(None).unwrap());
        close(log_loss(&SCORES, &LABELS, Some(&weights)), log_loss(&scores, &labels, None).unwrap());
        let counts = Confusion::at(&SCORES, &LABELS, 0.6, Some(&weights));
        assert_eq!(counts, Confusion::at(&scores, &labels, 0.6, None));
    }
}
