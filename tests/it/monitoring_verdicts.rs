//! The drift check on windows whose truth is known.

use std::time::Instant;

use chrono::{DateTime, Duration, Utc};
use delayd_features::{
    CategoryInput, Encoder, FeatureSpec, FitOptions, FlightRow, HolidayCalendar, NumericInput, RawInputs,
};
use delayd_judge::monitoring::drift::{
    CountedFlight, DriftStatus, DriftWindow, SCORE, WindowSummary, count_flights, evaluate,
};
use delayd_judge::monitoring::performance::{
    PerformanceInputs, PerformancePolicy, PerformanceReport, PerformanceStatus, PerformanceSummary, ValidationBaseline,
    evaluate as evaluate_performance,
};
use delayd_judge::monitoring::realised::{MaturedPrediction, estimate};
use delayd_judge::monitoring::settings::DriftPolicy;
use delayd_model::{CategoryReference, DriftReference, NumericReference, Sketch};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

fn end() -> DateTime<Utc> {
    "2013-06-15T05:00:00Z".parse().unwrap()
}

/// Standard normal by Box and Muller.
fn normal(random: &mut SmallRng) -> f32 {
    let (u, v): (f32, f32) = (random.random::<f32>().max(1e-9), random.random());
    (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
}

/// Deciles of the standard normal.
const DECILES: [f32; 9] = [-1.2816, -0.8416, -0.5244, -0.2533, 0.0, 0.2533, 0.5244, 0.8416, 1.2816];

/// Three numbers (one important, one seasonal and unimportant, one of the calendar), a category, the score.
fn reference() -> DriftReference {
    let rows = 50_000;
    let numeric = |input: NumericInput, importance| {
        let mut counts = vec![rows / 10; 10];
        counts.push(0);
        NumericReference { input: input.name().into(), edges: DECILES.to_vec(), counts, importance }
    };
    DriftReference {
        rows,
        numerics: vec![
            numeric(NumericInput::AllOverdue, 0.40),
            numeric(NumericInput::Temperature, 0.02),
            numeric(NumericInput::HolidayDistance, 0.08),
            numeric(NumericInput::OriginLate3h, 0.30),
        ],
        categories: vec![CategoryReference {
            input: CategoryInput::Carrier,
            values: vec!["B6".into(), "UA".into(), "EV".into()],
            counts: vec![rows * 4 / 10, rows * 3 / 10, rows * 2 / 10, rows / 10],
            importance: 0.20,
        }],
        score_counts: (0..20).map(|bin| if bin < 10 { rows / 20 + 500 } else { rows / 20 - 500 }).collect(),
    }
}

/// A day whose rows come from the reference, except that number `shifted` is
/// moved by so many standard deviations.
fn day(reference: &DriftReference, rows: u64, shifted: &[(usize, f32)], random: &mut SmallRng) -> Sketch {
    let mut sketch = reference.empty_sketch();
    sketch.rows = rows;
    for _ in 0..rows {
        for (index, counts) in sketch.numerics.iter_mut().enumerate() {
            let shift: f32 = shifted.iter().filter(|(which, _)| *which == index).map(|(_, shift)| shift).sum();
            let value = normal(random) + shift;
            counts[DECILES.partition_point(|edge| *edge <= value)] += 1;
        }
        let carrier = random.random_range(0..10);
        sketch.categories[0][[0, 0, 0, 0, 1, 1, 1, 2, 2, 3][carrier]] += 1;
        let half = usize::from(random.random_range(0.0..1.0) >= 0.6) * 10;
        sketch.scores[half + random.random_range(0..10)] += 1;
    }
    sketch
}

fn window(rows_per_day: u64, shifted: &[(usize, f32)], random: &mut SmallRng) -> DriftWindow {
    let reference = reference();
    let days = (0..14).map(|_| day(&reference, rows_per_day, shifted, random)).collect();
    DriftWindow::from_days(end(), days).unwrap().unwrap()
}

/// A policy that alarms on the first window, to see the check without its patience.
fn impatient() -> DriftPolicy {
    DriftPolicy { persistent_windows: 1, of_last_windows: 1, ..DriftPolicy::default() }
}

#[test]
fn under_one_percent_of_windows_drawn_from_the_reference_itself_alarm() {
    let (reference, mut random) = (reference(), SmallRng::seed_from_u64(11));
    let mut alarms = 0;
    for _ in 0..1_000 {
        let window = window(75, &[], &mut random);
        let report = evaluate(&reference, &window, &[], &impatient()).unwrap();
        assert_ne!(report.status, DriftStatus::TooFewRows);
        alarms += u32::from(report.is_drifted());
    }
    assert!(alarms < 10, "{alarms} of 1000");
}

#[test]
fn a_mean_shifted_by_half_a_standard_deviation_in_an_important_input_is_found() {
    let mut random = SmallRng::seed_from_u64(12);
    let report = evaluate(&reference(), &window(300, &[(0, 0.5)], &mut random), &[], &impatient()).unwrap();
    assert!(report.is_drifted(), "{}", report.reason);
    assert_eq!(report.alarms, ["all_overdue_count"]);
    assert_eq!(report.features[0].input, "all_overdue_count");
    assert!(report.reason.contains("all_overdue_count"), "{}", report.reason);
}

#[test]
fn a_season_in_an_unimportant_input_does_not_alarm_alone() {
    let mut random = SmallRng::seed_from_u64(13);
    let report = evaluate(&reference(), &window(300, &[(1, 2.5)], &mut random), &[], &impatient()).unwrap();
    assert_eq!(report.status, DriftStatus::Stable, "{}", report.reason);
    assert!(report.exceeded.contains("temperature_c"), "it is seen all the same");
    assert!(report.dataset_psi < 0.05);
}

#[test]
fn inputs_of_the_calendar_never_alarm() {
    let mut random = SmallRng::seed_from_u64(14);
    let report = evaluate(&reference(), &window(300, &[(2, 2.5)], &mut random), &[], &impatient()).unwrap();
    assert_eq!(report.status, DriftStatus::Stable, "{}", report.reason);
}

#[test]
fn small_shifts_everywhere_show_in_the_whole() {
    let mut random = SmallRng::seed_from_u64(15);
    let policy = DriftPolicy { feature_psi: 0.3, dataset_psi: 0.1, ..impatient() };
    let report = evaluate(&reference(), &window(300, &[(0, 0.48), (3, 0.48)], &mut random), &[], &policy).unwrap();
    assert_eq!(report.alarms, ["dataset"], "{}", report.reason);
}

#[test]
fn drift_alarms_only_when_it_lasts() {
    let (reference, mut random) = (reference(), SmallRng::seed_from_u64(16));
    let policy = DriftPolicy::default();
    let mut history: Vec<WindowSummary> = Vec::new();
    let mut statuses = Vec::new();
    for n in 0..4 {
        let mut window = window(100, &[(0, 0.8)], &mut random);
        window.ended_at = end() + Duration::days(n);
        let report = evaluate(&reference, &window, &history, &policy).unwrap();
        statuses.push(report.status);
        history.push(report.summary());
    }
    use DriftStatus::{Drifted, Suspected};
    assert_eq!(statuses, [Suspected, Suspected, Drifted, Drifted]);
    let other_model: Vec<WindowSummary> =
        history.iter().map(|past| WindowSummary { layout: "other".into(), ..past.clone() }).collect();
    let mut later = window(100, &[(0, 0.8)], &mut random);
    later.ended_at = end() + Duration::days(9);
    let report = evaluate(&reference, &later, &other_model, &policy).unwrap();
    assert_eq!(report.status, Suspected, "windows of another model are no history of this one");
}

#[test]
fn days_that_stand_and_fall_as_one_are_few_observations_and_do_not_alarm() {
    // Every day has a weather of its own: all its rows are shifted alike, by chance.
    // The reference holds many such days.
    let (mut reference, mut random) = (reference(), SmallRng::seed_from_u64(17));
    let many_days: Vec<Sketch> = (0..1_000)
        .map(|_| {
            let shift = normal(&mut random);
            day(&reference, 50, &[(0, shift)], &mut random)
        })
        .collect();
    reference.numerics[0].counts =
        DriftWindow::from_days(end(), many_days).unwrap().unwrap().sketch.numerics[0].clone();
    let mut alarms = 0;
    for _ in 0..200 {
        let days = (0..14)
            .map(|_| {
                let shift = normal(&mut random);
                day(&reference, 100, &[(0, shift)], &mut random)
            })
            .collect();
        let window = DriftWindow::from_days(end(), days).unwrap().unwrap();
        alarms += u32::from(evaluate(&reference, &window, &[], &impatient()).unwrap().is_drifted());
    }
    assert!(alarms <= 4, "{alarms} of 200 alarms where days differ by chance");
}

#[test]
fn a_shifted_score_alarms_and_is_named() {
    let (reference, mut random) = (reference(), SmallRng::seed_from_u64(18));
    let mut window = window(300, &[], &mut random);
    for sketch in window.days.iter_mut().chain([&mut window.sketch]) {
        // No flight reaches the upper half of scores any more.
        for bin in 0..10 {
            sketch.scores[bin] += std::mem::take(&mut sketch.scores[bin + 10]);
        }
    }
    let report = evaluate(&reference, &window, &[], &impatient()).unwrap();
    assert_eq!(report.alarms, [SCORE]);
}

#[test]
fn too_few_rows_are_not_judged_and_foreign_bins_are_refused() {
    let (reference, mut random) = (reference(), SmallRng::seed_from_u64(19));
    let few = window(10, &[(0, 3.0)], &mut random);
    let report = evaluate(&reference, &few, &[], &impatient()).unwrap();
    assert_eq!(report.status, DriftStatus::TooFewRows);
    assert!(report.reason.contains("140 rows"), "{}", report.reason);
    let mut foreign = few;
    foreign.sketch.layout = "foreign".into();
    assert!(evaluate(&reference, &foreign, &[], &impatient()).is_err());
}

#[test]
fn a_report_survives_json_and_reports_every_bin() {
    let mut random = SmallRng::seed_from_u64(20);
    let report = evaluate(&reference(), &window(100, &[], &mut random), &[], &DriftPolicy::default()).unwrap();
    let stored = serde_json::to_string(&report).unwrap();
    let read: delayd_judge::monitoring::drift::DriftReport = serde_json::from_str(&stored).unwrap();
    // Numbers may differ in their last bit: serde_json reads floats fast, not exactly.
    assert_eq!((read.status, &read.reason, &read.policy), (report.status, &report.reason, &report.policy));
    assert_eq!(read.summary(), report.summary());
    assert!((read.dataset_psi - report.dataset_psi).abs() < 1e-12);
    for feature in report.features.iter().chain([&report.score]) {
        assert_eq!(feature.bins.len(), feature.window_shares.len(), "{}", feature.input);
    }
}

#[test]
fn a_million_flights_and_twenty_inputs_are_counted_and_judged_within_a_second() {
    let (rows, raws) = flights(10_000);
    let scores: Vec<f32> = (0..rows.len()).map(|n| (n % 97) as f32 / 97.0).collect();
    let importance = std::collections::HashMap::from([("temperature_c".to_owned(), 1.0)]);
    let spec = spec(&rows);
    let mut reference = DriftReference::build(&spec, &rows, &raws, &scores, &importance);
    reference.numerics.truncate(16);
    reference.categories.truncate(4);
    let flights: Vec<CountedFlight<'_>> = (0..1_000_000)
        .map(|n| n % rows.len())
        .map(|n| CountedFlight { row: &rows[n], raw: &raws[n], score: scores[n] })
        .collect();
    let started = Instant::now();
    let sketch = count_flights(&reference, &flights).unwrap();
    let report =
        evaluate(&reference, &DriftWindow { ended_at: end(), sketch, days: Vec::new() }, &[], &DriftPolicy::default())
            .unwrap();
    let took = started.elapsed();
    assert_eq!((report.rows, report.features.len(), report.status), (1_000_000, 20, DriftStatus::Stable));
    // The claim is one second on two free cores; a loaded test machine gets three.
    assert!(took.as_secs_f64() < 3.0, "took {took:?}");
    eprintln!("a million flights counted and judged in {took:?}");
}

fn spec(rows: &[FlightRow]) -> FeatureSpec {
    let airports = std::collections::BTreeMap::new();
    FeatureSpec::fit(rows, &airports, &HolidayCalendar::us_federal(), &FitOptions::default()).unwrap()
}

fn flights(count: usize) -> (Vec<FlightRow>, Vec<RawInputs>) {
    let mut random = SmallRng::seed_from_u64(21);
    let rows: Vec<FlightRow> = (0..count)
        .map(|n| {
            let departure = end() + Duration::minutes(n as i64 * 7 % 20_160);
            let carrier = ["B6", "UA", "EV", "DL"][random.random_range(0..4)];
            let dest = ["LAX", "ORD", "BOS", "MIA", "SFO"][random.random_range(0..5)];
            let mut row = FlightRow::scheduled(carrier, n as u32 % 500, "JFK", dest, departure);
            for input in NumericInput::ALL {
                row.set(*input, normal(&mut random));
            }
            row
        })
        .collect();
    let encoder = Encoder::new(spec(&rows)).unwrap();
    let raws = rows.iter().map(|row| encoder.raw(row)).collect();
    (rows, raws)
}

// ----------------------------------------------------------------
// The performance verdict on outcomes whose truth is known.

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
    evaluate_performance(inputs, &PerformancePolicy::default(), at)
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
fn until_outcomes_are_known_the_estimate_stands_in() {
    let baseline = baseline();
    let pending: Vec<f32> = outcomes(2, 500, 0.0, 3).iter().map(|outcome| outcome.score).collect();
    let inputs = PerformanceInputs {
        outcomes: &[],
        pending_scores: &pending,
        threshold: 0.4,
        baseline: &baseline,
        history: &[],
    };
    let report = evaluate_performance(inputs, &PerformancePolicy::default(), start());
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
