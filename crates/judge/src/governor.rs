//! Keeps retraining sane: a cooldown after each retrain, a budget, a breaker
//! after retrains that gained nothing, and backoff after cycles that failed.
//!
//! The governor has no memory of its own: it is computed from the past cycles in
//! the ledger, so a restart of the daemon can neither forget nor double it.

use std::fmt;

use chrono::{DateTime, Duration, Utc};
use delayd_core::fault::broken_rules;
use delayd_core::ids::CycleId;
use serde::{Deserialize, Serialize};

/// What can ask for a cycle, most pressing first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    FirstModel,
    Operator,
    /// The live model has become worse.
    Performance,
    Drift,
    Schedule,
}

impl Trigger {
    /// All of them, in the order in which they are considered.
    pub const ALL: [Self; 5] = [Self::FirstModel, Self::Operator, Self::Performance, Self::Drift, Self::Schedule];
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FirstModel => "first model",
            Self::Operator => "operator",
            Self::Performance => "performance",
            Self::Drift => "drift",
            Self::Schedule => "schedule",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GovernorPolicy {
    /// Days after a retrain in which none follows.
    pub cooldown_days: u32,
    /// The same where performance has degraded: a model that is known to be
    /// worse need not wait as long as one whose input has merely shifted.
    pub urgent_cooldown_days: u32,
    /// Retrains in 30 days, at most.
    pub retrains_per_30_days: u32,
    /// After this many retrains in a row that gained nothing, the cooldown
    /// doubles with each one …
    pub breaker_after: u32,
    /// … up to so many days.
    pub maximum_cooldown_days: u32,
    /// Hours to wait after a failed cycle; doubles with each one in a row …
    pub failure_backoff_hours: u32,
    /// … up to so many hours.
    pub maximum_failure_backoff_hours: u32,
}

impl Default for GovernorPolicy {
    /// Measured on New York's 2013, retraining monthly or every other month on
    /// all history is nearly as good as weekly: a fortnight's cooldown leaves
    /// room for what drift and degradation ask for, and no more.
    fn default() -> Self {
        Self {
            cooldown_days: 14,
            urgent_cooldown_days: 7,
            retrains_per_30_days: 2,
            breaker_after: 2,
            maximum_cooldown_days: 112,
            failure_backoff_hours: 6,
            maximum_failure_backoff_hours: 168,
        }
    }
}

impl GovernorPolicy {
    pub fn faults(&self) -> Vec<String> {
        broken_rules(
            "governor",
            &[
                (self.urgent_cooldown_days <= self.cooldown_days, "urgent_cooldown_days must not exceed cooldown_days"),
                (self.retrains_per_30_days > 0, "retrains_per_30_days must be above 0, or nothing is ever retrained"),
                (self.breaker_after > 0, "breaker_after must be above 0"),
                (
                    self.maximum_cooldown_days >= self.cooldown_days,
                    "maximum_cooldown_days must not be under cooldown_days",
                ),
                (
                    self.failure_backoff_hours > 0,
                    "failure_backoff_hours must be above 0, or a failing cycle repeats at once",
                ),
                (
                    self.maximum_failure_backoff_hours >= self.failure_backoff_hours,
                    "maximum_failure_backoff_hours must not be under failure_backoff_hours",
                ),
            ],
        )
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CycleOutcome {
    Promoted,
    /// A model was trained, and the gate, verification or an administrator kept
    /// it from going live: the retrain gained nothing.
    NoGain,
    /// It ended before there was a model to judge.
    Failed,
    Cancelled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PastCycle {
    pub cycle: CycleId,
    pub ended_at: DateTime<Utc>,
    pub outcome: CycleOutcome,
}

/// What the governor goes by, from the ledger.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GovernorState {
    /// Finished cycles, in any order; those of the last year are enough.
    pub cycles: Vec<PastCycle>,
    /// When an operator last closed the breaker (`delayd resume`), if ever:
    /// fruitless and failed cycles before that no longer count.
    pub reset_at: Option<DateTime<Utc>>,
}

/// Until when, if nothing else changes, no cycle may start for this trigger, and which rule says so, with its numbers;
/// `None` where one may start.
pub fn refusal(state: &GovernorState, trigger: Trigger, policy: &GovernorPolicy, now: DateTime<Utc>) -> Rule {
    if trigger == Trigger::Operator {
        return None;
    }
    let past = newest_first(state, now);
    let rules = [
        failure_backoff(&past, state.reset_at, policy),
        if trigger == Trigger::FirstModel { None } else { cooldown(&past, state.reset_at, trigger, policy) },
        if trigger == Trigger::FirstModel { None } else { budget(&past, policy, now) },
    ];
    rules.into_iter().flatten().filter(|(until, _)| *until > now).max_by_key(|(until, _)| *until)
}

/// Where the governor stands, for metrics and the status page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Standing {
    /// Until when drift alone starts no cycle; may lie in the past.
    pub cooldown_until: Option<DateTime<Utc>>,
    /// Until when nothing follows the cycles that failed; may lie in the past.
    pub backoff_until: Option<DateTime<Utc>>,
    /// Retrains that the budget of 30 days still allows.
    pub budget_left: u32,
    /// Whether retrains that gained nothing have made the cooldown grow.
    pub breaker_open: bool,
}

impl Standing {
    /// Why no cycle starts automatically, and until when; `None` while neither failures nor the breaker hold the next
    /// one back. Ended by `delayd resume`.
    pub fn held_back(&self, now: DateTime<Utc>) -> Option<(&'static str, DateTime<Utc>)> {
        let backoff = self.backoff_until.map(|until| ("the last cycles failed", until));
        let breaker = self.cooldown_until.filter(|_| self.breaker_open);
        let breaker = breaker.map(|until| ("the breaker is open: the last retrains gained nothing", until));
        backoff.into_iter().chain(breaker).filter(|(_, until)| *until > now).max_by_key(|(_, until)| *until)
    }
}

pub fn standing(state: &GovernorState, policy: &GovernorPolicy, now: DateTime<Utc>) -> Standing {
    let past = newest_first(state, now);
    let month = Duration::days(30);
    let recent = past.iter().filter(|cycle| is_retrain(cycle) && cycle.ended_at + month > now).count();
    let until = |rule: Rule| rule.map(|(until, _)| until);
    Standing {
        cooldown_until: until(cooldown(&past, state.reset_at, Trigger::Drift, policy)),
        backoff_until: until(failure_backoff(&past, state.reset_at, policy)),
        budget_left: policy.retrains_per_30_days.saturating_sub(u32::try_from(recent).unwrap_or(u32::MAX)),
        breaker_open: fruitless(&past, state.reset_at) >= policy.breaker_after as usize,
    }
}

fn newest_first(state: &GovernorState, now: DateTime<Utc>) -> Vec<&PastCycle> {
    let mut past: Vec<&PastCycle> = state.cycles.iter().filter(|cycle| cycle.ended_at <= now).collect();
    past.sort_by_key(|cycle| std::cmp::Reverse((cycle.ended_at, cycle.cycle)));
    past
}

/// How many of the last retrains in a row gained nothing.
fn fruitless(past: &[&PastCycle], reset_at: Option<DateTime<Utc>>) -> usize {
    let retrains = past.iter().filter(|cycle| is_retrain(cycle));
    let counts = |cycle: &&&PastCycle| reset_at.is_none_or(|reset| cycle.ended_at > reset);
    retrains.take_while(|cycle| cycle.outcome == CycleOutcome::NoGain).filter(counts).count()
}

/// When a rule ends, and its words.
pub type Rule = Option<(DateTime<Utc>, String)>;

fn failure_backoff(past: &[&PastCycle], reset_at: Option<DateTime<Utc>>, policy: &GovernorPolicy) -> Rule {
    let counts = |cycle: &&&PastCycle| reset_at.is_none_or(|reset| cycle.ended_at > reset);
    let failures = past.iter().take_while(|cycle| cycle.outcome == CycleOutcome::Failed).filter(counts).count();
    let last = past.first().filter(|_| failures > 0)?;
    let hours = doubled(policy.failure_backoff_hours, failures - 1, policy.maximum_failure_backoff_hours);
    let why =
        format!("the last {failures} cycles failed ({} was the latest): next try {hours} hours later", last.cycle);
    Some((last.ended_at + Duration::hours(i64::from(hours)), why))
}

fn cooldown(past: &[&PastCycle], reset_at: Option<DateTime<Utc>>, trigger: Trigger, policy: &GovernorPolicy) -> Rule {
    let last = *past.iter().find(|cycle| is_retrain(cycle))?;
    let fruitless = fruitless(past, reset_at);
    let (days, why) = if trigger == Trigger::Performance {
        // Degradation goes through the breaker: the model in use is known to be worse.
        (policy.urgent_cooldown_days, "performance has degraded, so the short cooldown applies".to_owned())
    } else if fruitless >= policy.breaker_after as usize {
        let extra = fruitless + 1 - policy.breaker_after as usize;
        let days = doubled(policy.cooldown_days, extra, policy.maximum_cooldown_days);
        (days, format!("the breaker is open: the last {fruitless} retrains gained nothing"))
    } else {
        (policy.cooldown_days, "the cooldown applies".to_owned())
    };
    let text = format!("{} ended {}; {why}: {days} days", last.cycle, last.ended_at.format("%Y-%m-%d"));
    Some((last.ended_at + Duration::days(i64::from(days)), text))
}

fn budget(past: &[&PastCycle], policy: &GovernorPolicy, now: DateTime<Utc>) -> Rule {
    let month = Duration::days(30);
    let recent: Vec<&&PastCycle> =
        past.iter().filter(|cycle| is_retrain(cycle) && cycle.ended_at + month > now).collect();
    // The budget has room again when the oldest of the last N leaves the 30 days.
    let frees = recent.get((policy.retrains_per_30_days as usize).checked_sub(1)?)?;
    let why = format!("{} retrains in 30 days; the budget is {}", recent.len(), policy.retrains_per_30_days);
    Some((frees.ended_at + month, why))
}

fn is_retrain(cycle: &PastCycle) -> bool {
    matches!(cycle.outcome, CycleOutcome::Promoted | CycleOutcome::NoGain)
}

/// `base · 2^times`, at most `limit`.
fn doubled(base: u32, times: usize, limit: u32) -> u32 {
    let factor = 1_u32.checked_shl(times as u32).unwrap_or(u32::MAX);
    base.saturating_mul(factor).min(limit)
}

#[cfg(test)]
mod tests {
    use CycleOutcome::{Cancelled, Failed, NoGain, Promoted};

