//! The ledger, seen as what a decision is taken from.

use chrono::{DateTime, Duration, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::env::Env;
use delayd_core::failure::StepFailure;
use delayd_judge::decide::{
    DataFreshness, DriftFinding, LiveModel, OperatorWord, PerformanceFinding, Snapshot, Trigger,
};
use delayd_judge::governor::{self, GovernorState, PastCycle};
use delayd_ledger::{self as ledger, Alias, Cycle, CycleReason, CycleState, Page};

/// Names under which the coordinator keeps what it must not forget.
pub(super) const PAUSED: &str = "paused";
pub(super) const BREAKER_RESET: &str = "breaker_reset";
pub(super) const DRIFT_FINDING: &str = "drift_finding";
pub(super) const PERFORMANCE_FINDING: &str = "performance_finding";
pub(super) const LAST_HOLD: &str = "last_hold";

/// Reads what a decision is taken from. `requested` is an operator's request made just now: it is granted or
/// refused at once, and never kept for later.
pub(crate) fn read(
    ledger: &ledger::Snapshot<'_>,
    requested: Option<OperatorWord>,
    now: DateTime<Utc>,
) -> rusqlite::Result<Snapshot> {
    let cycles = past_cycles(ledger)?;
    let live = ledger.alias(Alias::Live)?.map(|live| ledger.model(live)).transpose()?.flatten().map(|model| {
        let cycle = cycles.iter().find(|cycle| cycle.id == model.cycle);
        LiveModel { version: model.version, trained_until: cycle.map_or(model.registered_at, |cycle| cycle.started_at) }
    });
    let since = live.as_ref().map_or(now - Duration::days(3650), |live| live.trained_until);
    let (newest_outcome_at, examples, new_examples) = ledger.outcome_counts(since)?;
    Ok(Snapshot {
        live,
        running: cycles.iter().find(|cycle| cycle.state != CycleState::Finished).map(|cycle| cycle.id),
        paused: kept(ledger, PAUSED)?,
        requested,
        drift: kept::<DriftFinding>(ledger, DRIFT_FINDING)?,
        performance: kept::<PerformanceFinding>(ledger, PERFORMANCE_FINDING)?,
        data: DataFreshness { newest_outcome_at, examples, new_examples },
        governor: governor_of(ledger, &cycles)?,
    })
}

/// What the governor judges by.
pub(crate) fn governor(ledger: &ledger::Snapshot<'_>) -> rusqlite::Result<GovernorState> {
    governor_of(ledger, &past_cycles(ledger)?)
}

/// Who paused the loop, and why; `None` while it is not paused.
pub fn paused(ledger: &ledger::Snapshot<'_>) -> rusqlite::Result<Option<OperatorWord>> {
    kept(ledger, PAUSED)
}

fn past_cycles(ledger: &ledger::Snapshot<'_>) -> rusqlite::Result<Vec<Cycle>> {
    ledger.cycles(Page { offset: 0, limit: 200 })
}

fn governor_of(ledger: &ledger::Snapshot<'_>, cycles: &[Cycle]) -> rusqlite::Result<GovernorState> {
    Ok(GovernorState {
        cycles: cycles.iter().filter_map(past_cycle).collect(),
        reset_at: kept::<OperatorWord>(ledger, BREAKER_RESET)?.map(|word| word.at),
    })
}

/// A document of the settings table; `null` stands for one that was cleared.
pub(super) fn kept<T: DeserializeOwned + Send + 'static>(
    ledger: &ledger::Snapshot<'_>,
    name: &'static str,
) -> rusqlite::Result<Option<T>> {
    Ok(ledger.setting::<Option<T>>(name)?.flatten())
}

/// Keeps a document; `None` clears it.
pub(super) async fn keep<T: Serialize + Send + 'static>(
    env: &Env,
    name: &'static str,
    value: Option<T>,
) -> Result<(), StepFailure> {
    Ok(env.ledger.set_setting(name, value, env.now()).await?)
}

/// What the governor remembers of a cycle; `None` while it is open.
fn past_cycle(cycle: &Cycle) -> Option<PastCycle> {
    use governor::CycleOutcome as Past;
    let outcome = match cycle.outcome? {
        ledger::CycleOutcome::Deployed => Past::Promoted,
        ledger::CycleOutcome::KeptLive | ledger::CycleOutcome::RolledBack => Past::NoGain,
        ledger::CycleOutcome::Failed | ledger::CycleOutcome::Stuck => Past::Failed,
        ledger::CycleOutcome::Cancelled => Past::Cancelled,
    };
    Some(PastCycle { cycle: cycle.id, ended_at: cycle.finished_at?, outcome })
}

/// The reason of a cycle as the ledger stores it.
pub(super) fn ledger_reason(reason: &delayd_judge::decide::CycleReason, snapshot: &Snapshot) -> CycleReason {
    let summary = reason.text.clone();
    match (reason.trigger, reason.drift_report, &snapshot.requested) {
        (Trigger::FirstModel, _, _) => CycleReason::Bootstrap,
        (Trigger::Drift, Some(report), _) => CycleReason::Drift { report, summary },
        (Trigger::Performance | Trigger::Drift, _, _) => CycleReason::Performance { summary },
        (Trigger::Schedule, _, _) => CycleReason::Scheduled,
        (Trigger::Operator, _, Some(word)) => CycleReason::Manual { by: word.by.clone(), why: word.reason.clone() },
        (Trigger::Operator, _, None) => CycleReason::Manual { by: "operator".to_owned(), why: summary },
    }
}
