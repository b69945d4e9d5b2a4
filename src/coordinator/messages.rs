//! What the coordinator is told and asked.

use serde::{Deserialize, Serialize};

use delayd_core::ids::{CycleId, DecisionId, ModelVersion};
use delayd_judge::decide::{DriftFinding, OperatorWord, PerformanceFinding};

/// Weigh whether to start a cycle. A wake-up: what it carries is also in the ledger.
#[derive(Debug, Clone, Default)]
pub struct Consider {
    /// The last drift report.
    pub drift: Option<DriftFinding>,
    /// The last performance report.
    pub performance: Option<PerformanceFinding>,
    /// A person's word: the answer is for now, and a refusal is not kept.
    pub requested: Option<OperatorWord>,
}

/// What was decided.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Considered {
    /// The decision, where one was recorded (holds are recorded when the reason changes).
    pub decision: Option<DecisionId>,
    /// One sentence.
    pub reason: String,
    /// The cycle that was started.
    pub cycle: Option<CycleId>,
}

/// Go on with cycles that an earlier process left unfinished.
#[derive(Debug, Clone)]
pub struct ResumeUnfinished;

/// What an administrator asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OperatorCommand {
    /// What.
    pub command: CommandKind,
    /// Who.
    pub by: String,
    /// Why.
    pub why: String,
}

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CommandKind {
    /// Retrain now.
    Retrain,
    /// Stop the cycle under way, and undo it.
    Cancel,
    /// Back to the previous model.
    Rollback,
    /// The waiting release is good.
    Approve,
    /// The waiting release is not.
    Reject,
    /// No new cycles.
    Pause,
    /// Cycles again.
    Resume,
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

/// A word that is no command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no command `{0}`; there are retrain, cancel, rollback, approve, reject, pause, resume")]
pub struct UnknownCommand(String);

impl std::str::FromStr for CommandKind {
    type Err = UnknownCommand;
    fn from_str(text: &str) -> Result<Self, UnknownCommand> {
        let all = [Self::Retrain, Self::Cancel, Self::Rollback, Self::Approve, Self::Reject, Self::Pause, Self::Resume];
        all.into_iter().find(|kind| kind.to_string() == text).ok_or_else(|| UnknownCommand(text.to_owned()))
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
