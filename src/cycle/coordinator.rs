//! The coordinator: weighs whether to start a cycle, starts, drives and resumes it. What an administrator
//! asks for is in [`super::commands`].
//!
//! Cycles are driven on a task of the actor, so that it answers while one is under way.

use std::sync::Arc;

use actix::{AsyncContext, Handler, Message, WrapFuture};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tracing::Instrument;

use super::restored::verify_restored;
use super::snapshot::{self, DRIFT_FINDING, LAST_HOLD, PERFORMANCE_FINDING};
use super::steps::{self, CycleContext, CycleEnd};
use crate::stages::ingest::DataStage;
use crate::stages::rollback::{FinishRollback, ForgetRollback, PlannedRollback};
use crate::supervision::{Request, StageActor, StageRef};
use crate::telemetry;
use delayd_core::document::Document;
use delayd_core::error::ErrorKind;
use delayd_core::failure::StepFailure;
use delayd_core::ids::{CycleId, DecisionId};
use delayd_core::ports::Severity;
use delayd_judge::decide::{Action, Decision, DriftFinding, OperatorWord, PerformanceFinding, Snapshot, decide};
use delayd_ledger::{Cycle, CycleOutcome, CycleState, NewDecision};

/// What the coordinator needs.
#[derive(Clone)]
pub struct CoordinatorStage {
    /// The actor around this stage, to wake it by.
    pub me: StageRef<CoordinatorStage>,
    pub context: CycleContext,
    /// The data stage, whose examples are freed when a cycle ends.
    pub data: DataStage,
    /// Held while a cycle is driven: at most one is.
    pub driving: Arc<Mutex<()>>,
}

/// Weighs whether to start a cycle. A wake-up: what it carries is also in the ledger.
#[derive(Debug, Clone, Default)]
pub struct Consider {
    pub drift: Option<DriftFinding>,
    pub performance: Option<PerformanceFinding>,
    /// An operator's request: it is answered now, and a refusal is not kept.
    pub requested: Option<OperatorWord>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Considered {
    /// The decision, where one was recorded (holds are recorded when the reason changes).
    pub decision: Option<DecisionId>,
    pub reason: String,
    /// The cycle that was started.
    pub cycle: Option<CycleId>,
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

/// Resumes what an earlier process left unfinished: a rollback, then a cycle.
#[derive(Debug, Clone)]
pub struct ResumeUnfinished;

impl Request for ResumeUnfinished {
    type Stage = CoordinatorStage;
    type Answer = Option<CycleId>;

    async fn run(self, stage: &CoordinatorStage) -> Result<Option<CycleId>, StepFailure> {
        let running =
            async || Ok::<_, StepFailure>(stage.open_cycle().await?.filter(|one| one.state == CycleState::Running));
        let Ok(free) = stage.driving.try_lock() else { return Ok(running().await?.map(|cycle| cycle.id)) };
        stage.finish_rollback().await?;
        let Some(cycle) = running().await? else { return Ok(None) };
        telemetry::cycle_span(&cycle).in_scope(|| tracing::info!("resuming an unfinished cycle"));
        drop(free);
        stage.me.wake(Drive(cycle.id));
        Ok(Some(cycle.id))
    }
}

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
                tracing::error!(error = %failure, "driving a cycle failed; it is resumed from the ledger");
            }
        });
        context.spawn(driven.into_actor(self));
    }
}

impl CoordinatorStage {
    /// Weighs whether to start a cycle, and creates it in the ledger. Driving it is the caller's business.
    pub(super) async fn consider(&self, message: Consider) -> Result<(Considered, Option<Cycle>), StepFailure> {
        let env = &self.context.env;
        if message.drift.is_some() {
            snapshot::keep(env, DRIFT_FINDING, message.drift).await?;
        }
        if message.performance.is_some() {
            snapshot::keep(env, PERFORMANCE_FINDING, message.performance).await?;
        }
        let (requested, now) = (message.requested, env.now());
        let seen =
            env.ledger.read("reading the state to decide on", move |ledger| snapshot::read(ledger, requested, now));
        let seen = seen.await?;
        let decision = decide(&seen, &self.context.settings.retrain, now);
        match &decision.action {
            Action::Hold { why, .. } => {
                let recorded = self.record_hold(&seen, &decision, why).await?;
                Ok((Considered { decision: recorded, reason: why.clone(), cycle: None }, None))
            }
            Action::StartCycle { reason } => {
                let cycle = env.ledger.begin_cycle(snapshot::ledger_reason(reason, &seen), env.now()).await?;
                let id = self.record(&seen, &decision, Some(cycle.id), "start a cycle", &reason.text).await?;
                snapshot::keep::<String>(env, LAST_HOLD, None).await?;
                telemetry::cycle_span(&cycle).in_scope(|| {
                    tracing::info!(decision.id = %id, reason = reason.text, "cycle started");
                });
                Ok((Considered { decision: Some(id), reason: reason.text.clone(), cycle: Some(cycle.id) }, Some(cycle)))
            }
        }
    }

