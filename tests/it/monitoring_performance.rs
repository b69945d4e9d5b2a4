//! The performance verdict on outcomes whose truth is known.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "helpers are shared by inclusion")]

use chrono::{DateTime, Duration, Utc};
use delayd_judge::monitoring::performance::{
    PerformanceInputs, PerformancePolicy, PerformanceReport, PerformanceStatus, PerformanceSummary, ValidationBaseline,
    evaluate,
};
use delayd_judge::monitoring::realised::{MaturedPrediction, estimate};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

fn start() -> DateTime<Utc> {
    "2013-03-01T12:00:00Z".parse().unwrap()
}

/// Flights whose delay follows the score, except for a share whose outcome is a coin's.
fn outcomes(days: i64, per_day: usize, coin_share: f32, seed: u64) -> Vec<MaturedPrediction> {
    let mut random = SmallRng::seed_from_u64(seed);
    (0..days)
        .flat_map(|day| std::iter::repeat_n(start() + Duration::days(day), per_day))
        .map(|at| {
            let score: f32 = random.random::<f32>().powi(2);
            let truth = if random.random::<f32>() < coin_share { 0.33 } else { score };
            MaturedPrediction { score, delayed: random.random::<f32>() < truth, at }
        })
        .collect()
}

fn baseline() -> ValidationBaseline {
    let scores: Vec<f32> = outcomes(14, 2_000, 0.0, 99).iter().map(|outcome| outcome.score).collect();
    let promised = estimate(scores.iter().copied(), 0.4);
    ValidationBaseline {
        auc: promised.auc.unwrap(),
        log_loss: promised.log_loss.unwrap(),
        delayed_share: promised.delayed as f64 / promised.rows as f64,
        calibration_error: 0.01,
        recall: promised.recall.unwrap(),
    }
}

fn judge(outcomes: &[MaturedPrediction], history: &[PerformanceSummary], at: DateTime<Utc>) -> PerformanceReport {
    let baseline = baseline();
    let inputs = PerformanceInputs { outcomes, pending_scores: &[], threshold: 0.4, baseline: &baseline, history };
    evaluate(inputs, &PerformancePolicy::default(), at)
}

#[test]
fn a_model_that_does_as_validated_holds() {
    for seed in 0..20 {
        let report = judge(&outcomes(14, 900, 0.0, seed), &[], start() + Duration::days(13));
        assert_eq!(report.status, PerformanceStatus::Holding, "seed {seed}: {}", report.reason);
    }
}

#[test]
fn a_model_that_ranks_worse_is_suspected_and_degraded_once_it_lasts() {
    let bad = outcomes(20, 900, 0.3, 1);
    let mut history = Vec::new();
    let mut statuses = Vec::new();
    for day in 13..17 {
        let report = judge(&bad, &history, start() + Duration::days(day));
        statuses.push(report.status);
        history.push(report.summary());
        assert!(report.reason.contains("auc is"), "{}", report.reason);
    }
    use PerformanceStatus::{Degraded, Suspected};
    assert_eq!(statuses, [Suspected, Suspected, Degraded, Degraded]);
}

#[test]
fn a_share_of_delays_that_changes_with_the_scores_is_not_degradation() {
    // A stormy fortnight: the odds of delay double, and the model says so.
    let mut random = SmallRng::seed_from_u64(5);
    let stormy: Vec<MaturedPrediction> = outcomes(14, 900, 0.0, 5)
        .into_iter()
        .map(|outcome| {
            let p = outcome.score.clamp(1e-6, 1.0 - 1e-6);
            let score = 1.0 / (1.0 + (-(p / (1.0 - p)).ln() - 0.7).exp());
            MaturedPrediction { score, delayed: random.random::<f32>() < score, at: outcome.at }
        })
        .collect();
    let report = judge(&stormy, &[], start() + Duration::days(13));
    let realised = report.realised.as_ref().unwrap().metrics;
    assert!(realised.log_loss.unwrap() > baseline().log_loss + 0.01, "the bare log-loss is worse");
    assert_eq!(report.status, PerformanceStatus::Holding, "{}", report.reason);
}

#[test]
fn until_outcomes_are_in_the_estimate_stands_in() {
    let baseline = baseline();
    let pending: Vec<f32> = outcomes(2, 500, 0.0, 3).iter().map(|outcome| outcome.score).collect();
    let inputs = PerformanceInputs {
        outcomes: &[],
        pending_scores: &pending,
        threshold: 0.4,
        baseline: &baseline,
        history: &[],
    };
    let report = evaluate(inputs, &PerformancePolicy::default(), start());
    assert_eq!(report.status, PerformanceStatus::TooFewOutcomes);
    assert!((report.estimated.auc.unwrap() - baseline.auc).abs() < 0.03);
    assert!(report.reason.contains("0 outcomes"), "{}", report.reason);
}

#[test]
fn outcomes_outside_the_window_do_not_count_and_a_report_survives_json() {
    let mut flights = outcomes(14, 900, 0.9, 7);
    flights.iter_mut().for_each(|outcome| outcome.at -= Duration::days(30));
    flights.extend(outcomes(14, 900, 0.0, 8));
    let report = judge(&flights, &[], start() + Duration::days(13));
    assert_eq!(report.status, PerformanceStatus::Holding, "{}", report.reason);
    let stored = serde_json::to_string(&report).unwrap();
    let read: PerformanceReport = serde_json::from_str(&stored).unwrap();
    // Numbers may differ in their last bit: serde_json reads floats fast, not exactly.
    assert_eq!((read.status, &read.reason, &read.policy), (report.status, &report.reason, &report.policy));
    assert_eq!(read.summary(), report.summary());
}
