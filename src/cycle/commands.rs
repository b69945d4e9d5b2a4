//! What an administrator asks of the loop: recorded before it is done, and then with what came of it.
//!
//! A command that does not fit what is under way is refused; a refusal changes nothing and is not kept for later.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::allowed::LoopState;
use super::coordinator::{Consider, CoordinatorStage, Drive};
use super::snapshot::{self, BREAKER_RESET, PAUSED};
use crate::stages::live_service::served_instead_of;
use crate::stages::rollback::RollBackToPrevious;
use crate::stages::train::CancelRun;
use crate::supervision::Request;
use crate::telemetry;
use delayd_core::error::{ErrorKind, chain};
use delayd_core::failure::StepFailure;
use delayd_core::ids::{CycleId, ModelVersion};
use delayd_judge::decide::OperatorWord;
use delayd_ledger::{AuditEntry, CancelRequest, Cycle, CycleOutcome, UndoCause, Undoing};

/// Does what an operator asks, and drives the cycle that follows from it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OperatorCommand {
    pub command: CommandKind,
    pub by: String,
    pub why: String,
}

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CommandKind {
    /// Retrain now.
    Retrain,
    /// Stop the cycle under way, and undo it.
    Cancel,
    /// Back to the previous model.
    Rollback,
    /// Approve the release that is waiting.
    Approve,
    /// Reject the release that is waiting.
    Reject,
    /// Start no new cycles.
    Pause,
    /// Start cycles again.
    Resume,
}

impl CommandKind {
    pub const ALL: [Self; 7] =
        [Self::Retrain, Self::Cancel, Self::Rollback, Self::Approve, Self::Reject, Self::Pause, Self::Resume];
}

impl std::fmt::Display for CommandKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Retrain => "retrain",
            Self::Cancel => "cancel",
            Self::Rollback => "rollback",
            Self::Approve => "approve",
            Self::Reject => "reject",
            Self::Pause => "pause",
            Self::Resume => "resume",
        })
    }
}

/// A word that is not a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no command `{0}`; there are retrain, cancel, rollback, approve, reject, pause, resume")]
pub struct UnknownCommand(String);

impl std::str::FromStr for CommandKind {
    type Err = UnknownCommand;
    fn from_str(text: &str) -> Result<Self, UnknownCommand> {
        Self::ALL.into_iter().find(|kind| kind.to_string() == text).ok_or_else(|| UnknownCommand(text.to_owned()))
    }
}

/// What a command did.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CommandAnswered {
    /// One sentence.
    pub message: String,
    /// The cycle it concerns.
    pub cycle: Option<CycleId>,
    /// The model it concerns.
    pub model: Option<ModelVersion>,
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

/// What a command answers, and the cycle that has to be driven for it.
type Obeyed = (CommandAnswered, Option<CycleId>);

fn conflict(message: impl Into<String>) -> StepFailure {
    StepFailure::new(ErrorKind::Conflict, message)
}

fn answered(message: String) -> Obeyed {
    (CommandAnswered { message, cycle: None, model: None }, None)
}

fn about(cycle: &Cycle, message: String) -> CommandAnswered {
    CommandAnswered { message, cycle: Some(cycle.id), model: Some(cycle.model) }
}

impl CoordinatorStage {
    /// Does what an operator asks; answers the cycle that has to be driven.
    pub(super) async fn obey(&self, command: OperatorCommand) -> Result<Obeyed, StepFailure> {
        let ledger = &self.context.env.ledger;
        let subject = ledger.open_cycle().await?.map_or_else(|| "loop".to_owned(), |cycle| cycle.id.to_string());
        let entry = AuditEntry {
            at: self.context.env.now(),
            actor: command.by.clone(),
            action: command.command.to_string(),
            subject: subject.clone(),
            detail: command.why.clone(),
        };
        let entry = ledger.begin_audit(entry).await?;
        let done = self.act(command).await;
        let (subject, outcome) = match &done {
            Ok((CommandAnswered { message, cycle, model }, _)) => {
                let named = cycle.map(|cycle| cycle.to_string()).or_else(|| model.map(|model| model.to_string()));
                (named.unwrap_or_else(|| "loop".to_owned()), format!("done: {message}"))
            }
            Err(failure) if matches!(failure.kind, ErrorKind::Conflict | ErrorKind::NotFound) => {
                (subject, format!("refused: {failure}"))
            }
            Err(failure) => (subject, format!("failed: {failure}")),
        };
        // What was done is done: report it to the caller, and not the audit.
        if let Err(error) = ledger.end_audit(entry, subject, outcome).await {
            tracing::error!(
                audit.entry = entry,
                error = chain(&error),
                "the outcome of a command could not be recorded"
            );
        }
        done
    }

    async fn act(&self, command: OperatorCommand) -> Result<Obeyed, StepFailure> {
        match command.command {
            CommandKind::Pause => self.pause(self.word(command)).await,
            CommandKind::Resume => self.resume(self.word(command)).await,
            CommandKind::Retrain => self.retrain(self.word(command)).await,
            CommandKind::Cancel => self.cancel(command).await,
            CommandKind::Rollback => self.roll_back(command).await,
            CommandKind::Approve => self.approve(command).await,
            CommandKind::Reject => self.reject(command).await,
        }
    }

