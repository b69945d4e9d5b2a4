//! Watching the live model: what replicas counted is turned into windows (`window`) and judged: drift of inputs and scores
//! (`drift`, `skew`), realised performance (`performance`), latency, errors and traffic (`service`, `traffic`).
//!
//! Nothing here fetches from replicas, decides to retrain or sends an alert.

pub mod drift;
pub mod performance;
pub mod realised;
pub mod service;
pub mod settings;
pub mod skew;
pub mod traffic;
pub mod window;

pub use settings::MonitoringSettings;
