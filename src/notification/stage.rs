//! Delivering alerts, apart from the actor.

use std::sync::Arc;

use super::outbox::{DeliveryPolicy, Outbox};
use crate::config::NotificationSettings;
use crate::env::Env;
use crate::saga::StepFailure;

/// The notifier's work.
#[derive(Clone)]
pub struct NotifierStage {
    env: Env,
    outbox: Arc<Outbox>,
}

impl NotifierStage {
    /// A notifier over the ledger's outbox.
    #[must_use]
    pub fn new(env: Env, settings: &NotificationSettings) -> Self {
        let policy = DeliveryPolicy { max_attempts: settings.attempts, ..DeliveryPolicy::default() };
        let outbox = Arc::new(Outbox::new(env.ledger.clone(), policy));
        Self { env, outbox }
    }

    pub(super) async fn deliver(&self) -> Result<(), StepFailure> {
        let report = self.outbox.deliver_due(self.env.notifier.as_ref(), self.env.now()).await?;
        if report.failed + report.given_up > 0 {
            tracing::warn!(
                alerts.failed = report.failed,
                alerts.given_up = report.given_up,
                "alerts could not be delivered"
            );
        }
        Ok(())
    }
}
