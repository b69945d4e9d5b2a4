//! Statistics that evaluation, monitoring and verification share: intervals, tails, robust centres. No policy lives here.
//!
//! How sure a number is: Wilson's interval for shares, DeLong's for ROC-AUC, and a seeded block bootstrap for everything
//! else and for differences. Flights of one hour share their weather and their queue, so rows are not independent draws:
//! the bootstrap draws whole blocks of rows.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal};
use statrs::function::gamma::{gamma_lr, gamma_ur};

/// A value with the bounds of its confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = evaluation::Interval)]
pub struct Estimate {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// The bounds alone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

/// The two-sided standard normal quantile of a confidence level: 1.96 for 0.95.
pub fn normal_quantile(confidence: f64) -> f64 {
    Normal::standard().inverse_cdf(0.5 + confidence.clamp(0.0, 1.0 - 1e-12) / 2.0)
}

/// Wilson's score interval (1927) of a share: sensible at zero events and in small samples. `confidence` is two-sided,
/// 0 to 1. `None` without trials.
pub fn wilson(events: u64, trials: u64, confidence: f64) -> Option<Estimate> {
    if trials == 0 {
        return None;
    }
    let z = normal_quantile(confidence);
    let (n, p) = (trials as f64, events.min(trials) as f64 / trials as f64);
    let scale = 1.0 + z * z / n;
    let centre = (p + z * z / (2.0 * n)) / scale;
    let half = z / scale * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    Some(Estimate { value: p, low: (centre - half).max(0.0), high: (centre + half).min(1.0) })
}

/// [`wilson`]'s bounds for the share of failures: exactly 0 and 1 where none or all failed. Without trials nothing is
/// known: 0 to 1.
pub fn failure_interval(failures: u64, trials: u64, confidence: f64) -> Interval {
    let bounds = wilson(failures, trials, confidence);
    Interval {
        low: bounds.filter(|_| failures > 0).map_or(0.0, |bounds| bounds.low),
        high: bounds.filter(|_| failures < trials).map_or(1.0, |bounds| bounds.high),
    }
}

/// Probability of `x` or more under a chi-square law with `dof` degrees of freedom.
pub fn chi_square_upper_tail(x: f64, dof: f64) -> f64 {
    if dof <= 0.0 || x <= 0.0 || !x.is_finite() {
        return if x.is_infinite() && x > 0.0 { 0.0 } else { 1.0 };
    }
    gamma_ur(dof / 2.0, x / 2.0).clamp(0.0, 1.0)
}

/// Probability that a Poisson count with mean `expected` is `count` or more.
pub fn poisson_upper_tail(count: u64, expected: f64) -> f64 {
    match (count, expected > 0.0) {
        (0, _) => 1.0,
        (_, false) => 0.0,
        (count, true) => gamma_lr(count as f64, expected).clamp(0.0, 1.0),
    }
}

/// Asymptotic probability of a Kolmogorov-Smirnov distance of `distance` or more
/// between samples with `effective` = n·m/(n+m). On bins the distance can only be
/// smaller than on the values, so the answer errs on the side of "no difference".
pub fn kolmogorov_upper_tail(distance: f64, effective: f64) -> f64 {
    let root = effective.max(0.0).sqrt();
    // Stephens' correction for small samples.
    let lambda = (root + 0.12 + 0.11 / root.max(1e-9)) * distance;
    if lambda < 0.2 {
        return 1.0;
    }
    let term = |k: i32| 2.0 * (-2.0 * f64::from(k * k) * lambda * lambda).exp() * if k % 2 == 1 { 1.0 } else { -1.0 };
    (1..=100).map(term).sum::<f64>().clamp(0.0, 1.0)
}

pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    match sorted.len() % 2 {
        0 => Some((sorted.get(sorted.len() / 2 - 1)? + upper) / 2.0),
        _ => Some(upper),
    }
}

/// Standard deviation estimated from the median absolute deviation
/// (1.4826 · MAD, consistent for a normal law); `None` of nothing.
pub fn robust_deviation(values: &[f64]) -> Option<f64> {
    let centre = median(values)?;
    let distances: Vec<f64> = values.iter().map(|value| (value - centre).abs()).collect();
    median(&distances).map(|mad| 1.4826 * mad)
}

