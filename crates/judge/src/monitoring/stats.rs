//! The few statistics that monitoring and verification share: intervals, tails
//! and robust centres. No policy lives here.

use serde::{Deserialize, Serialize};
use statrs::function::erf::{erf_inv, erfc};
use statrs::function::gamma::{gamma_lr, gamma_ur};

/// A closed interval of a measured value.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// The point below which a standard normal falls with probability `p`.
#[must_use]
pub fn normal_quantile(p: f64) -> f64 {
    std::f64::consts::SQRT_2 * erf_inv(2.0 * p.clamp(1e-12, 1.0 - 1e-12) - 1.0)
}

/// Probability that a standard normal is above `z`.
#[must_use]
pub fn normal_upper_tail(z: f64) -> f64 {
    0.5 * erfc(z / std::f64::consts::SQRT_2)
}

/// Wilson's score interval of a proportion (Wilson 1927): sensible at zero
/// events and in small samples. `confidence` is two-sided, 0 to 1. Without
/// trials nothing is known: 0 to 1.
#[must_use]
pub fn wilson(events: u64, trials: u64, confidence: f64) -> Interval {
    if trials == 0 {
        return Interval { low: 0.0, high: 1.0 };
    }
    let z = normal_quantile(0.5 + confidence / 2.0);
    let (n, p) = (trials as f64, events.min(trials) as f64 / trials as f64);
    let scale = 1.0 + z * z / n;
    let centre = (p + z * z / (2.0 * n)) / scale;
    let half = z / scale * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    let low = if events == 0 { 0.0 } else { (centre - half).max(0.0) };
    let high = if events >= trials { 1.0 } else { (centre + half).min(1.0) };
    Interval { low, high }
}

/// Probability of `x` or more under a chi-square law with `dof` degrees of freedom.
#[must_use]
pub fn chi_square_upper_tail(x: f64, dof: f64) -> f64 {
    if dof <= 0.0 || x <= 0.0 || !x.is_finite() {
        return if x.is_infinite() && x > 0.0 { 0.0 } else { 1.0 };
    }
    gamma_ur(dof / 2.0, x / 2.0).clamp(0.0, 1.0)
}

/// Probability that a Poisson count with mean `expected` is `count` or more.
#[must_use]
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
#[must_use]
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

/// The median; `None` of nothing.
#[must_use]
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
#[must_use]
pub fn robust_deviation(values: &[f64]) -> Option<f64> {
    let centre = median(values)?;
    let distances: Vec<f64> = values.iter().map(|value| (value - centre).abs()).collect();
    median(&distances).map(|mad| 1.4826 * mad)
}

/// The `p`-quantile (nearest rank) of a sorted slice; `None` of nothing.
#[must_use]
pub fn sorted_quantile(sorted: &[f64], p: f64) -> Option<f64> {
    let rank = (p.clamp(0.0, 1.0) * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).or(sorted.last()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wilson_interval_matches_published_values_and_admits_ignorance() {
        let interval = wilson(10, 100, 0.95);
        assert!((interval.low - 0.0552).abs() < 1e-3 && (interval.high - 0.1744).abs() < 1e-3, "{interval:?}");
        assert_eq!(wilson(0, 0, 0.95), Interval { low: 0.0, high: 1.0 });
        assert_eq!(wilson(0, 50, 0.95).low, 0.0);
        assert!(wilson(0, 50, 0.95).high > 0.05);
        assert_eq!(wilson(50, 50, 0.95).high, 1.0);
    }

    #[test]
    fn the_tails_match_tables() {
        assert!((normal_quantile(0.975) - 1.959_964).abs() < 1e-5);
        assert!((normal_upper_tail(1.959_964) - 0.025).abs() < 1e-6);
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
}
