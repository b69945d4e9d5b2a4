//! The deployment stage's actor: handlers only.

use actix::{Handler, Message, ResponseFuture};

use super::messages::{
    DeployModel, FinishRollback, ReconcileReplicas, RestoreRelease, RollBackToPrevious, RollbackVerified,
};
use super::stage::DeploymentStage;
use crate::supervision::StageActor;

/// The stage's actor.
pub type DeploymentActor = StageActor<DeploymentStage>;

impl Handler<DeployModel> for DeploymentActor {
    type Result = ResponseFuture<<DeployModel as Message>::Result>;

    fn handle(&mut self, message: DeployModel, _: &mut Self::Context) -> Self::Result {
        let stage = self.stage();
        self.work("DeployModel", async move { stage.deploy(message).await })
    }
}

impl Handler<RestoreRelease> for DeploymentActor {
    type Result = ResponseFuture<<RestoreRelease as Message>::Result>;

    fn handle(&mut self, message: RestoreRelease, _: &mut Self::Context) -> Self::Result {
        let stage = self.stage();
        self.work("RestoreRelease", async move { stage.restore(message).await })
    }
}

impl Handler<RollBackToPrevious> for DeploymentActor {
    type Result = ResponseFuture<<RollBackToPrevious as Message>::Result>;

    fn handle(&mut self, message: RollBackToPrevious, _: &mut Self::Context) -> Self::Result {
        let stage = self.stage();
        self.work("RollBackToPrevious", async move { stage.roll_back(message).await })
    }
}

impl Handler<FinishRollback> for DeploymentActor {
    type Result = ResponseFuture<<FinishRollback as Message>::Result>;

    fn handle(&mut self, _: FinishRollback, _: &mut Self::Context) -> Self::Result {
        let stage = self.stage();
        self.work("FinishRollback", async move { stage.finish_rollback().await })
    }
}

impl Handler<RollbackVerified> for DeploymentActor {
    type Result = ResponseFuture<<RollbackVerified as Message>::Result>;

    fn handle(&mut self, _: RollbackVerified, _: &mut Self::Context) -> Self::Result {
        let stage = self.stage();
        self.work("RollbackVerified", async move { stage.rollback_verified().await })
    }
}

impl Handler<ReconcileReplicas> for DeploymentActor {
    type Result = ResponseFuture<<ReconcileReplicas as Message>::Result>;

    fn handle(&mut self, _: ReconcileReplicas, _: &mut Self::Context) -> Self::Result {
        let stage = self.stage();
        self.work("ReconcileReplicas", async move { stage.reconcile().await })
    }
}
