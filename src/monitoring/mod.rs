//! The monitoring stage: fetches what replicas counted, has it judged, and records what came of it.

pub mod drift_brief;
mod fetch;
mod golden;
mod memory;
pub mod messages;
mod stage;

pub use stage::MonitorStage;