    fn word(&self, command: OperatorCommand) -> OperatorWord {
        OperatorWord { by: command.by, reason: command.why, at: self.context.env.now() }
    }

    /// The loop as it is, where the command fits it.
    async fn fitting(&self, command: CommandKind) -> Result<LoopState, StepFailure> {
        let (env, now) = (&self.context.env, self.context.env.now());
        let mut state = env.ledger.read("reading where the loop is", move |l| LoopState::read(l, now)).await?;
        if command == CommandKind::Approve
            && let Some(cycle) = state.waiting()
        {
            // The step that promotes checks this again; whoever approves should know at once.
            state.served_instead = served_instead_of(env, cycle.deployment).await?;
        }
        match state.refusal(command, &self.context.settings.retrain, now) {
            Some(refusal) => Err(refusal),
            None => Ok(state),
        }
    }

    async fn pause(&self, word: OperatorWord) -> Result<Obeyed, StepFailure> {
        self.fitting(CommandKind::Pause).await?;
        snapshot::keep(&self.context.env, PAUSED, Some(word)).await?;
        Ok(answered("no new cycles start until `delayd resume`".to_owned()))
    }

    /// Ends a pause, and whatever past cycles hold against the next one: useful without a pause too.
    async fn resume(&self, word: OperatorWord) -> Result<Obeyed, StepFailure> {
        self.fitting(CommandKind::Resume).await?;
        let env = &self.context.env;
        snapshot::keep::<OperatorWord>(env, PAUSED, None).await?;
        snapshot::keep(env, BREAKER_RESET, Some(word)).await?;
        Ok(answered("cycles start again when one is needed".to_owned()))
    }

    async fn retrain(&self, word: OperatorWord) -> Result<Obeyed, StepFailure> {
        let asked = Consider { requested: Some(word), ..Consider::default() };
        let (considered, cycle) = self.consider(asked).await?;
        let Some(cycle) = cycle else { return Err(conflict(format!("not now: {}", considered.reason))) };
        Ok((about(&cycle, format!("{} started", cycle.id)), Some(cycle.id)))
    }

    /// Stops the cycle under way: training at once, everything else before the next step.
    async fn cancel(&self, command: OperatorCommand) -> Result<Obeyed, StepFailure> {
        let state = self.fitting(CommandKind::Cancel).await?;
        let Some(cycle) = state.open else { return Err(ended_meanwhile()) };
        let id = cycle.id;
        let request = CancelRequest { by: command.by, why: command.why };
        telemetry::cycle_span(&cycle)
            .in_scope(|| tracing::info!(requested_by = request.by, why = request.why, "cancelled"));
        self.context.env.ledger.request_cancel(id, request).await?;
        self.context.stages.training.ask(CancelRun { run: cycle.run }).await?;
        let message = format!("{id} stops: training at once, any other step at its end; then it is undone");
        Ok((about(&cycle, message), None))
    }

    async fn roll_back(&self, command: OperatorCommand) -> Result<Obeyed, StepFailure> {
        let free = self.driving.try_lock();
        // No cycle is driven now, but one may be waiting for approval: its release serves, and must be rejected first.
        self.fitting(CommandKind::Rollback).await?;
        let Ok(_only_one) = free else {
            return Err(conflict("the end of a cycle or of another rollback is under way; see `delayd status`"));
        };
        let message = RollBackToPrevious { by: command.by, why: command.why };
        let done = self.context.stages.deployment.ask(message).await?;
        let model = done.to;
        let message = self.conclude_rollback(done).await?;
        Ok((CommandAnswered { message, cycle: None, model: Some(model) }, None))
    }

    async fn approve(&self, command: OperatorCommand) -> Result<Obeyed, StepFailure> {
        let cycle = self.waiting(CommandKind::Approve).await?;
        self.context.env.ledger.approve_cycle(cycle.id, command.by).await?;
        Ok((about(&cycle, format!("{} is approved", cycle.model)), Some(cycle.id)))
    }

    async fn reject(&self, command: OperatorCommand) -> Result<Obeyed, StepFailure> {
        let cycle = self.waiting(CommandKind::Reject).await?;
        telemetry::cycle_span(&cycle)
            .in_scope(|| tracing::info!(requested_by = command.by, why = command.why, "rejected"));
        let why = match command.why.as_str() {
            "" => format!("{} rejected it", command.by),
            why => format!("{} rejected it: {why}", command.by),
        };
        let undoing = Undoing { cause: UndoCause::Rejected, why };
        self.context.env.ledger.begin_undo(cycle.id, undoing).await?;
        self.drive(cycle.id).await?;
        let ended = self.context.env.ledger.cycle(cycle.id).await?;
        if let Some(ended) = ended.filter(|ended| ended.outcome == Some(CycleOutcome::Stuck)) {
            let message = format!("{} is rejected, but taking it back is stuck: {}", cycle.model, ended.detail);
            return Err(StepFailure::new(ErrorKind::Internal, message));
        }
        Ok((about(&cycle, format!("{} is rejected and undone", cycle.model)), None))
    }

    async fn waiting(&self, command: CommandKind) -> Result<Cycle, StepFailure> {
        let state = self.fitting(command).await?;
        state.waiting().cloned().ok_or_else(ended_meanwhile)
    }
}

fn ended_meanwhile() -> StepFailure {
    conflict("the cycle has just ended; see `delayd status`")
}
