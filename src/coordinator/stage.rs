//! The coordinator's work: weigh, start, drive and resume cycles, and do what an
//! administrator asks.

use std::sync::Arc;

use tokio::sync::Mutex;
use tracing::Instrument;

use super::cycle::{self, CycleContext, CycleEnd};
use super::decide::{Action, Decision, OperatorWord, Snapshot, decide};
use super::messages::{CommandAnswered, CommandKind, Consider, Considered, CycleFinished, OperatorCommand};
use super::snapshot::{self, BREAKER_RESET, DRIFT_FINDING, LAST_HOLD, PAUSED, PERFORMANCE_FINDING, REQUESTED};
use crate::data::DataStage;
use crate::deployment::messages::RollBackToPrevious;
use crate::error::ErrorKind;
use crate::ids::{CycleId, DecisionId};
use crate::ledger::{AuditEntry, Cycle, CycleOutcome, CycleState, NewAlert, NewDecision};
use crate::ports::Severity;
use crate::saga::StepFailure;
use crate::telemetry;

/// The coordinator's work, apart from its actor.
#[derive(Clone)]
pub struct CoordinatorStage {
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
        let seen = snapshot::read(env).await?;
        let decision = decide(&seen, &self.context.settings.retrain, env.now());
        match &decision.action {
            Action::Hold { why, .. } => {
                let recorded = self.record_hold(&seen, &decision, why).await?;
                Ok((Considered { decision: recorded, reason: why.clone(), cycle: None }, None))
            }
            Action::StartCycle { reason } => {
                let cycle = env.ledger.begin_cycle(snapshot::ledger_reason(reason, &seen), env.now()).await?;
                let id = self.record(&seen, &decision, Some(cycle.id), "start a cycle", &reason.text).await?;
                snapshot::keep::<OperatorWord>(env, REQUESTED, None).await?;
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

    /// Drives a cycle to its end, or to where it waits for a person.
    pub(super) async fn drive(&self, cycle: Cycle, approved_by: Option<String>) -> Result<CycleFinished, StepFailure> {
        let span = telemetry::cycle_span(&cycle);
        self.drive_within(cycle, approved_by).instrument(span).await
    }

    async fn drive_within(&self, cycle: Cycle, approved_by: Option<String>) -> Result<CycleFinished, StepFailure> {
        let _only_one = self.driving.lock().await;
        let env = &self.context.env;
        let end = cycle::run(&self.context, &cycle, approved_by).await;
        self.data.release().await;
        match end? {
            CycleEnd::WaitingForApproval => {
                env.ledger.set_cycle_state(cycle.id, CycleState::WaitingApproval).await?;
                self.tell(
                    Severity::Warning,
                    format!("approval/{}", cycle.id),
                    format!("{} waits for approval", cycle.model),
                    format!(
                        "{} is deployed and verified. `delayd approve` makes it live, `delayd reject` undoes it.",
                        cycle.model
                    ),
                )
                .await?;
                Ok(CycleFinished {
                    cycle: cycle.id,
                    outcome: None,
                    detail: format!("{} waits for approval", cycle.model),
                })
            }
            CycleEnd::Finished { outcome, detail } => {
                env.ledger.finish_cycle(cycle.id, outcome, detail.clone(), env.now()).await?;
                self.tell_end(&cycle, outcome, &detail).await?;
                tracing::info!(outcome = ?outcome, detail, "cycle finished");
                Ok(CycleFinished { cycle: cycle.id, outcome: Some(outcome), detail })
            }
        }
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

    async fn tell(
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

    async fn waiting(&self) -> Result<Cycle, StepFailure> {
        let open = self.context.env.ledger.open_cycle().await?;
        open.filter(|cycle| cycle.state == CycleState::WaitingApproval)
            .ok_or_else(|| StepFailure::new(ErrorKind::Conflict, "no release waits for approval"))
    }

    /// Does what an administrator asks; answers the cycle that has to be driven.
    pub(super) async fn obey(
        &self,
        command: OperatorCommand,
    ) -> Result<(CommandAnswered, Option<(Cycle, Option<String>)>), StepFailure> {
        let env = &self.context.env;
        env.ledger
            .record_audit(AuditEntry {
                at: env.now(),
                actor: command.by.clone(),
                action: command.command.to_string(),
                subject: "loop".to_owned(),
                detail: command.why.clone(),
            })
            .await?;
        let word = OperatorWord { by: command.by.clone(), reason: command.why.clone(), at: env.now() };
        let answer = |message: String| CommandAnswered { message, cycle: None, model: None };
        match command.command {
            CommandKind::Pause => {
                snapshot::keep(env, PAUSED, Some(word)).await?;
                Ok((answer("no new cycles start until `delayd resume`".to_owned()), None))
            }
            CommandKind::Resume => {
                snapshot::keep::<OperatorWord>(env, PAUSED, None).await?;
                snapshot::keep(env, BREAKER_RESET, Some(word)).await?;
                Ok((answer("cycles start again when something asks for one".to_owned()), None))
            }
            CommandKind::Retrain => {
                snapshot::keep(env, REQUESTED, Some(word)).await?;
                let (considered, cycle) = self.consider(Consider::default()).await?;
                let Some(cycle) = cycle else {
                    return Err(StepFailure::new(ErrorKind::Conflict, format!("not now: {}", considered.reason)));
                };
                let answered = CommandAnswered {
                    message: format!("{} started", cycle.id),
                    cycle: Some(cycle.id),
                    model: Some(cycle.model),
                };
                Ok((answered, Some((cycle, None))))
            }
            CommandKind::Rollback => {
                let _only_one = self.driving.try_lock().map_err(|_| {
                    StepFailure::new(ErrorKind::Conflict, "a cycle is under way; wait for it, or stop it first")
                })?;
                let model = self.context.stages.deployment(RollBackToPrevious { by: command.by.clone() }).await?;
                self.tell(
                    Severity::Warning,
                    format!("rollback/{}", env.now().timestamp_micros()),
                    format!("{model} is live again"),
                    format!("{} rolled back: {}", command.by, command.why),
                )
                .await?;
                Ok((
                    CommandAnswered { message: format!("{model} is live again"), cycle: None, model: Some(model) },
                    None,
                ))
            }
            CommandKind::Approve => {
                let cycle = self.waiting().await?;
                env.ledger.set_cycle_state(cycle.id, CycleState::Running).await?;
                let answered = CommandAnswered {
                    message: format!("{} is approved", cycle.model),
                    cycle: Some(cycle.id),
                    model: Some(cycle.model),
                };
                Ok((answered, Some((cycle, Some(command.by)))))
            }
            CommandKind::Reject => {
                let cycle = self.waiting().await?;
                let _only_one = self.driving.lock().await;
                let span = telemetry::cycle_span(&cycle);
                span.in_scope(|| tracing::info!(requested_by = command.by, why = command.why, "rejected"));
                cycle::reject(&self.context, &cycle).instrument(span).await?;
                let detail = format!("{} rejected it: {}", command.by, command.why);
                env.ledger.finish_cycle(cycle.id, CycleOutcome::RolledBack, detail, env.now()).await?;
                Ok((
                    CommandAnswered {
                        message: format!("{} is rejected and undone", cycle.model),
                        cycle: Some(cycle.id),
                        model: Some(cycle.model),
                    },
                    None,
                ))
            }
        }
    }
}
