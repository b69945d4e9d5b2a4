//! How far two sets of counts in the same bins are apart, and two ways in which what is served can differ from what was
//! meant: the scores are distributed otherwise than in the reference (prediction skew), or the service scores a row
//! otherwise than training does (train/serve skew).
//!
//! Flights of one day share their weather and their queues, so 10,000 rows are
//! far fewer than 10,000 independent observations. [`design_effect`] estimates by
//! how much from the differences between days, and every test divides by it
//! (Rao and Scott, 1981): without that, a large sample makes every difference
//! "significant", and even PSI is far above zero where nothing changed.

use chrono::{DateTime, Utc};
use delayd_core::fault::{broken_rules, is_positive};
use delayd_core::ids::ModelVersion;
use delayd_model::DriftReference;
use serde::{Deserialize, Serialize};

use crate::monitoring::drift::DriftWindow;
use crate::stats::{chi_square_upper_tail, kolmogorov_upper_tail};

/// Pseudo-count per bin (Jeffreys' prior): an empty bin says "rare", not "impossible".
const SMOOTHING: f64 = 0.5;

/// The distances between a reference and a window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Distances {
    /// Bins that hold anything in either.
    pub bins: usize,
    /// Population stability index, `Σ (q-p)·ln(q/p)`, smoothed.
    pub psi: f64,
    /// What PSI would be on average if nothing had changed:
    /// `(bins-1)·(1/n + 1/m)` with effective sample sizes.
    pub expected_psi: f64,
    /// `psi - expected_psi`, at least 0: the effect size that is judged.
    pub excess_psi: f64,
    /// Jensen-Shannon distance, base 2: 0 for equal, 1 for disjoint.
    pub jensen_shannon: f64,
    /// Largest difference of the cumulative shares; `None` for unordered bins.
    pub kolmogorov_smirnov: Option<f64>,
    pub kolmogorov_smirnov_p: Option<f64>,
    /// p-value of the chi-square test of homogeneity, with effective sample sizes.
    pub chi_square_p: f64,
    /// Cramér's V, as it were with samples of equal size (so that it does not
    /// depend on how long the reference is): 0 for equal, 1 for disjoint.
    pub cramers_v: f64,
    /// Rows per independent observation.
    pub design_effect: f64,
}

/// Shares of counts; all zero where nothing was counted.
pub fn shares(counts: &[u64]) -> Vec<f64> {
    let total = counts.iter().sum::<u64>().max(1) as f64;
    counts.iter().map(|count| *count as f64 / total).collect()
}

/// Measures the distances. `ordered` is the number of leading bins that have an
/// order (all intervals of a number; 0 for a category).
pub fn distances(reference: &[u64], window: &[u64], ordered: usize, design_effect: f64) -> Distances {
    let (m, n) = (reference.iter().sum::<u64>(), window.iter().sum::<u64>());
    let pairs: Vec<(u64, u64)> =
        reference.iter().copied().zip(window.iter().copied()).filter(|(r, w)| r + w > 0).collect();
    let bins = pairs.len();
    let effect = design_effect.max(1.0);
    if m == 0 || n == 0 || bins < 2 {
        return Distances { bins, chi_square_p: 1.0, design_effect: effect, ..Distances::default() };
    }
    let (m_eff, n_eff) = (m as f64 / effect, n as f64 / effect);
    let dof = (bins - 1) as f64;
    let share = |count: u64, total: u64| (count as f64 + SMOOTHING) / (total as f64 + SMOOTHING * bins as f64);
    let (mut psi, mut divergence, mut triangular) = (0.0, 0.0, 0.0);
    for (r, w) in &pairs {
        let (p, q) = (share(*r, m), share(*w, n));
        let mid = (p + q) / 2.0;
        psi += (q - p) * (q / p).ln();
        divergence += 0.5 * (p * (p / mid).log2() + q * (q / mid).log2());
        triangular += (p - q) * (p - q) / (p + q);
    }
    let expected_psi = dof * (1.0 / n_eff + 1.0 / m_eff);
    let ks = (ordered > 1).then(|| largest_gap(reference, window, ordered));
    Distances {
        bins,
        psi,
        expected_psi,
        excess_psi: (psi - expected_psi).max(0.0),
        jensen_shannon: divergence.max(0.0).sqrt(),
        kolmogorov_smirnov: ks,
        kolmogorov_smirnov_p: ks.map(|gap| kolmogorov_upper_tail(gap, n_eff * m_eff / (n_eff + m_eff))),
        chi_square_p: chi_square_upper_tail(homogeneity(&[reference, window]).0 / effect, dof),
        cramers_v: (triangular / 2.0).sqrt(),
        design_effect: effect,
    }
}

/// Rows per independent observation, from how much days differ: the chi-square
/// statistic of homogeneity among the days by its degrees of freedom. Between 1
/// and the rows of a day: a day is at least one observation. 1 for fewer than
/// two days, where nothing can be said.
pub fn design_effect(days: &[&[u64]]) -> f64 {
    let days: Vec<&[u64]> = days.iter().copied().filter(|day| day.iter().any(|count| *count > 0)).collect();
    if days.len() < 2 {
        return 1.0;
    }
    let rows: u64 = days.iter().flat_map(|day| day.iter()).sum();
    let (statistic, dof) = homogeneity(&days);
    if dof < 1.0 {
        return 1.0;
    }
    (statistic / dof).clamp(1.0, (rows as f64 / days.len() as f64).max(1.0))
}

