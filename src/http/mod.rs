//! The status endpoint: health, metrics, and the API that the commands and the
//! page read.
//!
//! It only asks the ledger and passes commands on to the coordinator; it holds no
//! state of its own.

mod alerts;
mod api;
mod error;
mod health;
mod metrics;
mod server;

pub use alerts::{AlertRetried, SilenceBody};
pub use api::{CommandBody, StatusDocument};
pub use metrics::Metrics;
pub use server::{ApiState, serve};
