//! The registry's actor: handlers only.

use actix::{Handler, Message, ResponseFuture};

use super::messages::{DemoteModel, PromoteModel, RegisterModel, WithdrawModel};
use super::stage::RegistryStage;
use crate::supervision::StageActor;

/// The stage's actor.
pub type RegistryActor = StageActor<RegistryStage>;

impl Handler<RegisterModel> for RegistryActor {
    type Result = ResponseFuture<<RegisterModel as Message>::Result>;

    fn handle(&mut self, message: RegisterModel, _: &mut Self::Context) -> Self::Result {
        let stage = self.stage();
        self.work("RegisterModel", async move { stage.register(message).await })
    }
}

impl Handler<PromoteModel> for RegistryActor {
    type Result = ResponseFuture<<PromoteModel as Message>::Result>;

    fn handle(&mut self, message: PromoteModel, _: &mut Self::Context) -> Self::Result {
        let stage = self.stage();
        self.work("PromoteModel", async move { stage.promote(message).await })
    }
}

impl Handler<DemoteModel> for RegistryActor {
    type Result = ResponseFuture<<DemoteModel as Message>::Result>;

    fn handle(&mut self, message: DemoteModel, _: &mut Self::Context) -> Self::Result {
        let stage = self.stage();
        self.work("DemoteModel", async move { stage.demote(message).await })
    }
}

impl Handler<WithdrawModel> for RegistryActor {
    type Result = ResponseFuture<<WithdrawModel as Message>::Result>;

    fn handle(&mut self, message: WithdrawModel, _: &mut Self::Context) -> Self::Result {
        let stage = self.stage();
        self.work("WithdrawModel", async move { stage.withdraw(message).await })
    }
}
