//! The monitor's actor: handlers only.

use actix::{Handler, Message, ResponseFuture};

use super::messages::{CollectDraining, Observe};
use super::stage::MonitorStage;
use crate::supervision::StageActor;

/// The stage's actor.
pub type MonitorActor = StageActor<MonitorStage>;

impl Handler<Observe> for MonitorActor {
    type Result = ResponseFuture<<Observe as Message>::Result>;

    fn handle(&mut self, _: Observe, _: &mut Self::Context) -> Self::Result {
        let stage = self.stage();
        self.work("Observe", async move { stage.observe().await })
    }
}

impl Handler<CollectDraining> for MonitorActor {
    type Result = ResponseFuture<<CollectDraining as Message>::Result>;

    fn handle(&mut self, _: CollectDraining, _: &mut Self::Context) -> Self::Result {
        let stage = self.stage();
        self.work("CollectDraining", async move { stage.collect_draining().await })
    }
}