    use super::*;

    fn day(n: i64) -> DateTime<Utc> {
        "2013-03-01T00:00:00Z".parse::<DateTime<Utc>>().unwrap() + Duration::days(n)
    }

    fn state(cycles: &[(i64, CycleOutcome)]) -> GovernorState {
        let past = cycles.iter().zip(1..).map(|((ended, outcome), n)| PastCycle {
            cycle: CycleId(n),
            ended_at: day(*ended),
            outcome: *outcome,
        });
        GovernorState { cycles: past.collect(), reset_at: None }
    }

    /// The day from which the governor lets the trigger through.
    fn free_from(state: &GovernorState, trigger: Trigger, now: i64) -> i64 {
        refusal(state, trigger, &GovernorPolicy::default(), day(now))
            .map_or(now, |(until, _)| (until - day(0)).num_days())
    }

    #[test]
    fn each_rule_refuses_until_its_day() {
        /// Past cycles (day, outcome), what asks, the day it asks, the day it is granted, why.
        type Row = (&'static [(i64, CycleOutcome)], Trigger, i64, i64, &'static str);
        let table: [Row; 11] = [
            (&[], Trigger::Drift, 0, 0, "nothing happened yet"),
            (&[(0, Promoted)], Trigger::Drift, 1, 14, "cooldown"),
            (&[(0, Promoted)], Trigger::Drift, 14, 14, "cooldown is over"),
            (&[(0, Promoted)], Trigger::Performance, 1, 7, "degradation waits for less"),
            (&[(0, Promoted)], Trigger::Operator, 0, 0, "an operator waits for nothing"),
            (&[(0, Promoted), (15, Promoted)], Trigger::Performance, 23, 30, "budget of two in 30 days"),
            (&[(0, NoGain), (20, NoGain)], Trigger::Drift, 35, 48, "breaker: cooldown doubled"),
            (&[(0, NoGain), (20, NoGain), (50, NoGain)], Trigger::Schedule, 80, 106, "doubled again"),
            (&[(0, NoGain), (20, NoGain)], Trigger::Performance, 35, 35, "degradation goes through the breaker"),
            (&[(0, NoGain), (20, Promoted)], Trigger::Drift, 34, 34, "a gain closes the breaker"),
            (&[(0, Cancelled)], Trigger::Drift, 0, 0, "a cancelled cycle costs nothing"),
        ];
        for (cycles, trigger, now, expected, why) in table {
            assert_eq!(free_from(&state(cycles), trigger, now), expected, "{why}");
        }
    }

