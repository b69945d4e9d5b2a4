//! `delayd monitoring`: how the live model and its service do, at the monitor's newest look.

use serde::Serialize;
use serde_json::Value;

use super::super::commands::CliError;
use super::super::source::Source;
use super::{Shown, at, entries, number_of, page, state, table, text_of};
use delayd_ledger::{DriftRecord, MetricsWindow};

/// What the answer holds for programs.
#[derive(Serialize)]
struct Monitored {
    /// The newest look; null before the first one.
    look: Option<MetricsWindow>,
    /// The newest drift report; null before the first one.
    drift: Option<DriftRecord>,
}

pub(in crate::cli) async fn monitoring(source: &Source) -> Result<Shown, CliError> {
    let look = source.newest_look().await?;
    let drift = source.drift_reports(page(1)).await?.into_iter().next();
    let text = match &look {
        Some(look) => text(look, drift.as_ref()),
        None => "the monitor has not looked at a live model yet".to_owned(),
    };
    Shown::new(&Monitored { look, drift }, text)
}

fn text(look: &MetricsWindow, drift: Option<&DriftRecord>) -> String {
    let (performance, service) = (part(&look.body, "/performance"), part(&look.body, "/service"));
    let mut parts = vec![format!("{}, looked at {} UTC", look.model, at(look.at)), promises(performance)];
    parts.push(latency(service));
    let mut lines = table(&["", "verdict", "why"]);
    let mut line = |name: &str, verdict: &str, why: &str| {
        lines.add_row([name.into(), state(verdict), why.into()]);
    };
    let judged = |wrong: bool, verdict: &'static str| if wrong { verdict } else { "passed" };
    line("performance", text_of(performance, "/status"), text_of(performance, "/reason"));
    line("errors", judged(is(service, "/errors/spike"), "failed"), text_of(service, "/errors/reason"));
    let slow = is(service, "/latency/too_slow") || entries(service, "/latency/slow_replicas").next().is_some();
    line("latency", judged(slow, "failed"), text_of(service, "/latency/reason"));
    match entries(service, "/traffic").last() {
        Some(hour) => line("traffic", judged(is(hour, "/anomalous"), "warning"), text_of(hour, "/reason")),
        None => line("traffic", "-", "no hour ended since the look before"),
    }
    match service.get("skew").filter(|skew| !skew.is_null()) {
        Some(skew) => line("skew", judged(is(skew, "/skewed"), "warning"), text_of(skew, "/reason")),
        None => line("skew", "-", "no whole day of traffic yet"),
    }
    match part(&look.body, "/train_serve/report/reason").as_str() {
        Some(reason) => line("train/serve", judged(is(&look.body, "/train_serve/report/skewed"), "critical"), reason),
        None => line("train/serve", "-", "no replica was asked golden rows yet"),
    }
    match drift.filter(|drift| drift.model == look.model) {
        Some(drift) => line("drift", text_of(&drift.report, "/status"), text_of(&drift.report, "/reason")),
        None => line("drift", "-", "no report on this model yet"),
    }
    let silent: Vec<&str> = entries(&look.body, "/replicas/silent").filter_map(Value::as_str).collect();
    let answered = number_of(&look.body, "/replicas/answered", 0);
    let lost = number_of(&look.body, "/replicas/predictions_lost", 0);
    let why = format!("{answered} answered, {lost} predictions lost; {} silent {}", silent.len(), silent.join("; "));
    line("replicas", judged(!silent.is_empty() || !matches!(lost.as_str(), "0" | "-"), "warning"), why.trim_end());
    parts.push(lines.to_string());
    parts.join("\n")
}

/// Realised metrics against what validation promised.
fn promises(performance: &Value) -> String {
    let mut rows = table(&["metric", "promised", "realised", "low", "high", "loss", "tolerated", "judgement"]);
    let mut any = false;
    for change in entries(performance, "/changes") {
        any = true;
        let judgement = match change.get("tolerated").filter(|tolerated| !tolerated.is_null()) {
            None => "not judged",
            Some(_) if is(change, "/worse") => "worse",
            Some(_) => "holds",
        };
        rows.add_row([
            text_of(change, "/metric").to_owned(),
            number_of(change, "/baseline", 4),
            number_of(change, "/realised", 4),
            number_of(change, "/interval/low", 4),
            number_of(change, "/interval/high", 4),
            number_of(change, "/loss", 4),
            number_of(change, "/tolerated", 4),
            judgement.to_owned(),
        ]);
    }
    if any { rows.to_string() } else { "no realised performance yet".to_owned() }
}

