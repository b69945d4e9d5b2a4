//! Encoder, network and calibration together: a flight goes in, a probability
//! comes out. Training's evaluation, the gate and the service all call this one.

use delayd_features::{Encoder, FlightRow, RawInputs};

use crate::bundle::{Bundle, BundleError, GoldenError};
use crate::net::{Calibration, DelayNet, Scratch};

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