/// Pearson's chi-square statistic of homogeneity and its degrees of freedom.
fn homogeneity(samples: &[&[u64]]) -> (f64, f64) {
    let bins = samples.iter().map(|sample| sample.len()).max().unwrap_or(0);
    let bin_total = |bin: usize| samples.iter().filter_map(|sample| sample.get(bin)).sum::<u64>() as f64;
    let totals: Vec<f64> = (0..bins).map(bin_total).collect();
    let all: f64 = totals.iter().sum();
    let mut statistic = 0.0;
    for sample in samples {
        let rows = sample.iter().sum::<u64>() as f64;
        for (count, total) in sample.iter().zip(&totals) {
            let expected = rows * total / all.max(1.0);
            if expected > 0.0 {
                statistic += (*count as f64 - expected).powi(2) / expected;
            }
        }
    }
    let used = totals.iter().filter(|total| **total > 0.0).count();
    (statistic, (samples.len().saturating_sub(1) * used.saturating_sub(1)) as f64)
}

fn largest_gap(reference: &[u64], window: &[u64], ordered: usize) -> f64 {
    let total = |counts: &[u64]| counts.iter().take(ordered).sum::<u64>().max(1) as f64;
    let (m, n) = (total(reference), total(window));
    let (mut below_m, mut below_n, mut gap) = (0.0, 0.0, 0.0_f64);
    for (r, w) in reference.iter().zip(window).take(ordered) {
        below_m += *r as f64 / m;
        below_n += *w as f64 / n;
        gap = gap.max((below_m - below_n).abs());
    }
    gap
}

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
    pub fn faults(&self) -> Vec<String> {
        broken_rules(
            "skew",
            &[
                (is_positive(self.score_psi), "score_psi must be a number above 0"),
                (is_positive(self.significance), "significance must be above 0"),
                (is_positive(f64::from(self.score_tolerance)), "score_tolerance must be a number above 0"),
                ((0.0..1.0).contains(&self.tolerated_share), "tolerated_share must be 0 or more and under 1"),
            ],
        )
    }
}

/// The distribution of scores against the reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PredictionSkewReport {
    pub rows: u64,
    /// Mean score in the reference, from bin middles.
    pub reference_mean: f64,
    pub window_mean: f64,
    pub distances: Distances,
    pub skewed: bool,
    pub reason: String,
}

/// Judges the scores of a window against the bundle's reference.
pub fn prediction_skew(reference: &DriftReference, window: &DriftWindow, policy: &SkewPolicy) -> PredictionSkewReport {
    let days: Vec<&[u64]> = window.days.iter().map(|day| day.scores.as_slice()).collect();
    score_skew(&reference.score_counts, &window.sketch.scores, design_effect(&days), policy)
}

/// The same from bare counts, for verification's replayed rows. `effect` is the
/// number of rows per independent observation, 1 where rows are independent.
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

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScoredTwice {
    pub row: String,
    pub served: f32,
    /// What the bundle's own code says of the row as training builds it.
    pub recomputed: f32,
}

/// Rows scored by the service and by training's own path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainServeSkewReport {
    pub rows: u64,
    /// Rows that differ by more than the tolerance.
    pub different: u64,
    pub largest_difference: f32,
    /// The rows that differ most, at most ten.
    pub worst: Vec<ScoredTwice>,
    pub skewed: bool,
    pub reason: String,
}

/// Compares served scores with recomputed ones. A score that is not a number on
/// either side differs from everything.
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
    pub at: DateTime<Utc>,
    pub model: ModelVersion,
    pub replicas: usize,
    pub report: TrainServeSkewReport,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_shares_are_no_distance_and_disjoint_bins_are_the_largest() {
        let same = distances(&[100, 200, 700], &[10, 20, 70], 3, 1.0);
        assert!(same.psi < 1e-3 && same.jensen_shannon < 0.02 && same.chi_square_p > 0.99, "{same:?}");
        let apart = distances(&[100_000, 0], &[0, 100_000], 2, 1.0);
        assert!(apart.jensen_shannon > 0.99 && apart.cramers_v > 0.99 && apart.psi > 10.0, "{apart:?}");
        assert_eq!(apart.kolmogorov_smirnov, Some(1.0));
    }

    #[test]
    fn psi_matches_a_value_worked_by_hand() {
        // p = (.5, .5), q = (.6, .4): .1 ln 1.2 - .1 ln .8 = 0.040547.
        let found = distances(&[500_000, 500_000], &[600_000, 400_000], 2, 1.0);
        assert!((found.psi - 0.040_547).abs() < 1e-5, "{}", found.psi);
    }

    #[test]
    fn an_empty_window_is_no_evidence() {
        let found = distances(&[10, 20], &[0, 0], 2, 1.0);
        assert_eq!((found.excess_psi, found.chi_square_p), (0.0, 1.0));
    }

    #[test]
    fn days_that_differ_count_as_few_observations_and_days_alike_as_many() {
        let alike: [&[u64]; 3] = [&[50, 50], &[51, 49], &[49, 51]];
        assert_eq!(design_effect(&alike), 1.0);
        let whole_days: [&[u64]; 3] = [&[100, 0], &[0, 100], &[100, 0]];
        assert_eq!(design_effect(&whole_days), 100.0);
        let one: [&[u64]; 1] = [&[1, 2]];
        assert_eq!(design_effect(&one), 1.0);
    }

    #[test]
    fn a_bin_that_nobody_uses_costs_no_degree_of_freedom() {
        assert_eq!(distances(&[10, 20, 0], &[10, 20, 0], 3, 1.0).bins, 2);
    }

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
