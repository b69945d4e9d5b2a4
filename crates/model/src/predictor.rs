//! Encoder, network and calibration together: a flight goes in, a probability
//! comes out. Training's evaluation, the gate and the service all call this one.

use delayd_features::{Encoder, FlightRow, RawInputs};
use serde::{Deserialize, Serialize};

use crate::bundle::{Bundle, BundleError, GoldenError};
use crate::net::{DelayNet, Scratch};

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// Calibrated probability of arriving 15 minutes late or more.
    pub score: f32,
    /// Whether that reaches the threshold.
    pub delayed: bool,
}

#[derive(Debug, Clone)]
pub struct Predictor {
    encoder: Encoder,
    net: DelayNet,
    calibration: Calibration,
    threshold: f32,
}

/// Buffers of one prediction, kept between calls.
#[derive(Debug, Clone, Default)]
pub struct PredictScratch {
    categories: Vec<u32>,
    numerics: Vec<f32>,
    net: Scratch,
}

impl PredictScratch {
    /// The category indexes of the row that was predicted last, in the order of
    /// the spec's categories; 0 is the bucket for the unseen.
    pub fn category_indexes(&self) -> &[u32] {
        &self.categories
    }
}

/// Refuses parts that could be put together only to predict nonsense.
fn check_parts(bundle: &Bundle) -> Result<(), BundleError> {
    let (spec, model) = (&bundle.features, &bundle.model);
    let fault = if spec.cardinalities() != model.architecture.cardinalities {
        format!(
            "the spec's categories have {:?} indexes, the network's {:?}",
            spec.cardinalities(),
            model.architecture.cardinalities
        )
    } else if spec.numeric_width() != model.architecture.numeric_width {
        let (spec, net) = (spec.numeric_width(), model.architecture.numeric_width);
        format!("the spec has {spec} numeric columns, the network {net}")
    } else if !(0.0..=1.0).contains(&model.threshold) {
        format!("the threshold is {}, not between 0 and 1", model.threshold)
    } else if !(model.calibration.slope.is_finite() && model.calibration.intercept.is_finite()) {
        "the calibration is not finite".to_owned()
    } else {
        return Ok(());
    };
    Err(BundleError::Mismatch(fault))
}

impl Predictor {
    pub fn new(encoder: Encoder, net: DelayNet, calibration: Calibration, threshold: f32) -> Self {
        Self { encoder, net, calibration, threshold }
    }

    /// Makes a bundle ready, and checks that its golden rows come out.
    pub fn from_bundle(bundle: &Bundle) -> Result<Self, BundleError> {
        check_parts(bundle)?;
        let encoder = Encoder::new(bundle.features.clone())?;
        let net = DelayNet::from_safetensors(&bundle.model.architecture, &bundle.weights)?;
        let predictor = Self::new(encoder, net, bundle.model.calibration, bundle.model.threshold);
        predictor.check_golden(bundle)?;
        Ok(predictor)
    }

    fn check_golden(&self, bundle: &Bundle) -> Result<(), GoldenError> {
        let tolerance = crate::GoldenRow::TOLERANCE;
        let mut scratch = PredictScratch::default();
        for (index, golden) in bundle.golden.iter().enumerate() {
            let found = self.predict(&golden.to_row(index)?, &mut scratch).score;
            let close = (found - golden.score).abs() <= tolerance;
            if !close {
                let flight = format!("{}{} {}-{}", golden.carrier, golden.flight_number, golden.origin, golden.dest);
                return Err(GoldenError::Differs { index, flight, found, expected: golden.score, tolerance });
            }
        }
        Ok(())
    }

    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    pub fn threshold(&self) -> f32 {
        self.threshold
    }

    pub fn predict(&self, row: &FlightRow, scratch: &mut PredictScratch) -> Prediction {
        self.predict_raw(row, &self.encoder.raw(row), scratch)
    }

    /// Predicts one flight whose raw inputs are known (the service needs them
    /// for its sketches too).
    pub fn predict_raw(&self, row: &FlightRow, raw: &RawInputs, scratch: &mut PredictScratch) -> Prediction {
        let spec = self.encoder.spec();
        scratch.categories.resize(spec.categories.len(), 0);
        scratch.numerics.resize(spec.numeric_width(), 0.0);
        self.encoder.encode_raw_into(row, raw, &mut scratch.categories, &mut scratch.numerics);
        let logit = self.net.logit(&scratch.categories, &scratch.numerics, &mut scratch.net);
        let score = self.calibration.probability(logit);
        Prediction { score, delayed: score >= self.threshold }
    }
}

/// Platt scaling: `p = 1 / (1 + exp(-(slope · logit + intercept)))` (Platt 1999),
/// fitted on the time-ordered tail that training did not fit.
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