/// Latency over all, and replica by replica.
fn latency(service: &Value) -> String {
    let mut rows = table(&["latency", "requests", "p50 ms", "p95 ms", "p99 ms"]);
    let mut row = |name: &str, own: &Value| {
        let quantile = |pointer: &str| number_of(own, pointer, 2);
        let requests = own.get("requests").and_then(Value::as_u64).unwrap_or_default().to_string();
        rows.add_row([name.to_owned(), requests, quantile("/p50/ms"), quantile("/p95/ms"), quantile("/p99/ms")]);
    };
    row("all replicas", part(service, "/latency/overall"));
    for replica in entries(service, "/latency/replicas") {
        row(text_of(replica, "/0"), part(replica, "/1"));
    }
    rows.to_string()
}

fn part<'a>(document: &'a Value, pointer: &str) -> &'a Value {
    document.pointer(pointer).unwrap_or(&Value::Null)
}

fn is(document: &Value, pointer: &str) -> bool {
    part(document, pointer).as_bool().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use delayd_core::ids::ModelVersion;

    fn look(body: Value) -> MetricsWindow {
        MetricsWindow { at: "2013-03-01T06:00:00Z".parse().unwrap(), model: ModelVersion(2), body }
    }

    #[test]
    fn a_look_tells_promises_latency_by_replica_and_every_verdict() {
        let quantiles = |requests: u64, ms: f64| json!({ "requests": requests, "p50": { "ms": ms }, "p95": { "ms": 2.0 * ms }, "p99": { "ms": 3.0 * ms } });
        let body = json!({
            "performance": { "status": "degraded", "reason": "over 14 days auc is 0.6", "changes": [
                { "metric": "auc", "baseline": 0.72, "realised": 0.6, "tolerated": 0.02, "loss": 0.12, "worse": true },
                { "metric": "recall", "baseline": 0.584, "realised": 0.362, "tolerated": null, "worse": false },
            ]},
            "service": {
                "errors": { "spike": false, "reason": "no requests" },
                "latency": { "overall": quantiles(30, 1.5), "replicas": [["a-1", quantiles(10, 1.25)], ["b-2", null]],
                             "slow_replicas": [], "too_slow": false, "reason": "fine" },
                "traffic": [{ "anomalous": true, "reason": "3 requests where 90 are usual" }],
                "skew": null,
            },
            "replicas": { "answered": 1, "silent": ["replica b-2 at http://x: refused"], "predictions_lost": 4 },
        });
        let text = text(&look(body), None);
        let row = |name: &str| text.lines().find(|line| line.trim_start().starts_with(name)).unwrap_or_default();
        assert!(text.starts_with("model_v2, looked at 2013-03-01 06:00 UTC"), "{text}");
        for (name, parts) in [
            ("auc", &["0.7200", "0.6000", "worse"][..]),
            ("recall", &["0.5840", "0.3620", "not judged"]),
            ("all replicas", &["30", "1.50", "3.00", "4.50"]),
            ("a-1", &["10", "1.25"]),
            ("b-2", &["0", "-"]),
            ("performance", &["degraded"]),
            ("errors", &["passed", "no requests"]),
            ("traffic", &["warning", "3 requests"]),
            ("skew", &["-", "no whole day"]),
            ("drift", &["-", "no report"]),
            ("replicas", &["warning", "1 answered, 4 predictions lost"]),
        ] {
            assert!(parts.iter().all(|part| row(name).contains(part)), "{name}: {text}");
        }
    }

    #[test]
    fn a_look_of_an_earlier_version_is_shown_as_far_as_it_goes() {
        let text = text(&look(json!({ "performance": null, "service": null })), None);
        assert!(text.contains("no realised performance yet") && text.contains("all replicas"), "{text}");
    }
}
