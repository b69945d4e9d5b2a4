//! The coordinator's work: weigh, start, drive and resume cycles. What an administrator
//! asks is in `commands`.

use std::sync::Arc;

use tokio::sync::Mutex;
use tracing::Instrument;

use super::cycle::{self, CycleContext, CycleEnd};
use super::messages::{Consider, Considered};
use super::restored::verify_restored;
use super::snapshot::{self, DRIFT_FINDING, LAST_HOLD, PERFORMANCE_FINDING};
use crate::data::DataStage;
use crate::stages::rollback::{FinishRollback, ForgetRollback, PlannedRollback};
use crate::supervision::StageRef;
use crate::telemetry;
use delayd_core::error::ErrorKind;
use delayd_core::failure::StepFailure;
use delayd_core::ids::{CycleId, DecisionId};
use delayd_core::ports::Severity;
use delayd_judge::decide::{Action, Decision, Snapshot, decide};
use delayd_ledger::{Cycle, CycleOutcome, CycleState, NewAlert, NewDecision};

/// The coordinator's work, apart from its actor.
#[derive(Clone)]
pub struct CoordinatorStage {
    /// The actor around this stage, to wake it by.
    pub me: StageRef<CoordinatorStage>,
    /// Everything a cycle needs.
    pub context: CycleContext,
    /// The data stage, whose examples are freed when a cycle ends.
    pub data: DataStage,
    /// Held while a cycle is driven: whoever holds it is the only one.
    pub driving: Arc<Mutex<()>>,
}

