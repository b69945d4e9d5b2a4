//! The gate, as a table of challengers and what must become of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "helpers are shared by inclusion")]

use delayd_judge::evaluation::{GatePolicy, GateRows, GateVerdict, Scored, compare};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

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
fn a_challenger_that_ranks_and_calibrates_better_goes_on() {
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
