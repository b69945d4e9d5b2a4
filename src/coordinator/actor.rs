//! The coordinator's actor: handlers only. Cycles are driven on a task of their
//! own, so that the coordinator answers while one is under way.

use actix::{AsyncContext, Handler, Message, ResponseFuture, WrapFuture};

use super::messages::{AwaitCycle, Consider, CycleFinished, OperatorCommand, ResumeUnfinished};
use super::stage::CoordinatorStage;
use crate::ledger::{Cycle, CycleState};
use crate::saga::StepFailure;
use crate::supervision::StageActor;
use crate::telemetry;

/// The coordinator's actor.
pub type CoordinatorActor = StageActor<CoordinatorStage>;

/// Drives a cycle on the actor's own thread; it ends with the actor, and the
/// next one resumes it from the ledger.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Drive {
    cycle: Cycle,
    approved_by: Option<String>,
}

impl Handler<Drive> for CoordinatorActor {
    type Result = ();

    fn handle(&mut self, message: Drive, context: &mut Self::Context) {
        let stage = self.stage();
        let what = format!("driving {}", message.cycle.id);
        let driven = self.work(&what, async move {
            if let Err(failure) = stage.drive(message.cycle, message.approved_by).await {
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
                this.do_send(Drive { cycle, approved_by: None });
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
            let Some(cycle) = stage.unfinished().await? else { return Ok(None) };
            if stage.driving.try_lock().is_ok() {
                telemetry::cycle_span(&cycle).in_scope(|| tracing::info!("an unfinished cycle is resumed"));
                this.do_send(Drive { cycle: cycle.clone(), approved_by: None });
            }
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
            if let Some((cycle, approved_by)) = cycle {
                this.do_send(Drive { cycle, approved_by });
            }
            Ok::<_, StepFailure>(answer)
        })
    }
}
