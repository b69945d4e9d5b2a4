//! What the notifier is asked.

use actix::Message;

use crate::saga::StepFailure;

/// Deliver what is due.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), StepFailure>")]
pub struct DeliverAlerts;
