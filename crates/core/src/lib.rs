//! What every part of delayd stands on: names of things, failures, the clock, secrets, and the ports through which the
//! outside world is reached.
//!
//! It knows no actor, no ledger and of a flight only what names it; it depends on no other crate of delayd.

pub mod atomic_file;
pub mod blocking;
pub mod build;
pub mod clock;
pub mod document;
pub mod error;
pub mod failure;
pub mod fault;
pub mod http_client;
pub mod ids;
pub mod own_folder;
pub mod ports;
pub mod retry;
pub mod secret;
pub mod spans;
#[cfg(feature = "sql")]
mod sql;

pub use blocking::{IntoPortError, blocking};
pub use document::{Document, DocumentError, Stored};
pub use error::{ErrorKind, PortError, chain};
pub use failure::{StepFailure, run_blocking};
pub use fault::Fault;
pub use retry::{RetryPolicy, Retryable};
pub use secret::Secret;
