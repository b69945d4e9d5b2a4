//! Watching the live model: what replicas counted is fetched (`scrape`), turned
//! into windows (`window`) and judged: drift of inputs and scores (`drift`,
//! `skew`), realised performance (`performance`), latency, errors and traffic.
//!
//! Everything except `scrape` is pure: documents in, documents out, all of them
//! serialisable so that a verdict can be explained later from what was stored.
//! Nothing here decides to retrain (see `delayd::coordinator`) or sends an alert.

pub mod drift;
pub mod performance;
pub mod realised;
pub mod service;
pub mod settings;
pub mod skew;
pub mod traffic;
pub mod window;

pub use settings::MonitoringSettings;
