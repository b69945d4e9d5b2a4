//! Watching the live model: what replicas counted is fetched (`scrape`), turned
//! into windows (`window`) and judged: drift of inputs and scores (`drift`,
//! `skew`), realised performance (`performance`), latency, errors and traffic.
//!
//! Everything except `scrape` is pure: documents in, documents out, all of them
//! serialisable so that a verdict can be explained later from what was stored.
//! Nothing here decides to retrain (see `crate::coordinator`) or sends an alert.

mod actor;
pub mod bins;
pub mod drift;
pub mod drift_brief;
pub mod drift_policy;
mod drift_report;
pub mod episodes;
pub mod errors;
mod fetch;
mod golden;
pub mod latency;
mod memory;
pub mod messages;
pub mod performance;
pub mod realised;
pub mod scrape;
pub mod service;
pub mod settings;
pub mod skew;
mod stage;
pub mod stats;
pub mod traffic;
pub mod window;

pub use actor::MonitorActor;
pub use settings::MonitoringSettings;
pub use stage::MonitorStage;
