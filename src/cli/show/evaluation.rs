//! What a model measured, as tables: with its intervals, beside its baselines, under
//! perturbations, by slice; and what the gate found.

use serde_json::Value;

use super::list::{drawn, state, table};
use super::words::words;
use super::{entries, number_of, text_of};

/// Slices shown; the weakest are where a look is worth it.
const SLICES: usize = 8;

/// Name in the document, name for people, decimals.
const METRICS: [(&str, &str, usize); 10] = [
    ("roc_auc", "ROC-AUC", 4),
    ("pr_auc", "PR-AUC", 4),
    ("log_loss", "log-loss", 4),
    ("brier", "Brier score", 4),
    ("expected_calibration_error", "calibration error", 4),
    ("accuracy", "accuracy", 3),
    ("recall", "recall", 3),
    ("precision", "precision", 3),
    ("f1", "F1", 3),
    ("threshold", "threshold", 3),
];

/// Everything that a model's metrics hold of its evaluation on held-out rows.
pub(super) fn evaluation(metrics: &Value) -> String {
    let Some(found) = metrics.get("evaluation") else {
        return match metrics.get("validation") {
            Some(tail) => format!("on its validation tail (no held-out row had an outcome)\n{}", metrics_alone(tail)),
            None => "it was registered without metrics".to_owned(),
        };
    };
    let day = |pointer| text_of(found, pointer).get(..10).unwrap_or_default().to_owned();
    let mut text = format!(
        "on held-out rows: {} flights, {} delayed, {} to {}\n",
        number_of(found, "/model/rows", 0),
        number_of(found, "/model/positives", 0),
        day("/from"),
        day("/until"),
    );
    let mut rows = table(&["metric", "model", "95 % interval", "lookup table", "always the base rate"]);
    for (key, name, decimals) in METRICS {
        rows.add_row([
            name.to_owned(),
            number_of(found, &format!("/model/{key}"), decimals),
            interval(found, &format!("/intervals/{key}"), decimals),
            number_of(found, &format!("/lookup/{key}"), decimals),
            number_of(found, &format!("/majority/{key}"), decimals),
        ]);
    }
    text.push_str(&drawn(rows));
    text.push_str(&robustness(found));
    text.push_str(&slices(found));
    text
}

fn metrics_alone(metrics: &Value) -> String {
    let mut rows = table(&["metric", "model"]);
    for (key, name, decimals) in METRICS {
        rows.add_row([name.to_owned(), number_of(metrics, &format!("/{key}"), decimals)]);
    }
    drawn(rows)
}

fn interval(document: &Value, pointer: &str, decimals: usize) -> String {
    let end = |name: &str| document.pointer(&format!("{pointer}/{name}")).and_then(Value::as_f64);
    match (end("low"), end("high")) {
        (Some(low), Some(high)) => format!("{low:.decimals$} to {high:.decimals$}"),
        _ => "-".to_owned(),
    }
}

/// `missing_weather`, or `{"noise": 0.3}` as `noise of 0.3 standard deviations`.
fn perturbation(value: &Value) -> String {
    match (value.as_str(), value.as_object().and_then(|object| object.iter().next())) {
        (Some("none"), _) => "as they were".to_owned(),
        (Some(name), _) => words(name),
        (None, Some((name, size))) => format!("{} by {size} standard deviations", words(name)),
        _ => "?".to_owned(),
    }
}

fn robustness(found: &Value) -> String {
    let mut rows = table(&["inputs", "ROC-AUC", "change", "log-loss"]);
    for one in entries(found, "/robustness") {
        rows.add_row([
            one.get("perturbation").map_or_else(String::new, perturbation),
            number_of(one, "/roc_auc", 4),
            one.get("roc_auc_change")
                .and_then(Value::as_f64)
                .map_or_else(|| "-".to_owned(), |change| format!("{change:+.4}")),
            number_of(one, "/log_loss", 4),
        ]);
    }
    if rows.is_empty() { String::new() } else { format!("\n\nwith something wrong about its inputs\n{}", drawn(rows)) }
}

fn slices(found: &Value) -> String {
    let mut all: Vec<(&Value, f64)> = entries(found, "/slices")
        .filter_map(|slice| Some((slice, slice.pointer("/roc_auc/value").and_then(Value::as_f64)?)))
        .collect();
    if all.is_empty() {
        return String::new();
    }
    all.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut rows = table(&["slice", "flights", "delayed", "ROC-AUC", "95 % interval"]);
    for (slice, auc) in all.iter().take(SLICES) {
        rows.add_row([
            format!("{} {}", text_of(slice, "/by"), text_of(slice, "/value")),
            number_of(slice, "/rows", 0),
            number_of(slice, "/positives", 0),
            format!("{auc:.4}"),
            interval(slice, "/roc_auc", 4),
        ]);
    }
    let rest = all.len().saturating_sub(SLICES);
    let more = if rest > 0 { format!("; {rest} more with --json") } else { String::new() };
    format!("\n\nby slice, the weakest first{more}\n{}", drawn(rows))
}

