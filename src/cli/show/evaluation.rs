//! What a model measured, as tables: with its intervals, beside its baselines, under
//! perturbations, by slice; and what the gate found.

use super::list::{drawn, state, table};
use super::words::words;
use super::{number, word_of};
use delayd_judge::evaluation::gate::{GateCheck, GateInputs};
use delayd_judge::evaluation::report::MetricIntervals;
use delayd_judge::evaluation::report::SliceMetrics;
use delayd_judge::evaluation::robustness::Perturbation;
use delayd_judge::evaluation::{BundleMetrics, EvaluationReport, Metrics};
use delayd_judge::stats::Estimate;

/// Slices shown; the weakest are where a look is worth it.
const SLICES: usize = 8;

/// A metric: its name, its decimals, and where it stands.
type Metric = (&'static str, usize, fn(&Metrics) -> Option<f64>);

const METRICS: [Metric; 10] = [
    ("ROC-AUC", 4, |found| found.roc_auc),
    ("PR-AUC", 4, |found| found.pr_auc),
    ("log-loss", 4, |found| found.log_loss),
    ("Brier score", 4, |found| found.brier),
    ("calibration error", 4, |found| found.expected_calibration_error),
    ("accuracy", 3, |found| Some(found.accuracy)),
    ("recall", 3, |found| Some(found.recall)),
    ("precision", 3, |found| Some(found.precision)),
    ("F1", 3, |found| Some(found.f1)),
    ("threshold", 3, |found| Some(found.threshold.into())),
];

/// Everything that a model's metrics hold of its evaluation on held-out rows.
pub(super) fn evaluation(metrics: &BundleMetrics) -> String {
    let Some(found) = &metrics.evaluation else {
        return match &metrics.validation {
            Some(tail) => format!("on its validation tail (no held-out row had an outcome)\n{}", metrics_alone(tail)),
            None => "it was registered without metrics".to_owned(),
        };
    };
    let mut text = format!(
        "on held-out rows: {} flights, {} delayed, {} to {}\n",
        found.model.rows,
        found.model.positives,
        found.from.date_naive(),
        found.until.date_naive(),
    );
    let mut rows = table(&["metric", "model", "95 % interval", "lookup table", "always the base rate"]);
    for (name, decimals, of) in METRICS {
        rows.add_row([
            name.to_owned(),
            number(of(&found.model), decimals),
            interval(interval_of(&found.intervals, name), decimals),
            number(of(&found.lookup), decimals),
            number(of(&found.majority), decimals),
        ]);
    }
    text.push_str(&drawn(rows));
    text.push_str(&robustness(found));
    text.push_str(&slices(found));
    text
}

fn metrics_alone(metrics: &Metrics) -> String {
    let mut rows = table(&["metric", "model"]);
    for (name, decimals, of) in METRICS {
        rows.add_row([name.to_owned(), number(of(metrics), decimals)]);
    }
    drawn(rows)
}

fn interval_of(intervals: &MetricIntervals, name: &str) -> Option<Estimate> {
    match name {
        "ROC-AUC" => intervals.roc_auc,
        "PR-AUC" => intervals.pr_auc,
        "log-loss" => intervals.log_loss,
        "accuracy" => intervals.accuracy,
        "recall" => intervals.recall,
        "precision" => intervals.precision,
        _ => None,
    }
}

fn interval(found: Option<Estimate>, decimals: usize) -> String {
    let text = |found: Estimate| format!("{:.decimals$} to {:.decimals$}", found.low, found.high);
    found.map_or_else(|| "-".to_owned(), text)
}

fn perturbation(found: Perturbation) -> String {
    match found {
        Perturbation::None => "as they were".to_owned(),
        Perturbation::Noise(size) => format!("noise by {size} standard deviations"),
        Perturbation::Shifted(size) => format!("shifted by {size} standard deviations"),
        named => words(&word_of(&named)),
    }
}

fn robustness(found: &EvaluationReport) -> String {
    let mut rows = table(&["inputs", "ROC-AUC", "change", "log-loss"]);
    for one in &found.robustness {
        rows.add_row([
            perturbation(one.perturbation),
            number(one.roc_auc, 4),
            one.roc_auc_change.map_or_else(|| "-".to_owned(), |change| format!("{change:+.4}")),
            number(one.log_loss, 4),
        ]);
    }
    if rows.is_empty() { String::new() } else { format!("\n\nwith something wrong about its inputs\n{}", drawn(rows)) }
}

fn slices(found: &EvaluationReport) -> String {
    let mut all: Vec<(&SliceMetrics, Estimate)> =
        found.slices.iter().filter_map(|slice| Some((slice, slice.roc_auc?))).collect();
    if all.is_empty() {
        return String::new();
    }
    all.sort_by(|a, b| a.1.value.total_cmp(&b.1.value));
    let mut rows = table(&["slice", "flights", "delayed", "ROC-AUC", "95 % interval"]);
    for (slice, auc) in all.iter().take(SLICES) {
        rows.add_row([
            format!("{} {}", word_of(&slice.by), slice.value),
            slice.rows.to_string(),
            slice.positives.to_string(),
            format!("{:.4}", auc.value),
            interval(Some(*auc), 4),
        ]);
    }
    let rest = all.len().saturating_sub(SLICES);
    let more = if rest > 0 { format!("; {rest} more with --json") } else { String::new() };
    format!("\n\nby slice, the weakest first{more}\n{}", drawn(rows))
}

/// The serving code's latency as the gate measured it; nothing where it was not kept.
pub(super) fn latency(gate: &GateInputs) -> Option<String> {
    let mut rows = table(&["model", "flights per call", "calls", "p50 µs", "p95 µs", "p99 µs", "µs per flight"]);
    let live = gate.live.map_or_else(|| "live model".to_owned(), |live| live.to_string());
    for (name, measured) in [("challenger", &gate.latency.challenger), (live.as_str(), &gate.latency.live)] {
        for batch in measured.iter().flat_map(|measured| &measured.batches) {
            rows.add_row([
                name.to_owned(),
                batch.batch.to_string(),
                batch.per_batch.calls.to_string(),
                number(batch.per_batch.p50_us, 1),
                number(batch.per_batch.p95_us, 1),
                number(batch.per_batch.p99_us, 1),
                number(batch.p50_us_per_row, 2),
            ]);
        }
    }
    (!rows.is_empty())
        .then(|| format!("latency of the serving code, measured by the gate on its machine\n{}", drawn(rows)))
}

/// The gate's checks: paired, on the same rows.
pub(super) fn checks(tests: Vec<GateCheck>) -> String {
    let mut rows = table(&["test", "passed", "why"]);
    for test in tests {
        rows.add_row([words(&test.check).into(), state(if test.passed { "yes" } else { "no" }), test.reason.into()]);
    }
    drawn(rows)
}

/// Inputs of one model against the other's, a line for each; nothing without a live model.
pub(super) fn feature_difference(gate: &GateInputs) -> Option<String> {
    const SHOWN: usize = 8;
    let difference = gate.feature_difference.as_ref()?;
    let mut lines: Vec<String> = Vec::new();
    let some = |names: &[String]| {
        let rest = names.len().saturating_sub(SHOWN);
        let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        format!("{}{more}", names[..names.len().min(SHOWN)].join(", "))
    };
    for (inputs, what) in [(&difference.added_values, "new"), (&difference.removed_values, "gone")] {
        for (input, values) in inputs {
            lines.push(format!("{input}: {} {what}: {}", values.len(), some(values)));
        }
    }
    for (names, what) in
        [(&difference.added_numerics, "new inputs"), (&difference.removed_numerics, "inputs that are gone")]
    {
        if !names.is_empty() {
            lines.push(format!("{} {what}: {}", names.len(), some(names)));
        }
    }
    let mut shifts: Vec<(&String, f32)> = difference.mean_shift.iter().map(|(name, shift)| (name, *shift)).collect();
    shifts.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
    if !shifts.is_empty() {
        let named: Vec<String> = shifts.iter().map(|(name, shift)| format!("{name} {shift:+.2}")).collect();
        lines.push(format!("{} means moved by over 0.1 standard deviations: {}", shifts.len(), some(&named)));
    }
    if lines.is_empty() {
        lines.push("none: the same values and inputs, and no mean moved by over 0.1 standard deviations".to_owned());
    }
    Some(format!("what the challenger's inputs differ in from the live model's\n  {}", lines.join("\n  ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use delayd_judge::evaluation::GatePolicy;
    use delayd_judge::evaluation::metrics::Confusion;

    fn metrics(auc: f64) -> serde_json::Value {
        let confusion = Confusion::at(&[0.7, 0.2], &[true, false], 0.5, None);
        json!({ "rows": 3133, "positives": 817, "roc_auc": auc, "pr_auc": null, "log_loss": 0.5, "brier": 0.2,
                "expected_calibration_error": 0.01, "threshold": 0.5, "confusion": confusion, "accuracy": 0.8,
                "precision": 0.6, "recall": 0.5, "f1": 0.55 })
    }

    #[test]
    fn a_model_stands_beside_its_baselines_with_intervals_perturbations_and_slices() {
        let slice = |value: &str, auc: f64| {
            json!({ "by": "carrier", "value": value, "rows": 120, "positives": 30, "mean_score": 0.3,
                    "roc_auc": { "value": auc, "low": auc - 0.1, "high": auc + 0.1 } })
        };
        let interval = json!({ "low": 0.7029, "high": 0.78674, "value": 0.74679 });
        let found: BundleMetrics = serde_json::from_value(json!({ "schema": 1, "evaluation": {
            "from": "2013-02-01T00:00:00Z", "until": "2013-02-28T00:00:00Z",
            "model": metrics(0.74679),
            "intervals": { "accuracy": null, "recall": null, "precision": null, "roc_auc_delong": null,
                           "roc_auc": interval, "pr_auc": null, "log_loss": null },
            "lookup": metrics(0.63951), "majority": metrics(0.5),
            "robustness": [
                { "perturbation": "none", "roc_auc": 0.74679, "log_loss": 0.5, "roc_auc_change": 0.0 },
                { "perturbation": { "noise": 0.3 }, "roc_auc": 0.73, "log_loss": null, "roc_auc_change": -0.01679 },
            ],
            "slices": [slice("UA", 0.8), slice("9E", 0.6)], "latency": null,
        }}))
        .unwrap();
        let text = evaluation(&found);
        for told in ["3133 flights, 817 delayed", "0.7029 to 0.7867", "0.6395", "0.5000", "noise by 0.3", "-0.0168"] {
            assert!(text.contains(told), "{told} is missing in\n{text}");
        }
        assert!(text.find("carrier 9E") < text.find("carrier UA"), "the weakest comes first:\n{text}");
        assert!(!text.contains('{'), "no raw JSON:\n{text}");
    }

    #[test]
    fn the_gate_tells_both_models_latencies_and_what_their_inputs_differ_in() {
        let timed = |p95: f64| {
            let times = json!({ "calls": 1000, "p50_us": 2.0, "p95_us": p95, "p99_us": 9.0 });
            json!({ "per_row": times, "batches": [{ "batch": 1, "per_batch": times, "p50_us_per_row": 2.0 }] })
        };
        let digest = delayd_core::ids::Digest::of(b"rows");
        let bare = json!({
            "challenger": { "bundle": digest, "latency_p95_us": null }, "live": null, "feature_difference": null,
            "dataset": digest, "rows": { "recent": 1, "all": 2 }, "policy": GatePolicy::default(),
        });
        let mut seen = bare.clone();
        seen["live"] = json!("model_v1");
        seen["latency"] = json!({ "challenger": timed(3.5), "live": timed(4.5) });
        seen["feature_difference"] = json!({
            "added_values": { "dest": ["BDL", "BUR"] }, "removed_values": {}, "added_numerics": [],
            "removed_numerics": ["visibility_km"], "mean_shift": { "dew_point_c": -0.38, "humidity_pct": 0.2 },
        });
        let gate: GateInputs = serde_json::from_value(seen).unwrap();
        let text = latency(&gate).unwrap();
        assert!(text.contains("3.5") && text.contains("4.5") && text.contains("model_v1"), "{text}");
        let text = feature_difference(&gate).unwrap();
        for told in
            ["dest: 2 new: BDL, BUR", "1 inputs that are gone: visibility_km", "dew_point_c -0.38, humidity_pct +0.20"]
        {
            assert!(text.contains(told), "{told} is missing in\n{text}");
        }
        // One of an earlier delayd: no latency was kept.
        let bare: GateInputs = serde_json::from_value(bare).unwrap();
        assert_eq!((latency(&bare), feature_difference(&bare)), (None, None));
    }
}