    #[test]
    fn failed_cycles_back_off_exponentially_up_to_a_limit_even_for_the_first_model() {
        let policy = GovernorPolicy::default();
        let failed = |n: usize| GovernorState { reset_at: None, ..state(&vec![(0, Failed); n]) };
        for (failures, hours) in [(1, 6), (2, 12), (3, 24), (20, 168)] {
            let (until, why) = refusal(&failed(failures), Trigger::FirstModel, &policy, day(0)).unwrap();
            assert_eq!(until, day(0) + Duration::hours(hours), "{failures} failures");
            assert!(why.contains("failed"), "{why}");
        }
    }

    #[test]
    fn a_failure_after_a_retrain_does_not_lift_its_cooldown() {
        assert_eq!(free_from(&state(&[(0, Promoted), (3, Failed)]), Trigger::Drift, 5), 14);
    }

    #[test]
    fn the_standing_says_what_the_rules_would() {
        let policy = GovernorPolicy::default();
        let calm = standing(&state(&[]), &policy, day(0));
        assert_eq!(
            (calm.cooldown_until, calm.backoff_until, calm.budget_left, calm.breaker_open),
            (None, None, 2, false)
        );
        let tired = standing(&state(&[(0, NoGain), (20, NoGain)]), &policy, day(21));
        assert_eq!((tired.cooldown_until, tired.budget_left, tired.breaker_open), (Some(day(48)), 0, true));
        let failed = standing(&state(&[(0, Promoted), (3, Failed)]), &policy, day(5));
        assert_eq!(failed.backoff_until, Some(day(3) + Duration::hours(6)));
        assert_eq!((failed.cooldown_until, failed.budget_left), (Some(day(14)), 1));
    }

    #[test]
    fn an_operator_closes_the_breaker() {
        let mut fruitless = state(&[(0, NoGain), (20, NoGain)]);
        fruitless.reset_at = Some(day(21));
        assert_eq!(free_from(&fruitless, Trigger::Drift, 35), 35);
    }

    #[test]
    fn the_defaults_have_no_faults_and_a_policy_that_never_retrains_is_refused() {
        assert!(GovernorPolicy::default().faults().is_empty());
        let wrong = GovernorPolicy { retrains_per_30_days: 0, urgent_cooldown_days: 99, ..GovernorPolicy::default() };
        assert_eq!(wrong.faults().len(), 2);
    }
}
