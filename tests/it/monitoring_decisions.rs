//! From what is known to what is done: tables of (snapshot, action, why).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "helpers are shared by inclusion")]

use chrono::{DateTime, Duration, Utc};
use delayd_core::ids::{CycleId, DriftReportId, ModelVersion};
use delayd_judge::decide::{
    Action, DataFreshness, Decision, DriftFinding, LiveModel, OperatorWord, PerformanceFinding, RetrainPolicy,
    Snapshot, Trigger, decide,
};
use delayd_judge::governor::{CycleOutcome, GovernorState, PastCycle};
use delayd_judge::monitoring::drift::DriftStatus;
use delayd_judge::monitoring::performance::PerformanceStatus;

fn now() -> DateTime<Utc> {
    "2013-06-01T06:00:00Z".parse().unwrap()
}

fn days_ago(days: i64) -> DateTime<Utc> {
    now() - Duration::days(days)
}

/// A month-old live model, fresh data, nothing wrong.
fn calm() -> Snapshot {
    Snapshot {
        live: Some(LiveModel { version: ModelVersion(3), trained_until: days_ago(30) }),
        running: None,
        paused: None,
        requested: None,
        drift: Some(drift(DriftStatus::Stable)),
        performance: Some(performance(PerformanceStatus::Holding)),
        data: DataFreshness { newest_outcome_at: Some(days_ago(0)), examples: 200_000, new_examples: 25_000 },
        governor: GovernorState { cycles: vec![past(30, CycleOutcome::Promoted)], reset_at: None },
    }
}

fn drift(status: DriftStatus) -> DriftFinding {
    let reason = "all_overdue_count drifted".to_owned();
    DriftFinding { report: DriftReportId(9), model: ModelVersion(3), ended_at: days_ago(1), status, reason }
}

fn performance(status: PerformanceStatus) -> PerformanceFinding {
    PerformanceFinding { model: ModelVersion(3), at: days_ago(0), status, reason: "auc is 0.700".to_owned() }
}

fn past(days: i64, outcome: CycleOutcome) -> PastCycle {
    PastCycle { cycle: CycleId(days.unsigned_abs() + 1), ended_at: days_ago(days), outcome }
}

fn word(reason: &str) -> OperatorWord {
    OperatorWord { by: "ada".into(), reason: reason.into(), at: days_ago(0) }
}

fn judge(change: impl FnOnce(&mut Snapshot)) -> Decision {
    let mut snapshot = calm();
    change(&mut snapshot);
    decide(&snapshot, &RetrainPolicy::default(), now())
}

/// What was started and the text of it, or `None` and why it holds.
fn told(decision: &Decision) -> (Option<Trigger>, &str) {
    match &decision.action {
        Action::StartCycle { reason } => (Some(reason.trigger), &reason.text),
        Action::Hold { why, .. } => (None, why),
    }
}

type Row = (&'static str, fn(&mut Snapshot), Option<Trigger>, &'static str);

