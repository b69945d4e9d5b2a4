//! The verification stage's actor: handlers only.

use actix::{Handler, Message, ResponseFuture};

use super::messages::VerifyDeployment;
use super::stage::VerificationStage;
use crate::supervision::StageActor;

/// The stage's actor.
pub type VerificationActor = StageActor<VerificationStage>;

impl Handler<VerifyDeployment> for VerificationActor {
    type Result = ResponseFuture<<VerifyDeployment as Message>::Result>;

    fn handle(&mut self, message: VerifyDeployment, _: &mut Self::Context) -> Self::Result {
        let stage = self.stage();
        self.work("VerifyDeployment", async move { stage.verify_deployment(message).await })
    }
}
