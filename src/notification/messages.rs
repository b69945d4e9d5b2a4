//! What the notifier is asked.


use delayd_core::failure::StepFailure;

/// Deliver what is due.
#[derive(Debug, Clone)]
pub struct DeliverAlerts;
