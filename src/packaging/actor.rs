//! The packaging stage's actor: handlers only.

use actix::{Handler, Message, ResponseFuture};

use super::messages::{BuildService, DiscardImage, PackageModel, PushImage, WithdrawImage};
use super::stage::PackagingStage;
use crate::supervision::StageActor;

/// The stage's actor.
pub type PackagingActor = StageActor<PackagingStage>;

impl Handler<BuildService> for PackagingActor {
    type Result = ResponseFuture<<BuildService as Message>::Result>;

    fn handle(&mut self, message: BuildService, _: &mut Self::Context) -> Self::Result {
        let stage = self.stage();
        self.work("BuildService", async move { stage.build(message).await })
    }
}

impl Handler<PackageModel> for PackagingActor {
    type Result = ResponseFuture<<PackageModel as Message>::Result>;

    fn handle(&mut self, message: PackageModel, _: &mut Self::Context) -> Self::Result {
        let stage = self.stage();
        self.work("PackageModel", async move { stage.package(message).await })
    }
}

impl Handler<PushImage> for PackagingActor {
    type Result = ResponseFuture<<PushImage as Message>::Result>;

    fn handle(&mut self, message: PushImage, _: &mut Self::Context) -> Self::Result {
        let stage = self.stage();
        self.work("PushImage", async move { stage.push(message).await })
    }
}

impl Handler<WithdrawImage> for PackagingActor {
    type Result = ResponseFuture<<WithdrawImage as Message>::Result>;

    fn handle(&mut self, message: WithdrawImage, _: &mut Self::Context) -> Self::Result {
        let stage = self.stage();
        self.work("WithdrawImage", async move { stage.withdraw(message).await })
    }
}

impl Handler<DiscardImage> for PackagingActor {
    type Result = ResponseFuture<<DiscardImage as Message>::Result>;

    fn handle(&mut self, message: DiscardImage, _: &mut Self::Context) -> Self::Result {
        let stage = self.stage();
        self.work("DiscardImage", async move { stage.discard(message).await })
    }
}
