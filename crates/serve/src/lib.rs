//! The inference service: one process, one bundle.
//!
//! A replica loads a bundle, checks its golden rows, and answers `POST /predict`
//! and the Open Inference Protocol on its public address. While it does so it
//! counts every row into the bins of the bundle's drift reference; the daemon
//! fetches those counts, and the last predictions, from the replica's
//! administrative address. When it is told to stop it finishes what it began,
//! keeps its counts available until they were collected, and goes.
//!
//! It deliberately does no more than that: it never reads another bundle, keeps
//! nothing on disk, knows nothing of other replicas or of the daemon, and links
//! neither libtorch nor Polars.

mod counters;
mod error;
mod flight;
mod http;
mod inference_protocol;
mod metrics;
mod options;
mod predict;
mod replica;
mod request;
mod server;

pub use error::{StartError, Violation};
pub use options::{Listen, LogFormat, Options};
pub use predict::{PredictResponse, PredictedFlight, Warning};
pub use server::{Service, start};
