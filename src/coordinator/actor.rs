//! The coordinator's actor. Cycles are driven on a task of its own, so that it answers while one is under way.

use std::time::Duration;

use actix::{AsyncContext, Handler, Message, WrapFuture};

use super::messages::{CommandAnswered, Consider, Considered, OperatorCommand, ResumeUnfinished};
use super::stage::CoordinatorStage;
use crate::supervision::{Request, StageActor};
use crate::telemetry;
use delayd_core::failure::StepFailure;
use delayd_core::ids::CycleId;

/// Drives a cycle as a part of the actor's own life: it ends with the actor, and the next one resumes it from the ledger.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Drive(pub(super) CycleId);

impl Handler<Drive> for StageActor<CoordinatorStage> {
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

impl Request for Consider {
    type Stage = CoordinatorStage;
    type Answer = Considered;

    async fn run(self, stage: &CoordinatorStage) -> Result<Considered, StepFailure> {
        let (considered, cycle) = stage.consider(self).await?;
        if let Some(cycle) = cycle {
            stage.me.wake(Drive(cycle.id));
        }
        Ok(considered)
    }
}

impl Request for ResumeUnfinished {
    type Stage = CoordinatorStage;
    type Answer = Option<CycleId>;

    async fn run(self, stage: &CoordinatorStage) -> Result<Option<CycleId>, StepFailure> {
        let Ok(free) = stage.driving.try_lock() else { return Ok(stage.unfinished().await?.map(|cycle| cycle.id)) };
        stage.finish_rollback().await?;
        let Some(cycle) = stage.unfinished().await? else { return Ok(None) };
        telemetry::cycle_span(&cycle).in_scope(|| tracing::info!("an unfinished cycle is resumed"));
        drop(free);
        stage.me.wake(Drive(cycle.id));
        Ok(Some(cycle.id))
    }
}

impl Request for OperatorCommand {
    type Stage = CoordinatorStage;
    type Answer = CommandAnswered;

    /// A person waits for the answer.
    const DEADLINE: Duration = Duration::from_secs(300);

    async fn run(self, stage: &CoordinatorStage) -> Result<CommandAnswered, StepFailure> {
        let (answer, cycle) = stage.obey(self).await?;
        if let Some(cycle) = cycle {
            stage.me.wake(Drive(cycle));
        }
        Ok(answer)
    }
}
