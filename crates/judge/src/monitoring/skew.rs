//! Two ways in which what is served can differ from what was meant: the scores
//! are distributed otherwise than in the reference (prediction skew), or the
//! service scores a row otherwise than training does (train/serve skew).

use chrono::{DateTime, Utc};
use delayd_core::ids::ModelVersion;
use delayd_model::DriftReference;
use serde::{Deserialize, Serialize};

use super::bins::{Distances, design_effect, distances};
use super::drift::DriftWindow;

/// What counts as skew.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SkewPolicy {
    /// PSI of the scores above chance.
    pub score_psi: f64,
    /// It must be this improbable by chance.
    pub significance: f64,
    /// Fewer scores are not judged.
    pub minimum_rows: u64,
    /// Two scores of one row are the same when they differ by at most this:
    /// float arithmetic in another order, not another feature value.
    pub score_tolerance: f32,
    /// Share of rows that may differ before it is skew.
    pub tolerated_share: f64,
}

impl Default for SkewPolicy {
    fn default() -> Self {
        Self { score_psi: 0.25, significance: 0.001, minimum_rows: 500, score_tolerance: 1e-3, tolerated_share: 0.001 }
    }
}

impl SkewPolicy {
    /// Everything that is wrong with the policy; empty when it can be used.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let checks = [
            (positive(self.score_psi), "score_psi must be a number above 0"),
            (positive(self.significance), "significance must be above 0"),
            (positive(f64::from(self.score_tolerance)), "score_tolerance must be a number above 0"),
            ((0.0..1.0).contains(&self.tolerated_share), "tolerated_share must be 0 or more and under 1"),
        ];
        checks.iter().filter(|(fine, _)| !fine).map(|(_, text)| format!("skew: {text}")).collect()
    }
}

/// The distribution of scores against the reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PredictionSkewReport {
    /// Scores judged.
    pub rows: u64,
    /// Mean score in the reference, from bin middles.
    pub reference_mean: f64,
    /// Mean score in the window.
    pub window_mean: f64,
    /// Distances.
    pub distances: Distances,
    /// The verdict.
    pub skewed: bool,
    /// One sentence.
    pub reason: String,
}

/// Judges the scores of a window against the bundle's reference.
#[must_use]
pub fn prediction_skew(reference: &DriftReference, window: &DriftWindow, policy: &SkewPolicy) -> PredictionSkewReport {
    let days: Vec<&[u64]> = window.days.iter().map(|day| day.scores.as_slice()).collect();
    score_skew(&reference.score_counts, &window.sketch.scores, design_effect(&days), policy)
}

/// The same from bare counts, for verification's replayed rows. `effect` is the
/// number of rows per independent observation, 1 where rows are independent.
#[must_use]
pub fn score_skew(reference: &[u64], window: &[u64], effect: f64, policy: &SkewPolicy) -> PredictionSkewReport {
    let rows: u64 = window.iter().sum();
    let distances = distances(reference, window, reference.len(), effect);
    let enough = rows >= policy.minimum_rows;
    let large = distances.excess_psi >= policy.score_psi;
    let improbable = distances.chi_square_p < policy.significance;
    let (reference_mean, window_mean) = (mean_score(reference), mean_score(window));
    let means = format!("mean score {window_mean:.3} against {reference_mean:.3}");
    let size = format!("PSI {:.3} above chance", distances.excess_psi);
    let reason = match (enough, large, improbable) {
        (false, ..) => format!("{rows} scores are too few to judge; {} are needed", policy.minimum_rows),
        (_, false, _) => format!("{size} is under {}; {means}", policy.score_psi),
        (_, true, false) => format!("{size} may be chance (p {:.3}); {means}", distances.chi_square_p),
        (_, true, true) => format!("{size} reaches {}; {means}", policy.score_psi),
    };
    PredictionSkewReport { rows, reference_mean, window_mean, distances, skewed: enough && large && improbable, reason }
}

fn mean_score(counts: &[u64]) -> f64 {
    let rows = counts.iter().sum::<u64>().max(1) as f64;
    let bins = counts.len().max(1) as f64;
    counts.iter().enumerate().map(|(bin, count)| (bin as f64 + 0.5) / bins * *count as f64).sum::<f64>() / rows
}