#[test]
fn each_situation_has_its_action_and_its_reason() {
    let drifted: fn(&mut Snapshot) = |s| s.drift = Some(drift(DriftStatus::Drifted));
    let table: [Row; 20] = [
        ("calm", |_| {}, None, "nothing asks"),
        ("no model", |s| s.live = None, Some(Trigger::FirstModel), "nothing is live"),
        ("no model, few flights", |s| (s.live, s.data.examples) = (None, 99), None, "99 flights are too few"),
        ("drift", drifted, Some(Trigger::Drift), "all_overdue_count drifted"),
        ("suspected drift", |s| s.drift = Some(drift(DriftStatus::Suspected)), None, "nothing asks"),
        (
            "degraded",
            |s| s.performance = Some(performance(PerformanceStatus::Degraded)),
            Some(Trigger::Performance),
            "auc",
        ),
        (
            "degraded and drifted",
            |s| {
                s.performance = Some(performance(PerformanceStatus::Degraded));
                s.drift = Some(drift(DriftStatus::Drifted));
            },
            Some(Trigger::Performance),
            "auc",
        ),
        (
            "old model",
            |s| s.live.as_mut().unwrap().trained_until = days_ago(60),
            Some(Trigger::Schedule),
            "60 days ago",
        ),
        (
            "asked",
            |s| s.requested = Some(word("new carrier")),
            Some(Trigger::Operator),
            "ada asked for it: new carrier",
        ),
        (
            "drift while paused",
            |s| {
                s.drift = Some(drift(DriftStatus::Drifted));
                s.paused = Some(word("maintenance"));
            },
            None,
            "ada paused",
        ),
        (
            "asked while paused",
            |s| {
                s.requested = Some(word("now"));
                s.paused = Some(word("maintenance"));
            },
            Some(Trigger::Operator),
            "now",
        ),
        (
            "asked while a cycle runs",
            |s| {
                s.requested = Some(word("now"));
                s.running = Some(CycleId(8));
            },
            None,
            "cycle_8 is under way",
        ),
        (
            "drift of an earlier model",
            |s| {
                s.drift = Some(DriftFinding { model: ModelVersion(2), ..drift(DriftStatus::Drifted) });
            },
            None,
            "nothing asks",
        ),
        (
            "an old drift report",
            |s| {
                s.drift = Some(DriftFinding { ended_at: days_ago(5), ..drift(DriftStatus::Drifted) });
            },
            None,
            "nothing asks",
        ),
        (
            "drift, stale data",
            |s| {
                s.drift = Some(drift(DriftStatus::Drifted));
                s.data.newest_outcome_at = Some(days_ago(9));
            },
            None,
            "216 hours old",
        ),
        (
            "drift, nothing new",
            |s| {
                s.drift = Some(drift(DriftStatus::Drifted));
                s.data.new_examples = 12;
            },
            None,
            "12 new flights",
        ),
        (
            "drift in the cooldown",
            |s| {
                s.drift = Some(drift(DriftStatus::Drifted));
                s.governor.cycles = vec![past(10, CycleOutcome::Promoted)];
            },
            None,
            "cooldown",
        ),
        (
            "degraded in the cooldown",
            |s| {
                s.performance = Some(performance(PerformanceStatus::Degraded));
                s.governor.cycles = vec![past(10, CycleOutcome::Promoted)];
            },
            Some(Trigger::Performance),
            "auc",
        ),
        (
            "drift, breaker open",
            |s| {
                s.drift = Some(drift(DriftStatus::Drifted));
                s.governor.cycles = vec![past(20, CycleOutcome::NoGain), past(45, CycleOutcome::NoGain)];
            },
            None,
            "breaker is open",
        ),
        (
            "degraded, breaker open",
            |s| {
                s.performance = Some(performance(PerformanceStatus::Degraded));
                s.governor.cycles = vec![past(20, CycleOutcome::NoGain), past(45, CycleOutcome::NoGain)];
            },
            Some(Trigger::Performance),
            "auc",
        ),
    ];
    for (name, change, expected, why) in table {
        let decision = judge(change);
        let (trigger, text) = told(&decision);
        assert_eq!(trigger, expected, "{name}: {text}");
        assert!(text.contains(why), "{name}: {text}");
    }
}

#[test]
fn every_alternative_is_listed_with_why_it_was_not_taken() {
    let decision = judge(|s| {
        s.performance = Some(performance(PerformanceStatus::Degraded));
        s.drift = Some(drift(DriftStatus::Drifted));
    });
    let listed: Vec<Trigger> = decision.alternatives.iter().map(|alternative| alternative.trigger).collect();
    assert_eq!(listed, Trigger::ALL);
    let taken: Vec<bool> = decision.alternatives.iter().map(|alternative| alternative.taken).collect();
    assert_eq!(taken, [false, false, true, false, false]);
    assert!(decision.alternatives[3].why.contains("performance already starts the cycle"));
    assert!(decision.alternatives[4].why.contains("30 days ago, under 60"));
    let stored = serde_json::to_string(&decision).unwrap();
    assert_eq!(serde_json::from_str::<Decision>(&stored).unwrap(), decision);
}

#[test]
fn a_drift_report_is_named_in_the_reason_and_a_hold_says_until_when() {
    let decision = judge(|s| s.drift = Some(drift(DriftStatus::Drifted)));
    let Action::StartCycle { reason } = decision.action else { panic!("drift did not start a cycle") };
    assert_eq!(reason.drift_report, Some(DriftReportId(9)));
    let Action::Hold { until, .. } = judge(|_| {}).action else { panic!("a calm day started a cycle") };
    assert_eq!(until, Some(days_ago(-30)), "when the model is due");
}

#[test]
fn ten_calm_months_retrain_five_times_and_ten_drifting_ones_keep_to_the_budget() {
    for (always_drifting, expected) in [(false, 5..=5), (true, 10..=21)] {
        let mut snapshot = calm();
        let start = now();
        snapshot.live = Some(LiveModel { version: ModelVersion(1), trained_until: start });
        snapshot.governor.cycles.clear();
        let mut retrains = 0_u64;
        for day in 0..305 {
            let today = start + Duration::days(day);
            snapshot.data.newest_outcome_at = Some(today);
            let version = ModelVersion(retrains + 1);
            let status = if always_drifting { DriftStatus::Drifted } else { DriftStatus::Stable };
            snapshot.drift = Some(DriftFinding { model: version, ended_at: today, ..drift(status) });
            snapshot.performance = None;
            if let Action::StartCycle { .. } = decide(&snapshot, &RetrainPolicy::default(), today).action {
                retrains += 1;
                snapshot.live = Some(LiveModel { version: ModelVersion(retrains + 1), trained_until: today });
                snapshot.governor.cycles.push(PastCycle {
                    cycle: CycleId(retrains),
                    ended_at: today,
                    outcome: CycleOutcome::Promoted,
                });
            }
        }
        assert!(expected.contains(&retrains), "{retrains} retrains, drifting: {always_drifting}");
    }
}
