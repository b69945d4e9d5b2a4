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
    /// The calibrated probability.
    #[must_use]
    pub fn probability(&self, logit: f32) -> f32 {
        let z = self.slope * f64::from(logit) + self.intercept;
        (1.0 / (1.0 + (-z).exp())) as f32
    }

    /// Fits slope and intercept by Newton's method on the log-loss, with Platt's
    /// smoothed targets. Falls back to the identity where the labels are all alike.
    #[must_use]
    pub fn fit(logits: &[f32], labels: &[bool]) -> Self {
        let positives = labels.iter().filter(|label| **label).count() as f64;
        let negatives = labels.len() as f64 - positives;
        if positives < 1.0 || negatives < 1.0 {
            return Self::default();
        }
        let high = (positives + 1.0) / (positives + 2.0);
        let low = 1.0 / (negatives + 2.0);
        let mut fitted = Self::default();
        for _ in 0..50 {
            let (mut g0, mut g1, mut h00, mut h01, mut h11) = (0.0, 0.0, 1e-9, 0.0, 1e-9);
            for (logit, label) in logits.iter().zip(labels) {
                let x = f64::from(*logit);
                let p = 1.0 / (1.0 + (-(fitted.slope * x + fitted.intercept)).exp());
                let error = p - if *label { high } else { low };
                let weight = (p * (1.0 - p)).max(1e-12);
                g0 += error * x;
                g1 += error;
                h00 += weight * x * x;
                h01 += weight * x;
                h11 += weight;
            }
            let determinant = h00 * h11 - h01 * h01;
            if determinant.abs() < 1e-12 {
                break;
            }
            let step_slope = (h11 * g0 - h01 * g1) / determinant;
            let step_intercept = (h00 * g1 - h01 * g0) / determinant;
            fitted.slope -= step_slope;
            fitted.intercept -= step_intercept;
            if step_slope.abs() + step_intercept.abs() < 1e-9 {
                break;
            }
        }
        if fitted.slope.is_finite() && fitted.intercept.is_finite() && fitted.slope > 0.0 {
            fitted
        } else {
            Self::default()
        }
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
    fn labels_that_are_all_alike_leave_the_identity() {
        assert_eq!(Calibration::fit(&[0.5, 1.0], &[true, true]), Calibration::default());
    }
}
