//! The training stage's actor: handlers only. Training itself runs on a thread of its own.

use actix::{Handler, Message, ResponseFuture};

use super::messages::{CancelRun, CompareWithLive, DiscardRun, TrainModel};
use super::stage::TrainingStage;
use crate::supervision::StageActor;

/// The stage's actor.
pub type TrainingActor = StageActor<TrainingStage>;

impl Handler<TrainModel> for TrainingActor {
    type Result = ResponseFuture<<TrainModel as Message>::Result>;

    fn handle(&mut self, message: TrainModel, _: &mut Self::Context) -> Self::Result {
        let stage = self.stage();
        self.work("TrainModel", async move { stage.train(message).await })
    }
}

impl Handler<CompareWithLive> for TrainingActor {
    type Result = ResponseFuture<<CompareWithLive as Message>::Result>;

    fn handle(&mut self, message: CompareWithLive, _: &mut Self::Context) -> Self::Result {
        let stage = self.stage();
        self.work("CompareWithLive", async move { stage.compare(message).await })
    }
}

impl Handler<CancelRun> for TrainingActor {
    type Result = <CancelRun as Message>::Result;

    fn handle(&mut self, message: CancelRun, _: &mut Self::Context) -> Self::Result {
        self.stage().cancel(&message);
        Ok(())
    }
}

impl Handler<DiscardRun> for TrainingActor {
    type Result = ResponseFuture<<DiscardRun as Message>::Result>;

    fn handle(&mut self, message: DiscardRun, _: &mut Self::Context) -> Self::Result {
        let stage = self.stage();
        self.work("DiscardRun", async move { stage.discard(message).await })
    }
}
