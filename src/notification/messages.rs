//! What the notifier is asked.

/// Deliver what is due.
#[derive(Debug, Clone)]
pub struct DeliverAlerts;
