//! What a model is worth: metrics with intervals, next to baselines, by slice, under
//! perturbation, with its latency; and the gate that compares two models.
//!
//! Everything is judged through `delayd_model::Predictor`, the code that serves. The
//! module decides nothing about the loop: the coordinator acts on a verdict.

pub mod baselines;
pub mod gate;
pub mod metrics;
pub mod report;
pub mod robustness;

use std::borrow::Borrow;

use delayd_features::FlightRow;
use delayd_model::{PredictScratch, Predictor};
use rayon::prelude::*;

pub use baselines::{LookupTable, Majority};
pub use gate::{GateInputs, GatePolicy, GateRows, GateVerdict, Scored, compare};
pub use metrics::Metrics;
pub use report::{BundleMetrics, EvaluationOptions, EvaluationReport, evaluate};

/// The scores of rows, in their order, by the code that serves, on all cores.
pub fn score_rows<R: Borrow<FlightRow> + Sync>(predictor: &Predictor, rows: &[R]) -> Vec<f32> {
    rows.par_iter()
        .with_min_len(64)
        .map_init(PredictScratch::default, |scratch, row| predictor.predict(row.borrow(), scratch).score)
        .collect()
}
