//! The status endpoint: health, metrics, and the API that the commands and the
//! page read.
//!
//! It only asks the ledger and passes commands on to the coordinator; it holds no
//! state of its own.

mod access;
mod api;
mod documents;
mod error;
mod health;
mod listeners;
mod metrics;
mod page;
mod server;
mod tls;

pub use access::{Access, Session, Via};
pub use api::{AlertRetried, CommandBody, LONGEST_SILENCE_DAYS, SilenceBody, Streams, openapi_document};
pub use documents::{CycleDocument, Listed, ReferenceDocument};
pub use listeners::{ListenError, Listeners, LocalSocket};
pub use metrics::{Metrics, catalogue, count_requests};
pub use server::{ApiState, serve};
pub use tls::{ServedCertificate, Tls, TlsError, certificate_expires_at};