/// The `p`-quantile (nearest rank) of a sorted slice; `None` of nothing.
pub fn sorted_quantile(sorted: &[f64], p: f64) -> Option<f64> {
    let rank = (p.clamp(0.0, 1.0) * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).or(sorted.last()).copied()
}

/// DeLong's interval (1988) of ROC-AUC by midranks (Sun & Xu 2014); `None` where a
/// class has fewer than two rows.
pub fn delong(scores: &[f32], labels: &[bool], confidence: f64) -> Option<Estimate> {
    let of = |wanted: bool| -> Vec<f32> {
        scores.iter().zip(labels).filter(|(_, label)| **label == wanted).map(|(score, _)| *score).collect()
    };
    let (positives, negatives) = (of(true), of(false));
    let (m, n) = (positives.len(), negatives.len());
    if m < 2 || n < 2 {
        return None;
    }
    let all: Vec<f32> = positives.iter().chain(&negatives).copied().collect();
    let ranks = midranks(&all);
    let (own_positives, own_negatives) = (midranks(&positives), midranks(&negatives));
    let share_below: Vec<f64> = (0..m).map(|i| (ranks[i] - own_positives[i]) / n as f64).collect();
    let share_above: Vec<f64> = (0..n).map(|j| 1.0 - (ranks[m + j] - own_negatives[j]) / m as f64).collect();
    let value = share_below.iter().sum::<f64>() / m as f64;
    let error = (variance(&share_below) / m as f64 + variance(&share_above) / n as f64).sqrt();
    let half = normal_quantile(confidence) * error;
    Some(Estimate { value, low: (value - half).max(0.0), high: (value + half).min(1.0) })
}

fn midranks(values: &[f32]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_unstable_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let tied = order[start..].iter().take_while(|index| values[**index] == values[order[start]]).count().max(1);
        let rank = start as f64 + (tied as f64 + 1.0) / 2.0;
        order[start..start + tied].iter().for_each(|index| ranks[*index] = rank);
        start += tied;
    }
    ranks
}

fn variance(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / (n - 1.0)
}

/// Draws of whole blocks, given as one weight per row.
#[derive(Debug)]
pub struct BlockBootstrap {
    rows_of_block: Vec<Vec<u32>>,
    rows: usize,
    seed: u64,
    replicates: usize,
}

impl BlockBootstrap {
    /// `blocks` names each row's block; rows of equal name are drawn together.
    pub fn new(blocks: &[u32], replicates: usize, seed: u64) -> Self {
        let mut by_name: std::collections::BTreeMap<u32, Vec<u32>> = std::collections::BTreeMap::new();
        for (row, block) in blocks.iter().enumerate() {
            by_name.entry(*block).or_default().push(row as u32);
        }
        Self { rows_of_block: by_name.into_values().collect(), rows: blocks.len(), seed, replicates }
    }

    /// Calls `visit` with the weights of each replicate.
    pub fn each(&self, mut visit: impl FnMut(&[u32])) {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let mut weights = vec![0_u32; self.rows];
        for _ in 0..self.replicates {
            weights.fill(0);
            for _ in 0..self.rows_of_block.len() {
                let block = &self.rows_of_block[random.random_range(0..self.rows_of_block.len())];
                block.iter().for_each(|row| weights[*row as usize] += 1);
            }
            visit(&weights);
        }
    }
}

