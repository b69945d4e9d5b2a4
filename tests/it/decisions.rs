//! From what is known to what is done: tables of (snapshot, action, why).

use chrono::{DateTime, Duration, Utc};
use delayd_core::ids::{CycleId, DriftReportId, ModelVersion};
use delayd_judge::decide::{
    Action, DataFreshness, Decision, DriftFinding, LiveModel, OperatorWord, PerformanceFinding, RetrainPolicy,
    Snapshot, Trigger, decide,
};
use delayd_judge::evaluation::{GatePolicy, GateRows, GateVerdict, Scored, compare};
use delayd_judge::governor::{CycleOutcome, GovernorState, PastCycle};
use delayd_judge::monitoring::drift::DriftStatus;
use delayd_judge::monitoring::performance::PerformanceStatus;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

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

type Change = fn(&mut Snapshot);

#[test]
fn each_situation_has_its_action_and_its_reason() {
    let drifted: Change = |s| s.drift = Some(drift(DriftStatus::Drifted));
    let suspected: Change = |s| s.drift = Some(drift(DriftStatus::Suspected));
    let of_an_earlier_model: Change = |s| s.drift.as_mut().unwrap().model = ModelVersion(2);
    let long_ago: Change = |s| s.drift.as_mut().unwrap().ended_at = days_ago(5);
    let degraded: Change = |s| s.performance = Some(performance(PerformanceStatus::Degraded));
    let paused: Change = |s| s.paused = Some(word("maintenance"));
    let asked: Change = |s| s.requested = Some(word("new carrier"));
    let cooldown: Change = |s| s.governor.cycles = vec![past(10, CycleOutcome::Promoted)];
    let breaker: Change = |s| s.governor.cycles = vec![past(20, CycleOutcome::NoGain), past(45, CycleOutcome::NoGain)];
    let few_flights: Change = |s| (s.live, s.data.examples) = (None, 99);
    let old_model: Change = |s| s.live.as_mut().unwrap().trained_until = days_ago(60);
    let stale_data: Change = |s| s.data.newest_outcome_at = Some(days_ago(9));
    use Trigger::{Drift, FirstModel, Operator, Performance, Schedule};
    let table: [(&str, &[Change], Option<Trigger>, &str); 20] = [
        ("calm", &[], None, "nothing asks"),
        ("no model", &[|s| s.live = None], Some(FirstModel), "nothing is live"),
        ("no model, few flights", &[few_flights], None, "99 flights are too few"),
        ("drift", &[drifted], Some(Drift), "all_overdue_count drifted"),
        ("suspected drift", &[suspected], None, "nothing asks"),
        ("degraded", &[degraded], Some(Performance), "auc"),
        ("degraded and drifted", &[degraded, drifted], Some(Performance), "auc"),
        ("old model", &[old_model], Some(Schedule), "60 days ago"),
        ("asked", &[asked], Some(Operator), "ada asked for it: new carrier"),
        ("drift while paused", &[drifted, paused], None, "ada paused"),
        ("asked while paused", &[asked, paused], Some(Operator), "new carrier"),
        ("asked while a cycle runs", &[asked, |s| s.running = Some(CycleId(8))], None, "cycle_8 is under way"),
        ("drift of an earlier model", &[drifted, of_an_earlier_model], None, "nothing asks"),
        ("an old drift report", &[drifted, long_ago], None, "nothing asks"),
        ("drift, stale data", &[drifted, stale_data], None, "216 hours old"),
        ("drift, nothing new", &[drifted, |s| s.data.new_examples = 12], None, "12 new flights"),
        ("drift in the cooldown", &[drifted, cooldown], None, "cooldown"),
        ("degraded in the cooldown", &[degraded, cooldown], Some(Performance), "auc"),
        ("drift, breaker open", &[drifted, breaker], None, "breaker is open"),
        ("degraded, breaker open", &[degraded, breaker], Some(Performance), "auc"),
    ];
    for (name, changes, expected, why) in table {
        let decision = judge(|snapshot| changes.iter().for_each(|change| change(snapshot)));
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

// ----------------------------------------------------------------
// The gate, as a table of challengers and what must become of them.

const ROWS: usize = 4000;

/// Rows whose true probability is known, so that a model of any quality can be made.
struct World {
    rows: GateRows,
    truth: Vec<f32>,
}

fn world(rows: usize) -> World {
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let truth: Vec<f32> = (0..rows).map(|_| random.random::<f32>().powi(3)).collect();
    let labels = truth.iter().map(|p| random.random::<f32>() < *p).collect();
    let blocks = (0..rows as u32).map(|row| row / 20).collect();
    let recent = (0..rows).map(|row| row >= rows / 2).collect();
    World { rows: GateRows { labels, blocks, recent }, truth }
}

impl World {
    /// A model that sees the truth through noise of this size.
    fn model(&self, name: &str, noise: f32, seed: u64) -> Scored {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut blur = |p: &f32| {
            let logit = (p.clamp(0.01, 0.99) / (1.0 - p.clamp(0.01, 0.99))).ln();
            1.0 / (1.0 + (-(logit + noise * (random.random::<f32>() - 0.5))).exp())
        };
        Scored {
            name: name.to_owned(),
            scores: self.truth.iter().map(&mut blur).collect(),
            threshold: 0.5,
            latency_p95_us: Some(300.0),
            robustness: vec![("missing_weather".to_owned(), 0.75), ("noise".to_owned(), 0.78)],
        }
    }

    fn lookup(&self) -> Scored {
        self.model("lookup", 12.0, 5)
    }

    fn judge(&self, challenger: &Scored, live: Option<&Scored>) -> GateVerdict {
        compare(&self.rows, challenger, live, &self.lookup(), &GatePolicy::default(), 7)
    }
}

fn broken(verdict: &GateVerdict) -> Vec<&str> {
    verdict.checks.iter().filter(|check| !check.passed).map(|check| check.check.as_str()).collect()
}

#[test]
fn a_challenger_that_ranks_and_calibrates_better_passes() {
    let world = world(ROWS);
    let verdict = world.judge(&world.model("model_v2", 0.2, 1), Some(&world.model("model_v1", 5.0, 2)));
    assert!(verdict.passed, "{verdict:#?}");
    assert!(verdict.reason.contains("model_v2 is proven better in ROC-AUC"), "{}", verdict.reason);
    assert!(verdict.checks.iter().filter(|c| c.interval.is_some()).all(|c| {
        let interval = c.interval.unwrap();
        interval.low <= interval.high && interval.value == c.value
    }));
}

#[test]
fn the_incumbent_wins_ties() {
    let world = world(ROWS);
    let live = world.model("model_v1", 1.0, 2);
    let same = Scored { name: "model_v2".into(), ..live.clone() };
    let verdict = world.judge(&same, Some(&live));
    assert!(!verdict.passed);
    assert_eq!(verdict.reason, "model_v2 is not proven better than model_v1: kept the current model");
    assert_eq!(broken(&verdict), ["roc_auc_gain", "log_loss_gain"]);
    // As good, with other noise: no proof either.
    assert!(!world.judge(&world.model("model_v2", 1.0, 3), Some(&live)).passed);
}

#[test]
fn each_guard_stops_a_challenger_that_is_better_otherwise() {
    let world = world(ROWS);
    let live = world.model("model_v1", 5.0, 2);
    let good = world.model("model_v2", 0.2, 1);
    let worse_in = |name: &str| {
        let mut robustness = good.robustness.clone();
        robustness.iter_mut().filter(|(other, _)| other == name).for_each(|(_, auc)| *auc -= 0.1);
        Scored { robustness, ..good.clone() }
    };
    let spoiled_recently = {
        let mut scores = good.scores.clone();
        let blurred = world.model("x", 14.0, 9).scores;
        for row in (0..ROWS).filter(|row| row % 2 == 0 && world.rows.recent[*row]) {
            scores[row] = blurred[row];
        }
        Scored { scores, ..good.clone() }
    };
    let table = [
        (Scored { latency_p95_us: Some(900.0), ..good.clone() }, "latency_ratio"),
        (Scored { threshold: 0.95, ..good.clone() }, "recall"),
        (Scored { threshold: 0.05, ..good.clone() }, "accuracy"),
        (worse_in("missing_weather"), "robustness.missing_weather"),
        (spoiled_recently, "drift_resilience.fade"),
    ];
    for (challenger, expected) in table {
        let verdict = world.judge(&challenger, Some(&live));
        assert!(!verdict.passed, "{expected} let it through");
        assert!(broken(&verdict).contains(&expected), "{expected} is not among {:?}", broken(&verdict));
    }
}

#[test]
fn a_slower_model_that_is_still_quick_enough_passes() {
    let world = world(ROWS);
    let live = Scored { latency_p95_us: Some(20.0), ..world.model("model_v1", 5.0, 2) };
    let good = Scored { latency_p95_us: Some(90.0), ..world.model("model_v2", 0.2, 1) };
    assert!(world.judge(&good, Some(&live)).passed);
}

#[test]
fn the_lookup_table_must_be_beaten_even_by_a_model_better_than_the_live_one() {
    let world = world(ROWS);
    let lookup = Scored { name: "lookup".into(), ..world.model("lookup", 0.0, 5) };
    let live = world.model("model_v1", 14.0, 2);
    let challenger = world.model("model_v2", 4.0, 1);
    let verdict = compare(&world.rows, &challenger, Some(&live), &lookup, &GatePolicy::default(), 7);
    assert!(!verdict.passed && broken(&verdict).contains(&"roc_auc_over_lookup"), "{:?}", broken(&verdict));
}

#[test]
fn the_first_model_has_only_the_lookup_table_to_beat() {
    let world = world(ROWS);
    assert!(world.judge(&world.model("model_v1", 1.0, 1), None).passed);
    let hopeless = world.judge(&world.model("model_v1", 40.0, 1), None);
    assert!(!hopeless.passed);
    assert_eq!(hopeless.reason, "model_v1 is not proven better than lookup");
}

#[test]
fn too_few_rows_or_scores_of_other_rows_decide_nothing() {
    let small = world(100);
    let verdict = small.judge(&small.model("model_v2", 0.2, 1), Some(&small.model("model_v1", 5.0, 2)));
    assert!(verdict.reason.contains("100 rows are too few"), "{}", verdict.reason);

    let world = world(ROWS);
    let mut challenger = world.model("model_v2", 0.2, 1);
    challenger.scores.pop();
    let verdict = world.judge(&challenger, Some(&world.model("model_v1", 5.0, 2)));
    assert!(!verdict.passed && broken(&verdict) == ["same_rows"]);
    challenger.scores.push(f32::NAN);
    assert!(!world.judge(&challenger, None).passed);
}

#[test]
fn the_same_seed_gives_the_same_verdict() {
    let world = world(ROWS);
    let (challenger, live) = (world.model("model_v2", 1.0, 1), world.model("model_v1", 1.4, 2));
    assert_eq!(world.judge(&challenger, Some(&live)), world.judge(&challenger, Some(&live)));
}