    /// A hold is recorded when something asked for a cycle and was refused, and
    /// only when the kind of answer has changed: not at every check.
    async fn record_hold(
        &self,
        seen: &Snapshot,
        decision: &Decision,
        why: &str,
    ) -> Result<Option<DecisionId>, StepFailure> {
        let env = &self.context.env;
        let fired: Vec<String> =
            decision.alternatives.iter().filter(|other| other.fired).map(|other| other.trigger.to_string()).collect();
        let kind = fired.join("+");
        let last = env.ledger.setting::<Option<String>>(LAST_HOLD).await?.flatten();
        if last.as_deref() == Some(kind.as_str()) || (fired.is_empty() && last.is_none()) {
            return Ok(None);
        }
        snapshot::keep(env, LAST_HOLD, Some(kind)).await?;
        self.record(seen, decision, None, "hold", why).await.map(Some)
    }

    async fn record(
        &self,
        seen: &Snapshot,
        decision: &Decision,
        cycle: Option<CycleId>,
        outcome: &str,
        reason: &str,
    ) -> Result<DecisionId, StepFailure> {
        let record = NewDecision {
            at: decision.at,
            cycle,
            kind: "retrain".to_owned(),
            inputs: Document::of(seen)?,
            tests: Document::of(&self.context.settings.retrain)?,
            alternatives: Document::of(&decision.alternatives)?,
            outcome: outcome.to_owned(),
            reason: reason.to_owned(),
        };
        Ok(self.context.env.ledger.decide(record).await?)
    }

    /// Drives a cycle to its end, or to where it is waiting for a person. A rollback that an earlier process left
    /// unfinished is finished first.
    pub(super) async fn drive(&self, id: CycleId) -> Result<(), StepFailure> {
        let _only_one = self.driving.lock().await;
        self.finish_rollback().await?;
        // As it is now: whoever held the lock before may have ended it, or an operator cancelled it.
        let cycle = self.context.env.ledger.cycle(id).await?;
        let cycle = cycle.ok_or_else(|| StepFailure::new(ErrorKind::NotFound, format!("there is no {id}")))?;
        if cycle.state != CycleState::Running {
            return Ok(());
        }
        let span = telemetry::cycle_span(&cycle);
        self.drive_within(cycle).instrument(span).await
    }

    async fn drive_within(&self, cycle: Cycle) -> Result<(), StepFailure> {
        let env = &self.context.env;
        let end = steps::run(&self.context, &cycle).await;
        self.data.release().await;
        match end? {
            CycleEnd::WaitingForApproval => {
                env.ledger.set_cycle_state(cycle.id, CycleState::WaitingApproval).await?;
                let model = cycle.model;
                let body = format!(
                    "{model} is deployed, verified and already serving on every replica. `delayd approve` makes it \
                     the live model, `delayd reject` takes it back."
                );
                let title = format!("{model} is waiting for approval");
                Ok(env.alert(Severity::Warning, format!("approval/{}", cycle.id), title, body).await?)
            }
            CycleEnd::Finished { outcome, detail } => {
                env.ledger.finish_cycle(cycle.id, outcome, detail.clone(), env.now()).await?;
                self.alert_end(&cycle, outcome, &detail).await?;
                tracing::info!(outcome = ?outcome, detail, "cycle finished");
                Ok(())
            }
        }
    }

    /// Finishes a rollback that was planned, if there is one: the release serves and is verified, and an alert is sent.
    /// The caller holds `driving`.
    pub(super) async fn finish_rollback(&self) -> Result<(), StepFailure> {
        if let Some(done) = self.context.stages.deployment.ask(FinishRollback).await? {
            tracing::warn!(model.version = %done.to, "finished a rollback that was interrupted");
            self.conclude_rollback(done).await?;
        }
        Ok(())
    }

    /// Verifies the release that a rollback went back to, and alerts. Safe to repeat. Answers what serves now,
    /// in words.
    pub(super) async fn conclude_rollback(&self, plan: PlannedRollback) -> Result<String, StepFailure> {
        let id = plan.at.timestamp_micros();
        let verified = verify_restored(&self.context, plan.target, &format!("rollback-{id}")).await;
        self.data.release().await;
        let verified = verified?;
        let (title, body) =
            (format!("{} is live again", plan.to), format!("{} rolled back: {}. {}", plan.by, plan.why, verified.text));
        self.context.env.alert(Severity::Warning, format!("rollback/{id}"), title, body).await?;
        self.context.stages.deployment.ask(ForgetRollback).await?;
        let found = if verified.passed { "verified again" } else { "but it FAILS verification, see the alert" };
        Ok(format!("{} is live again, {found}", plan.to))
    }

    async fn alert_end(&self, cycle: &Cycle, outcome: CycleOutcome, detail: &str) -> Result<(), StepFailure> {
        let (severity, title) = match outcome {
            CycleOutcome::Deployed => (Severity::Info, format!("{} is live", cycle.model)),
            CycleOutcome::KeptLive => (Severity::Info, format!("{}: kept the current model", cycle.id)),
            CycleOutcome::Cancelled => (Severity::Info, format!("{} was cancelled", cycle.id)),
            CycleOutcome::RolledBack => (Severity::Warning, format!("{} was rolled back", cycle.model)),
            CycleOutcome::Failed => (Severity::Warning, format!("{} failed and was undone", cycle.id)),
            CycleOutcome::Stuck => (Severity::Critical, format!("{} is stuck: an undo did not finish", cycle.id)),
        };
        Ok(self.context.env.alert(severity, format!("cycle/{}", cycle.id), title, detail.to_owned()).await?)
    }

    /// The cycle that is running or waiting, if any.
    pub(super) async fn open_cycle(&self) -> Result<Option<Cycle>, StepFailure> {
        Ok(self.context.env.ledger.open_cycle().await?)
    }
}
