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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use delayd_core::ids::{CycleId, DeploymentId, ModelVersion};
    use delayd_judge::decide::{DataFreshness, OperatorWord};
    use delayd_judge::governor::{CycleOutcome, GovernorState, PastCycle};

    fn now() -> DateTime<Utc> {
        "2013-04-25T06:00:00Z".parse().unwrap()
    }

    fn nothing_special() -> Snapshot {
        Snapshot {
            live: None,
            running: None,
            paused: None,
            requested: None,
            drift: None,
            performance: None,
            data: DataFreshness { newest_outcome_at: None, examples: 0, new_examples: 0 },
            governor: GovernorState::default(),
        }
    }

    /// A model is live, one before it can be gone back to, and nothing is under way.
    fn at_rest() -> LoopState {
        let to = RollbackTarget::To { from: ModelVersion(2), to: ModelVersion(1), release: DeploymentId(1) };
        LoopState { seen: nothing_special(), open: None, rollback: to, served_instead: None }
    }

    fn with_cycle(state: &str) -> LoopState {
        let cycle: Cycle = serde_json::from_value(json!({
            "id": "cycle_3", "reason": { "kind": "scheduled" }, "state": state, "outcome": null, "detail": "",
            "run": "run_3", "model": "model_v3", "deployment": "deployment_3", "started_at": now(), "finished_at": null,
        }))
        .unwrap();
        let seen = Snapshot { running: Some(cycle.id), ..nothing_special() };
        LoopState { seen, open: Some(cycle), ..at_rest() }
    }

    fn undone() -> LoopState {
        let mut state = with_cycle("running");
        let undoing = json!({ "cause": "cancelled", "why": "the wrong month" });
        state.open.as_mut().unwrap().undoing = Some(serde_json::from_value(undoing).unwrap());
        state
    }

    fn paused() -> LoopState {
        let word = OperatorWord { by: "ops".to_owned(), reason: "a storm".to_owned(), at: now() };
        LoopState { seen: Snapshot { paused: Some(word), ..nothing_special() }, ..at_rest() }
    }

    /// After two cycles that ended an hour ago.
    fn after(outcome: CycleOutcome) -> LoopState {
        let mut state = at_rest();
        let ended_at = now() - chrono::Duration::hours(1);
        state.seen.governor.cycles =
            [1, 2].map(|id| PastCycle { cycle: CycleId(id), ended_at, outcome }).into_iter().collect();
        state
    }

    /// Every command of `expected` is refused with these words, and every other can be given.
    fn check(what: &str, state: &LoopState, expected: &[(CommandKind, &str)]) {
        for (command, told) in state.commands(&RetrainPolicy::default(), now()) {
            match (expected.iter().find(|(refused, _)| *refused == command), &told) {
                (None, None) => {}
                (Some((_, words)), Some(why)) if why.contains(words) => {}
                (expected, _) => panic!("{what}: {command} was expected to be {expected:?}, and is {told:?}"),
            }
        }
    }

    #[test]
    fn every_state_of_the_loop_takes_the_commands_that_fit_it_and_says_why_not_the_others() {
        use CommandKind::{Approve, Cancel, Pause, Reject, Resume, Retrain, Rollback};
        let nothing_to_resume = (Resume, "there is nothing to resume");
        let nothing_waits = [(Approve, "no release is waiting"), (Reject, "no release is waiting")];
        let no_cycle = (Cancel, "no cycle is under way");
        let [approve, reject] = nothing_waits;
        let at_rest_refuses = [nothing_to_resume, approve, reject, no_cycle];

        check("at rest", &at_rest(), &at_rest_refuses);
        let busy = (Retrain, "cycle_3 is under way");
        let rollback = (Rollback, "`delayd cancel` stops and undoes it");
        check("running", &with_cycle("running"), &[nothing_to_resume, approve, reject, busy, rollback]);
        let (cancel, rollback) = ((Cancel, "already being undone: the wrong month"), (Rollback, "is being undone"));
        check("being undone", &undone(), &[nothing_to_resume, approve, reject, busy, cancel, rollback]);

        let waiting = with_cycle("waiting_approval");
        let cancel = (Cancel, "`delayd reject` takes model_v3 out of service");
        let rollback = (Rollback, "`delayd reject` goes back to the live model");
        check("waiting for approval", &waiting, &[nothing_to_resume, busy, cancel, rollback]);
        let replaced = LoopState { served_instead: Some("model_v2".to_owned()), ..waiting };
        let approve_replaced = (Approve, "no longer being served, the cluster serves model_v2");
        check("waiting, not served", &replaced, &[nothing_to_resume, busy, cancel, rollback, approve_replaced]);

        let already = (Pause, "ops already paused automatic cycles at 2013-04-25 06:00 UTC (a storm)");
        check("paused", &paused(), &[already, approve, reject, no_cycle]);
        // What holds automatic cycles back can be lifted without a pause, and never holds back a person.
        check("breaker open", &after(CycleOutcome::NoGain), &[approve, reject, no_cycle]);
        check("backoff", &after(CycleOutcome::Failed), &[approve, reject, no_cycle]);

        let nowhere = LoopState { rollback: RollbackTarget::Nowhere("no model is live"), ..at_rest() };
        let [resume, approve, reject, cancel] = at_rest_refuses;
        check("no model", &nowhere, &[resume, approve, reject, cancel, (Rollback, "no model is live")]);
        let plan = json!({
            "at": now(), "by": "ops", "why": "", "from": "model_v2", "to": "model_v1", "target": "deployment_1",
            "left": "deployment_2",
        });
        let under_way = RollbackTarget::UnderWay(Box::new(serde_json::from_value(plan).unwrap()));
        let rollback = (Rollback, "a rollback to model_v1 is under way");
        check(
            "rolling back",
            &LoopState { rollback: under_way, ..at_rest() },
            &[resume, approve, reject, cancel, rollback],
        );
    }
}
