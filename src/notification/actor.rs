//! The notifier's actor: handlers only.

use actix::{Handler, Message, ResponseFuture};

use super::messages::DeliverAlerts;
use super::stage::NotifierStage;
use crate::supervision::StageActor;

/// The stage's actor.
pub type NotifierActor = StageActor<NotifierStage>;

impl Handler<DeliverAlerts> for NotifierActor {
    type Result = ResponseFuture<<DeliverAlerts as Message>::Result>;

    fn handle(&mut self, _: DeliverAlerts, _: &mut Self::Context) -> Self::Result {
        let stage = self.stage();
        self.work("DeliverAlerts", async move { stage.deliver().await })
    }
}