impl CoordinatorStage {
    /// Weighs whether to start a cycle, and begins it in the ledger. Driving it is
    /// the caller's business.
    pub(super) async fn consider(&self, message: Consider) -> Result<(Considered, Option<Cycle>), StepFailure> {
        let env = &self.context.env;
        if message.drift.is_some() {
            snapshot::keep(env, DRIFT_FINDING, message.drift).await?;
        }
        if message.performance.is_some() {
            snapshot::keep(env, PERFORMANCE_FINDING, message.performance).await?;
        }
        let seen = snapshot::read(env, message.requested).await?;
        let decision = decide(&seen, &self.context.settings.retrain, env.now());
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
                    tracing::info!(decision.id = %id, reason = reason.text, "a cycle starts");
                });
                Ok((Considered { decision: Some(id), reason: reason.text.clone(), cycle: Some(cycle.id) }, Some(cycle)))
            }
        }
    }

    /// A hold is recorded when something asked for a cycle and was refused, and
    /// only when the kind of answer has changed: not at every look.
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
        let last: Option<String> = snapshot::stored(env, LAST_HOLD).await?;
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
        let json = |value: Result<serde_json::Value, serde_json::Error>| {
            value.map_err(|error| StepFailure::of(ErrorKind::Internal, &error))
        };
        let record = NewDecision {
            at: decision.at,
            cycle,
            kind: "retrain".to_owned(),
            inputs: json(serde_json::to_value(seen))?,
            tests: json(serde_json::to_value(&self.context.settings.retrain))?,
            alternatives: json(serde_json::to_value(&decision.alternatives))?,
            outcome: outcome.to_owned(),
            reason: reason.to_owned(),
        };
        Ok(self.context.env.ledger.decide(record).await?)
    }

    /// Drives a cycle to its end, or to where it waits for a person. A rollback that an earlier process left
    /// unfinished is finished first.
    pub(super) async fn drive(&self, id: CycleId) -> Result<(), StepFailure> {
        let _only_one = self.driving.lock().await;
        self.finish_rollback().await?;
        // As it is now: whoever held the lock before may have ended it, and people have had their say.
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
        let end = cycle::run(&self.context, &cycle).await;
        self.data.release().await;
        match end? {
            CycleEnd::WaitingForApproval => {
                env.ledger.set_cycle_state(cycle.id, CycleState::WaitingApproval).await?;
                self.tell(
                    Severity::Warning,
                    format!("approval/{}", cycle.id),
                    format!("{} waits for approval", cycle.model),
                    format!(
                        "{} is deployed and verified, and serves already, on every replica. `delayd approve` makes it \
                         the live model, `delayd reject` takes it back.",
                        cycle.model
                    ),
                )
                .await?;
                Ok(())
            }
            CycleEnd::Finished { outcome, detail } => {
                env.ledger.finish_cycle(cycle.id, outcome, detail.clone(), env.now()).await?;
                self.tell_end(&cycle, outcome, &detail).await?;
                tracing::info!(outcome = ?outcome, detail, "cycle finished");
                Ok(())
            }
        }
    }

    /// Finishes a rollback that was planned, if there is one: the release serves, is verified, and is told of.
    /// For whoever holds `driving`.
    pub(super) async fn finish_rollback(&self) -> Result<(), StepFailure> {
        if let Some(done) = self.context.stages.deployment.ask(FinishRollback).await? {
            tracing::warn!(model.version = %done.to, "a rollback that was cut off is finished");
            self.conclude_rollback(done).await?;
        }
        Ok(())
    }

    /// Verifies the release that a rollback went back to, and tells of it. Safe to repeat. Answers what serves now,
    /// in words.
    pub(super) async fn conclude_rollback(&self, plan: PlannedRollback) -> Result<String, StepFailure> {
        let after = format!("rollback-{}", plan.at.timestamp_micros());
        let verified = verify_restored(&self.context, plan.target, &after).await;
        self.data.release().await;
        let verified = verified?;
        self.tell(
            Severity::Warning,
            format!("rollback/{}", plan.at.timestamp_micros()),
            format!("{} is live again", plan.to),
            format!("{} rolled back: {}. {}", plan.by, plan.why, verified.text),
        )
        .await?;
        self.context.stages.deployment.ask(ForgetRollback).await?;
        let found = if verified.passed { "verified again" } else { "but it was NOT found good, see the alert" };
        Ok(format!("{} is live again, {found}", plan.to))
    }

    async fn tell_end(&self, cycle: &Cycle, outcome: CycleOutcome, detail: &str) -> Result<(), StepFailure> {
        let (severity, title) = match outcome {
            CycleOutcome::Deployed => (Severity::Info, format!("{} is live", cycle.model)),
            CycleOutcome::KeptLive => (Severity::Info, format!("{}: the live model stays", cycle.id)),
            CycleOutcome::Cancelled => (Severity::Info, format!("{} was cancelled", cycle.id)),
            CycleOutcome::RolledBack => (Severity::Warning, format!("{} was rolled back", cycle.model)),
            CycleOutcome::Failed => (Severity::Warning, format!("{} failed and was undone", cycle.id)),
            CycleOutcome::Stuck => (Severity::Critical, format!("{} is stuck: an undo did not finish", cycle.id)),
        };
        self.tell(severity, format!("cycle/{}", cycle.id), title, detail.to_owned()).await
    }

    pub(super) async fn tell(
        &self,
        severity: Severity,
        dedup_key: String,
        title: String,
        body: String,
    ) -> Result<(), StepFailure> {
        let env = &self.context.env;
        env.ledger.enqueue_alert(NewAlert { at: env.now(), severity, dedup_key, title, body }).await?;
        Ok(())
    }

    /// The cycle that an earlier process left under way, if there is one.
    pub(super) async fn unfinished(&self) -> Result<Option<Cycle>, StepFailure> {
        let open = self.context.env.ledger.open_cycle().await?;
        Ok(open.filter(|cycle| cycle.state == CycleState::Running))
    }

    /// The cycle that runs or waits, if any.
    pub(super) async fn open_cycle(&self) -> Result<Option<Cycle>, StepFailure> {
        Ok(self.context.env.ledger.open_cycle().await?)
    }
}
