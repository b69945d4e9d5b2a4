//! The model as an artefact: one immutable bundle with everything that is needed
//! to serve it, and DelayNet's forward pass in plain Rust.
//!
//! A bundle is a folder. `manifest.json` lists every file with its SHA-256, and
//! the bundle's digest is the SHA-256 of that manifest, so that one digest names
//! weights, feature spec, threshold, calibration, drift reference and golden rows
//! together. Rolling back means going back to a bundle as a whole.
//!
//! The crate deliberately knows nothing of libtorch: training writes the weights,
//! and this crate reads them.

pub mod admin;
mod bundle;
mod net;
mod predictor;
mod reference;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use bundle::{Bundle, BundleError, FileEntry, GoldenError, GoldenRow, Manifest, ModelFile};
pub use net::{Architecture, Calibration, DelayNet, NetError, Scratch};
pub use predictor::{PredictScratch, Prediction, Predictor};
pub use reference::{CategoryReference, DriftReference, NumericReference, Sketch, SketchCounter, SketchError};

#[cfg(test)]
mod tests;