/// The serving code's latency as the gate measured it; nothing where it was not kept.
pub(super) fn latency(gate: &Value) -> Option<String> {
    let mut rows = table(&["model", "flights per call", "calls", "p50 µs", "p95 µs", "p99 µs", "µs per flight"]);
    let live = gate.get("live").and_then(Value::as_str).unwrap_or("live model");
    for (name, pointer) in [("challenger", "/latency/challenger"), (live, "/latency/live")] {
        for batch in entries(gate, &format!("{pointer}/batches")) {
            rows.add_row([
                name.to_owned(),
                number_of(batch, "/batch", 0),
                number_of(batch, "/per_batch/calls", 0),
                number_of(batch, "/per_batch/p50_us", 1),
                number_of(batch, "/per_batch/p95_us", 1),
                number_of(batch, "/per_batch/p99_us", 1),
                number_of(batch, "/p50_us_per_row", 2),
            ]);
        }
    }
    (!rows.is_empty())
        .then(|| format!("latency of the serving code, measured by the gate on its machine\n{}", drawn(rows)))
}

/// The gate's checks: paired, on the same rows.
pub(super) fn checks(tests: &Value) -> String {
    let mut rows = table(&["test", "passed", "why"]);
    for test in tests.as_array().into_iter().flatten() {
        let passed = test.get("passed").and_then(Value::as_bool).unwrap_or(false);
        rows.add_row([
            words(text_of(test, "/check")).into(),
            state(if passed { "yes" } else { "no" }),
            text_of(test, "/reason").into(),
        ]);
    }
    drawn(rows)
}

/// Inputs of one model against the other's, a line for each; nothing without a live model.
pub(super) fn feature_difference(gate: &Value) -> Option<String> {
    const SHOWN: usize = 8;
    let difference = gate.get("feature_difference").filter(|difference| difference.is_object())?;
    let mut lines: Vec<String> = Vec::new();
    let some = |names: &[String]| {
        let rest = names.len().saturating_sub(SHOWN);
        let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        format!("{}{more}", names[..names.len().min(SHOWN)].join(", "))
    };
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    for (key, what) in [("added_values", "new"), ("removed_values", "gone")] {
        for (input, values) in difference.get(key).and_then(Value::as_object).into_iter().flatten() {
            let values = texts(values);
            lines.push(format!("{input}: {} {what}: {}", values.len(), some(&values)));
        }
    }
    for (key, what) in [("added_numerics", "new inputs"), ("removed_numerics", "inputs that are gone")] {
        let names = difference.get(key).map(texts).unwrap_or_default();
        if !names.is_empty() {
            lines.push(format!("{} {what}: {}", names.len(), some(&names)));
        }
    }
    let shifts = difference.get("mean_shift").and_then(Value::as_object).into_iter().flatten();
    let mut shifts: Vec<(&String, f64)> = shifts.filter_map(|(name, shift)| Some((name, shift.as_f64()?))).collect();
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

    #[test]
    fn a_model_stands_beside_its_baselines_with_intervals_perturbations_and_slices() {
        let slice = |value: &str, auc: f64| {
            json!({ "by": "carrier", "value": value, "rows": 120, "positives": 30,
                    "roc_auc": { "value": auc, "low": auc - 0.1, "high": auc + 0.1 } })
        };
        let text = evaluation(&json!({ "evaluation": {
            "from": "2013-02-01T00:00:00Z", "until": "2013-02-28T00:00:00Z",
            "model": { "rows": 3133, "positives": 817, "roc_auc": 0.74679 },
            "intervals": { "roc_auc": { "low": 0.7029, "high": 0.78674, "value": 0.74679 } },
            "lookup": { "roc_auc": 0.63951 }, "majority": { "roc_auc": 0.5 },
            "robustness": [
                { "perturbation": "none", "roc_auc": 0.74679, "roc_auc_change": 0.0 },
                { "perturbation": { "noise": 0.3 }, "roc_auc": 0.73, "roc_auc_change": -0.01679 },
            ],
            "slices": [slice("UA", 0.8), slice("9E", 0.6)],
        }}));
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
        let gate = json!({
            "live": "model_v1", "latency": { "challenger": timed(3.5), "live": timed(4.5) },
            "feature_difference": {
                "added_values": { "dest": ["BDL", "BUR"] }, "removed_values": {}, "added_numerics": [],
                "removed_numerics": ["visibility_km"], "mean_shift": { "dew_point_c": -0.38, "humidity_pct": 0.2 },
            },
        });
        let text = latency(&gate).unwrap();
        assert!(text.contains("3.5") && text.contains("4.5") && text.contains("model_v1"), "{text}");
        let text = feature_difference(&gate).unwrap();
        for told in
            ["dest: 2 new: BDL, BUR", "1 inputs that are gone: visibility_km", "dew_point_c -0.38, humidity_pct +0.20"]
        {
            assert!(text.contains(told), "{told} is missing in\n{text}");
        }
        assert_eq!(latency(&json!({ "live": null })), None);
        assert_eq!(feature_difference(&json!({ "feature_difference": null })), None);
    }
}
