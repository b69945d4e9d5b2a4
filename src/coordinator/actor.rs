//! The coordinator's actor: handlers only. Cycles are driven on a task of their
//! own, so that the coordinator answers while one is under way.

use actix::{AsyncContext, Handler, Message, ResponseFuture, WrapFuture};

use super::messages::{AwaitCycle, Consider, CycleFinished, OperatorCommand, ResumeUnfinished};
use super::stage::CoordinatorStage;
use crate::ids::CycleId;
use crate::ledger::CycleState;
use crate::saga::StepFailure;
use crate::supervision::StageActor;
use crate::telemetry;

/// The coordinator's actor.
pub type CoordinatorActor = StageActor<CoordinatorStage>;

/// Drives a cycle on the actor's own thread; it ends with the actor, and the
/// next one resumes it from the ledger.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Drive(CycleId);

impl Handler<Drive> for CoordinatorActor {
    type Result = ();

    fn handle(&mut self, message: Drive, context: &mut Self::Context) {
        let stage = self.stage();
        let what = format!("driving {}", message.0);
        let driven = self.work(&what, async move {
            if let Err(failure) = stage.drive(message.0).await {
                tracing::error!(error = %failure, "a cycle could not be driven; it is resumed from the ledger");
            }
        });
        context.spawn(driven.into_actor(self));
    }
}

impl Handler<Consider> for CoordinatorActor {
    type Result = ResponseFuture<<Consider as Message>::Result>;

    fn handle(&mut self, message: Consider, context: &mut Self::Context) -> Self::Result {
        let (stage, this) = (self.stage(), context.address());
        self.work("Consider", async move {
            let (considered, cycle) = stage.consider(message).await?;
            if let Some(cycle) = cycle {
                this.do_send(Drive(cycle.id));
            }
            Ok(considered)
        })
    }
}

impl Handler<ResumeUnfinished> for CoordinatorActor {
    type Result = ResponseFuture<<ResumeUnfinished as Message>::Result>;

    fn handle(&mut self, _: ResumeUnfinished, context: &mut Self::Context) -> Self::Result {
        let (stage, this) = (self.stage(), context.address());
        Box::pin(async move {
            let Ok(free) = stage.driving.try_lock() else { return Ok(stage.unfinished().await?.map(|cycle| cycle.id)) };
            stage.finish_rollback().await?;
            let Some(cycle) = stage.unfinished().await? else { return Ok(None) };
            telemetry::cycle_span(&cycle).in_scope(|| tracing::info!("an unfinished cycle is resumed"));
            drop(free);
            this.do_send(Drive(cycle.id));
            Ok(Some(cycle.id))
        })
    }
}

impl Handler<AwaitCycle> for CoordinatorActor {
    type Result = ResponseFuture<<AwaitCycle as Message>::Result>;

    fn handle(&mut self, message: AwaitCycle, _: &mut Self::Context) -> Self::Result {
        let stage = self.stage();
        Box::pin(async move {
            loop {
                let cycle = stage.context.env.ledger.cycle(message.cycle).await?;
                let Some(cycle) = cycle else { return Ok(None) };
                if cycle.state != CycleState::Running {
                    return Ok(Some(CycleFinished { cycle: cycle.id, outcome: cycle.outcome, detail: cycle.detail }));
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        })
    }
}

impl Handler<OperatorCommand> for CoordinatorActor {
    type Result = ResponseFuture<<OperatorCommand as Message>::Result>;

    fn handle(&mut self, message: OperatorCommand, context: &mut Self::Context) -> Self::Result {
        let (stage, this) = (self.stage(), context.address());
        self.work("OperatorCommand", async move {
            let (answer, cycle) = stage.obey(message).await?;
            if let Some(cycle) = cycle {
                this.do_send(Drive(cycle));
            }
            Ok::<_, StepFailure>(answer)
        })
    }
}
