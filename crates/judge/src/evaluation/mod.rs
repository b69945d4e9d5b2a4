//! What a model is worth: metrics with intervals, next to baselines, by slice, under
//! perturbation, with its latency; and the gate that compares two models.
//!
//! Everything is judged through `delayd_model::Predictor`, the code that serves. The
//! module decides nothing about the loop: the coordinator acts on a verdict.

pub mod baselines;
pub mod gate;
pub mod inputs;
pub mod intervals;
pub mod latency;
pub mod metrics;
pub mod report;
pub mod robustness;
pub mod score;
pub mod slices;

pub use baselines::{LookupTable, Majority};
pub use gate::{GateInputs, GatePolicy, GateRows, GateVerdict, Scored, compare};
pub use metrics::Metrics;
pub use report::{BundleMetrics, EvaluationOptions, EvaluationReport, evaluate};