/// The percentile interval of replicates around a value; `None` where there are none.
pub fn percentile_interval(value: f64, mut replicates: Vec<f64>, confidence: f64) -> Option<Estimate> {
    replicates.retain(|replicate| replicate.is_finite());
    if replicates.is_empty() {
        return None;
    }
    replicates.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| replicates[((replicates.len() - 1) as f64 * share).round() as usize];
    let tail = (1.0 - confidence) / 2.0;
    Some(Estimate { value, low: at(tail), high: at(1.0 - tail) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::metrics::{Ranked, roc_auc};

    #[test]
    fn the_wilson_interval_matches_published_values_and_admits_ignorance() {
        let interval = failure_interval(10, 100, 0.95);
        assert!((interval.low - 0.0552).abs() < 1e-3 && (interval.high - 0.1744).abs() < 1e-3, "{interval:?}");
        assert_eq!(failure_interval(0, 0, 0.95), Interval { low: 0.0, high: 1.0 });
        assert_eq!(failure_interval(0, 50, 0.95).low, 0.0);
        assert!(failure_interval(0, 50, 0.95).high > 0.05);
        assert_eq!(failure_interval(50, 50, 0.95).high, 1.0);
    }

    #[test]
    fn the_tails_match_tables() {
        assert!((normal_quantile(0.95) - 1.959_964).abs() < 1e-5);
        assert!((chi_square_upper_tail(16.919, 9.0) - 0.05).abs() < 1e-4);
        assert_eq!(chi_square_upper_tail(0.0, 9.0), 1.0);
        // P(Poisson(2) >= 5) = 0.052653.
        assert!((poisson_upper_tail(5, 2.0) - 0.052_653).abs() < 1e-5);
        assert!((kolmogorov_upper_tail(1.358 / 100.0_f64.sqrt() / 1.0132, 100.0) - 0.05).abs() < 2e-3);
    }

    #[test]
    fn robust_centre_and_spread_ignore_one_wild_value() {
        let values = [10.0, 11.0, 9.0, 10.0, 1000.0];
        assert_eq!(median(&values), Some(10.0));
        assert!(robust_deviation(&values).unwrap() < 2.0);
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn quantiles_are_by_nearest_rank() {
        let sorted: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(sorted_quantile(&sorted, 0.95), Some(95.0));
        assert_eq!(sorted_quantile(&sorted, 0.0), Some(1.0));
        assert_eq!(sorted_quantile(&[], 0.5), None);
    }

    #[test]
    fn wilson_agrees_with_the_published_example() {
        // 8 of 10 at 95 %: 0.4902 to 0.9433 (Agresti & Coull 1998's formula).
        let interval = wilson(8, 10, 0.95).unwrap();
        assert!((interval.low - 0.4902).abs() < 5e-4 && (interval.high - 0.9433).abs() < 5e-4, "{interval:?}");
        assert_eq!(wilson(0, 0, 0.95), None);
        assert!(wilson(0, 20, 0.95).unwrap().low.abs() < 1e-9);
    }

    #[test]
    fn delong_gives_the_area_itself_and_a_hand_computed_variance() {
        // Positives 0.8, 0.4; negatives 0.6, 0.2: shares below (1, 1/2), above (1, 1/2),
        // variance of each is 1/8, so the error is sqrt(1/16 + 1/16).
        let (scores, labels) = ([0.8, 0.4, 0.6, 0.2], [true, true, false, false]);
        let interval = delong(&scores, &labels, 0.95).unwrap();
        assert!((interval.value - 0.75).abs() < 1e-12);
        assert!((interval.low - (0.75 - 1.959_964 * 0.125_f64.sqrt())).abs() < 1e-4, "{interval:?}");
        assert_eq!(delong(&[0.1, 0.2], &[true, false], 0.95), None);
    }

    #[test]
    fn delong_and_the_bootstrap_agree_on_independent_rows() {
        let scores: Vec<f32> = (0..600).map(|n| ((n * 37) % 101) as f32 / 101.0).collect();
        let labels: Vec<bool> = (0..600).map(|n| (n * 37) % 101 + (n * 53) % 89 > 110).collect();
        let exact = delong(&scores, &labels, 0.95).unwrap();
        assert!((exact.value - roc_auc(&scores, &labels).unwrap()).abs() < 1e-9);
        let ranked = Ranked::new(&scores, &labels);
        let mut replicates = Vec::new();
        let blocks: Vec<u32> = (0..600).collect();
        BlockBootstrap::new(&blocks, 400, 7).each(|weights| replicates.extend(ranked.roc_auc(Some(weights))));
        let drawn = percentile_interval(exact.value, replicates, 0.95).unwrap();
        assert!((drawn.low - exact.low).abs() < 0.01 && (drawn.high - exact.high).abs() < 0.01, "{drawn:?} {exact:?}");
    }

    #[test]
    fn a_bootstrap_with_the_same_seed_draws_the_same_rows_and_keeps_blocks_whole() {
        let blocks = [0, 0, 0, 5, 5, 9];
        let draw = |seed| {
            let mut all = Vec::new();
            BlockBootstrap::new(&blocks, 20, seed).each(|weights| all.push(weights.to_vec()));
            all
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert!(draw(3).iter().all(|w| w[0] == w[1] && w[1] == w[2] && w[3] == w[4]));
    }
}