/// One row scored twice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScoredTwice {
    /// Which row, for people.
    pub row: String,
    /// What the service answered.
    pub served: f32,
    /// What the bundle's own code says of the row as training builds it.
    pub recomputed: f32,
}

/// Rows scored by the service and by training's own path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainServeSkewReport {
    /// Rows compared.
    pub rows: u64,
    /// Rows that differ by more than the tolerance.
    pub different: u64,
    /// Largest difference.
    pub largest_difference: f32,
    /// The rows that differ most, at most ten.
    pub worst: Vec<ScoredTwice>,
    /// The verdict.
    pub skewed: bool,
    /// One sentence.
    pub reason: String,
}

/// Compares served scores with recomputed ones. A score that is not a number on
/// either side differs from everything.
#[must_use]
pub fn train_serve_skew(pairs: &[ScoredTwice], policy: &SkewPolicy) -> TrainServeSkewReport {
    let difference = |pair: &ScoredTwice| {
        let gap = (pair.served - pair.recomputed).abs();
        if gap.is_nan() { f32::INFINITY } else { gap }
    };
    let mut worst: Vec<&ScoredTwice> = pairs.iter().filter(|pair| difference(pair) > policy.score_tolerance).collect();
    worst.sort_by(|a, b| difference(b).total_cmp(&difference(a)));
    let (rows, different) = (pairs.len() as u64, worst.len() as u64);
    let largest_difference = pairs.iter().map(difference).fold(0.0, f32::max);
    let skewed = rows > 0 && different as f64 > policy.tolerated_share * rows as f64;
    let reason = match worst.first() {
        None if rows == 0 => "no row was scored on both sides".to_owned(),
        None => format!("all {rows} rows score the same within {}", policy.score_tolerance),
        Some(pair) => format!(
            "{different} of {rows} rows differ by more than {}: {} was served {:.4}, training's code says {:.4}",
            policy.score_tolerance, pair.row, pair.served, pair.recomputed
        ),
    };
    let worst = worst.into_iter().take(10).cloned().collect();
    TrainServeSkewReport { rows, different, largest_difference, worst, skewed, reason }
}

/// When replicas were asked the bundle's golden rows last, and what they said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainServeLook {
    /// When.
    pub at: DateTime<Utc>,
    /// The model.
    pub model: ModelVersion,
    /// Replicas that answered.
    pub replicas: usize,
    /// Their scores against training's.
    pub report: TrainServeSkewReport,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_of_the_same_distribution_are_no_skew_and_shifted_ones_are() {
        let reference: Vec<u64> = (0..20).map(|bin| 5_000 / (bin + 1)).collect();
        let same: Vec<u64> = reference.iter().map(|count| count / 10).collect();
        let mut shifted = vec![0; 4];
        shifted.extend(same.iter().take(16));
        let policy = SkewPolicy::default();
        assert!(!score_skew(&reference, &same, 1.0, &policy).skewed);
        let report = score_skew(&reference, &shifted, 1.0, &policy);
        assert!(report.skewed && report.window_mean > report.reference_mean, "{}", report.reason);
        assert!(!score_skew(&reference, &[3; 20], 1.0, &policy).skewed, "too few rows");
    }

    #[test]
    fn a_row_that_is_served_otherwise_than_training_scores_it_is_named() {
        let pair = |row: &str, served, recomputed| ScoredTwice { row: row.into(), served, recomputed };
        let policy = SkewPolicy::default();
        let fine = train_serve_skew(&[pair("a", 0.5, 0.5004), pair("b", 0.2, 0.2)], &policy);
        assert!(!fine.skewed && fine.different == 0);
        let wrong =
            train_serve_skew(&[pair("a", 0.5, 0.5), pair("B6 23", 0.2, 0.4), pair("c", f32::NAN, 0.1)], &policy);
        assert!(wrong.skewed && wrong.different == 2 && wrong.worst[0].row == "c", "{wrong:?}");
    }
}
