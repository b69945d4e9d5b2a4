//! Behaviour added to any adapter by wrapping its port: trying again, and failing
//! on purpose. Adapters themselves stay free of both.

mod failing;
mod retrying;

pub use delayd_core::retry::RetryPolicy;
pub use failing::{Failing, PlannedFailures};
pub use retrying::Retrying;
