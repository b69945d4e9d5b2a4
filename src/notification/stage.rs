//! Delivering alerts, apart from the actor.

use super::messages::DeliverAlerts;
use crate::supervision::Request;
use std::sync::Arc;

use super::outbox::Outbox;
use super::settings::NotificationSettings;
use crate::env::Env;
use delayd_core::failure::StepFailure;
use delayd_core::fault::Fault;

/// The notifier's work.
#[derive(Clone)]
pub struct NotifierStage {
    env: Env,
    outbox: Arc<Outbox>,
}

impl NotifierStage {
    /// A notifier over the ledger's outbox.
    ///
    /// # Errors
    /// When the quiet hours are none.
    pub fn new(env: Env, settings: &NotificationSettings) -> Result<Self, Vec<Fault>> {
        let policy = settings.delivery_policy()?;
        let outbox = Arc::new(Outbox::new(env.ledger.clone(), policy));
        Ok(Self { env, outbox })
    }

    pub(super) async fn deliver(&self) -> Result<(), StepFailure> {
        let report = self.outbox.deliver_due(self.env.notifier.as_ref(), self.env.now()).await?;
        if report.failed + report.given_up > 0 {
            tracing::warn!(
                messages.failed = report.failed,
                messages.given_up = report.given_up,
                channels.away = report.channels_away,
                "alerts could not be delivered"
            );
        }
        Ok(())
    }
}

impl Request for DeliverAlerts {
    type Stage = NotifierStage;
    type Answer = ();

    async fn run(self, stage: &NotifierStage) -> Result<(), StepFailure> {
        stage.deliver().await
    }
}
