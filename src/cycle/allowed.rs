//! Which commands can be given now, and why the others cannot: judged here and nowhere else. The coordinator refuses
//! by it; `/api/v1/status` tells it to the page and the command line.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::commands::CommandKind;
use super::snapshot;
use crate::stages::rollback::{RollbackTarget, rollback_target};
use delayd_core::error::ErrorKind;
use delayd_core::failure::StepFailure;
use delayd_judge::decide::{RetrainPolicy, Snapshot, Trigger, obstacle};
use delayd_judge::governor::{Standing, standing};
use delayd_ledger::{self as ledger, Cycle, CycleState};

/// Where the loop is, as far as commands depend on it.
#[derive(Debug, Clone)]
pub struct LoopState {
    /// What a decision on a retrain is taken from.
    pub seen: Snapshot,
    /// The cycle that is running or waiting for approval.
    pub open: Option<Cycle>,
    pub rollback: RollbackTarget,
    /// What the cluster serves in place of the release that is waiting for approval, where it can be asked.
    pub served_instead: Option<String>,
}

impl LoopState {
    /// Everything but `served_instead`, which only the cluster knows.
    pub fn read(ledger: &ledger::Snapshot<'_>, now: DateTime<Utc>) -> rusqlite::Result<Self> {
        Ok(Self {
            seen: snapshot::read(ledger, None, now)?,
            open: ledger.open_cycle()?,
            rollback: rollback_target(ledger)?,
            served_instead: None,
        })
    }

    /// The cycle that is waiting for approval.
    pub fn waiting(&self) -> Option<&Cycle> {
        self.open.as_ref().filter(|cycle| cycle.state == CycleState::WaitingApproval)
    }

    pub fn governor(&self, policy: &RetrainPolicy, now: DateTime<Utc>) -> Standing {
        standing(&self.seen.governor, &policy.governor, now)
    }

    /// Every command, and why it cannot be given now.
    pub fn commands(&self, policy: &RetrainPolicy, now: DateTime<Utc>) -> BTreeMap<CommandKind, Option<String>> {
        CommandKind::ALL.map(|kind| (kind, self.refusal(kind, policy, now).map(|refusal| refusal.message))).into()
    }

    /// Why a command cannot be given now; `None` where it can.
    pub fn refusal(&self, command: CommandKind, policy: &RetrainPolicy, now: DateTime<Utc>) -> Option<StepFailure> {
        match command {
            CommandKind::Retrain => {
                let (why, _) = obstacle(Trigger::Operator, &self.seen, policy, now)?;
                Some(conflict(format!("not now: {why}")))
            }
            CommandKind::Pause => self.already_paused(),
            CommandKind::Resume => {
                let stands = self.governor(policy, now);
                let held_up = stands.breaker_open || stands.backoff_until.is_some_and(|until| until > now);
                (self.seen.paused.is_none() && !held_up).then(|| {
                    conflict(
                        "automatic cycles are not paused, and neither the breaker nor failed cycles hold them up: there \
                         is nothing to resume",
                    )
                })
            }
            CommandKind::Cancel => self.cannot_cancel(),
            CommandKind::Rollback => self.cannot_roll_back(),
            CommandKind::Approve => match (self.waiting(), &self.served_instead) {
                (None, _) => Some(nothing_waits()),
                (Some(cycle), Some(other)) => Some(conflict(format!(
                    "{} ({}) is no longer being served, the cluster serves {other}; `delayd reject` goes back to the \
                     previous release",
                    cycle.model, cycle.deployment
                ))),
                (Some(_), None) => None,
            },
            CommandKind::Reject => self.waiting().is_none().then(nothing_waits),
        }
    }

    fn already_paused(&self) -> Option<StepFailure> {
        let first = self.seen.paused.as_ref()?;
        let why = if first.reason.is_empty() { String::new() } else { format!(" ({})", first.reason) };
        let since = first.at.format("%Y-%m-%d %H:%M UTC");
        Some(conflict(format!(
            "{} already paused automatic cycles at {since}{why}; `delayd resume` ends the pause",
            first.by
        )))
    }

    /// A second cancel is taken: it asks training to stop once more, should the first have got lost.
    fn cannot_cancel(&self) -> Option<StepFailure> {
        let Some(cycle) = &self.open else { return Some(conflict("no cycle is under way")) };
        let id = cycle.id;
        match (cycle.state, &cycle.undoing) {
            (CycleState::WaitingApproval, _) => Some(conflict(format!(
                "{id} is waiting for approval; `delayd reject` takes {} out of service",
                cycle.model
            ))),
            (_, Some(undoing)) => Some(conflict(format!("{id} is already being undone: {}", undoing.why))),
            (_, None) => None,
        }
    }

    /// A rollback would split ledger and cluster while a cycle is open, and has to lead somewhere.
    fn cannot_roll_back(&self) -> Option<StepFailure> {
        if let Some(cycle) = &self.open {
            let id = cycle.id;
            return Some(conflict(match (cycle.state, &cycle.undoing) {
                (CycleState::WaitingApproval, _) => format!(
                    "{id} is waiting for approval, and {} already serves; `delayd reject` goes back to the live model",
                    cycle.model
                ),
                (_, Some(undoing)) => format!("{id} is being undone ({}); try again when it has ended", undoing.why),
                (_, None) => format!("{id} is under way; `delayd cancel` stops and undoes it, then try again"),
            }));
        }
        match &self.rollback {
            RollbackTarget::To { .. } => None,
            RollbackTarget::UnderWay(plan) => Some(conflict(format!(
                "a rollback to {} is under way; it is retried automatically until the cluster has taken it",
                plan.to
            ))),
            RollbackTarget::Nowhere(why) => Some(StepFailure::new(ErrorKind::NotFound, *why)),
        }
    }
}

fn conflict(message: impl Into<String>) -> StepFailure {
    StepFailure::new(ErrorKind::Conflict, message)
}

fn nothing_waits() -> StepFailure {
    conflict("no release is waiting for approval")
}
