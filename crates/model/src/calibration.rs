//! From the network's logit to a probability.

use serde::{Deserialize, Serialize};

/// Platt scaling: `p = 1 / (1 + exp(-(slope · logit + intercept)))` (Platt 1999),
/// fitted on the time-ordered tail that training did not learn from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Multiplies the logit.
    pub slope: f64,
    /// Is added to it.
    pub intercept: f64,
}

impl Default for Calibration {
    fn default() -> Self {
        Self { slope: 1.0, intercept: 0.0 }
    }
}

impl Calibration {
    pub fn probability(&self, logit: f32) -> f32 {
        let z = self.slope * f64::from(logit) + self.intercept;
        (1.0 / (1.0 + (-z).exp())) as f32
    }

    /// Fits slope and intercept on the log-loss with Platt's smoothed targets, by
    /// Newton's method with backtracking (Lin, Lin and Weng 2007: the bare method
    /// runs away from overconfident logits). Falls back to the identity where the
    /// labels are all alike, or where a higher logit would mean a lower risk.
    pub fn fit(logits: &[f32], labels: &[bool]) -> Self {
        let positives = labels.iter().filter(|label| **label).count() as f64;
        let negatives = labels.len() as f64 - positives;
        if positives < 1.0 || negatives < 1.0 {
            return Self::default();
        }
        let high = (positives + 1.0) / (positives + 2.0);
        let low = 1.0 / (negatives + 2.0);
        let pairs = || logits.iter().zip(labels).map(|(x, label)| (f64::from(*x), if *label { high } else { low }));
        let mut fitted = Self { slope: 0.0, intercept: ((positives + 1.0) / (negatives + 1.0)).ln() };
        let mut loss = fitted.log_loss(pairs());
        for _ in 0..100 {
            let Some((step, descent)) = fitted.newton_step(pairs()) else { break };
            let mut scale = 1.0;
            let next = loop {
                let (slope, intercept) = (fitted.slope - scale * step.0, fitted.intercept - scale * step.1);
                let next = Self { slope, intercept };
                let next_loss = next.log_loss(pairs());
                if next_loss < loss - 1e-4 * scale * descent {
                    break Some((next, next_loss));
                }
                scale /= 2.0;
                if scale < 1e-10 {
                    break None;
                }
            };
            let Some((next, next_loss)) = next else { break };
            (fitted, loss) = (next, next_loss);
        }
        let sound = fitted.slope.is_finite() && fitted.intercept.is_finite() && fitted.slope > 0.0;
        if sound { fitted } else { Self::default() }
    }

    /// Sum of the log-loss over pairs of logit and target, stable for any logit.
    fn log_loss(&self, pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
        let loss = |(x, target): (f64, f64)| {
            let z = self.slope * x + self.intercept;
            z.max(0.0) - z * target + (-z.abs()).exp().ln_1p()
        };
        pairs.map(loss).sum()
    }

    /// Newton's step, and how steeply the loss falls along it; `None` at the minimum.
    fn newton_step(&self, pairs: impl Iterator<Item = (f64, f64)>) -> Option<((f64, f64), f64)> {
        const RIDGE: f64 = 1e-12;
        let (mut g0, mut g1, mut h00, mut h01, mut h11) = (0.0, 0.0, RIDGE, 0.0, RIDGE);
        for (x, target) in pairs {
            let p = 1.0 / (1.0 + (-(self.slope * x + self.intercept)).exp());
            let (error, weight) = (p - target, p * (1.0 - p));
            g0 += error * x;
            g1 += error;
            h00 += weight * x * x;
            h01 += weight * x;
            h11 += weight;
        }
        let determinant = h00 * h11 - h01 * h01;
        let step = ((h11 * g0 - h01 * g1) / determinant, (h00 * g1 - h01 * g0) / determinant);
        let descent = step.0 * g0 + step.1 * g1;
        (descent.is_finite() && descent > 1e-12).then_some((step, descent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overconfident_logits_are_drawn_back_to_the_observed_rate() {
        let logits: Vec<f32> = (0..1000).map(|n| if n % 2 == 0 { 4.0 } else { -4.0 }).collect();
        let labels: Vec<bool> = (0..1000).map(|n| if n % 2 == 0 { n % 10 < 8 } else { n % 10 >= 9 }).collect();
        let fitted = Calibration::fit(&logits, &labels);
        assert!((fitted.probability(4.0) - 0.8).abs() < 0.01, "{fitted:?}");
        assert!((fitted.probability(-4.0) - 0.2).abs() < 0.01, "{fitted:?}");
    }

    #[test]
    fn a_shifted_and_stretched_truth_is_found_again() {
        let truth = Calibration { slope: 0.6, intercept: -0.8 };
        let logits: Vec<f32> = (0..20_000).map(|n| ((n % 100) as f32 - 50.0) / 10.0).collect();
        // Each logit occurs 200 times; as many of them are labelled as the truth says.
        let label = |(n, x): (usize, &f32)| ((n / 100) as f32) < 200.0 * truth.probability(*x);
        let labels: Vec<bool> = logits.iter().enumerate().map(label).collect();
        let fitted = Calibration::fit(&logits, &labels);
        assert!((fitted.slope - truth.slope).abs() < 0.02, "{fitted:?}");
        assert!((fitted.intercept - truth.intercept).abs() < 0.03, "{fitted:?}");
    }

    #[test]
    fn huge_logits_and_a_constant_one_do_not_run_away() {
        let logits: Vec<f32> = (0..100).map(|n| if n % 3 == 0 { 500.0 } else { -500.0 }).collect();
        let labels: Vec<bool> = (0..100).map(|n| n % 3 == 0).collect();
        assert!(Calibration::fit(&logits, &labels).probability(500.0) > 0.9);
        let constant =
            Calibration::fit(&[0.7; 10], &[true, false, false, false, false, false, false, false, false, true]);
        assert!((0.0..=1.0).contains(&constant.probability(0.7)));
        let reversed = Calibration::fit(&[-1.0, 1.0, -2.0, 2.0], &[true, false, true, false]);
        assert_eq!(reversed, Calibration::default());
    }

    #[test]
    fn labels_that_are_all_alike_leave_the_identity() {
        assert_eq!(Calibration::fit(&[0.5, 1.0], &[true, true]), Calibration::default());
    }
}
