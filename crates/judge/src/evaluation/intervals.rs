//! How sure a metric is: Wilson's interval for shares, DeLong's for ROC-AUC, and a
//! seeded block bootstrap for everything else and for differences.
//!
//! Flights of one hour share their weather and their queue, so rows are no
//! independent draws: the bootstrap draws whole blocks of rows.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal};

/// A value with the bounds of its confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = evaluation::Interval)]
pub struct Interval {
    /// The value on all rows.
    pub value: f64,
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

/// The two-sided standard normal quantile of a confidence level: 1.96 for 0.95.
fn normal_quantile(confidence: f64) -> f64 {
    Normal::standard().inverse_cdf(0.5 + confidence.clamp(0.0, 0.999_999) / 2.0)
}

/// Wilson's score interval (1927) of a share; `None` without trials.
#[must_use]
pub fn wilson(successes: u64, trials: u64, confidence: f64) -> Option<Interval> {
    if trials == 0 {
        return None;
    }
    let n = trials as f64;
    let p = successes as f64 / n;
    let z = normal_quantile(confidence);
    let centre = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    Some(Interval { value: p, low: (centre - half).max(0.0), high: (centre + half).min(1.0) })
}

/// DeLong's interval (1988) of ROC-AUC by midranks (Sun & Xu 2014); `None` where a
/// class has fewer than two rows.
#[must_use]
pub fn delong(scores: &[f32], labels: &[bool], confidence: f64) -> Option<Interval> {
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
    Some(Interval { value, low: (value - half).max(0.0), high: (value + half).min(1.0) })
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
    #[must_use]
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
#[must_use]
pub fn percentile_interval(value: f64, mut replicates: Vec<f64>, confidence: f64) -> Option<Interval> {
    replicates.retain(|replicate| replicate.is_finite());
    if replicates.is_empty() {
        return None;
    }
    replicates.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| replicates[((replicates.len() - 1) as f64 * share).round() as usize];
    let tail = (1.0 - confidence) / 2.0;
    Some(Interval { value, low: at(tail), high: at(1.0 - tail) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::metrics::{Ranked, roc_auc};

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
