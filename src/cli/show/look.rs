//! `delayd monitoring`: how the live model and its service do, at the monitor's newest look.

use serde::Serialize;

use super::super::commands::CliError;
use super::super::source::Source;
use super::{Shown, UNREADABLE, at, number, page, read, state, table};
use crate::stages::watch::WindowSeen;
use crate::status::verdicts;
use delayd_judge::monitoring::drift::DriftReport;
use delayd_judge::monitoring::performance::PerformanceReport;
use delayd_judge::monitoring::service::ServiceReport;
use delayd_judge::monitoring::service::{LatencyQuantile, LatencySummary};
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
    let Some(seen) = read::<WindowSeen>(&look.body) else {
        return format!("{}, looked at {} UTC: {UNREADABLE}", look.model, at(look.at));
    };
    let (performance, service) = (seen.performance.as_ref(), seen.service.as_ref());
    let mut parts = vec![format!("{}, looked at {} UTC", look.model, at(look.at)), promises(performance)];
    parts.push(latency(service));
    let drift = drift.filter(|drift| drift.model == look.model).and_then(|drift| read::<DriftReport>(&drift.report));
    let mut lines = table(&["check", "verdict", "why"]);
    for verdict in verdicts(&seen, drift.as_ref()) {
        lines.add_row([verdict.check.into(), state(verdict.word), verdict.why.into()]);
    }
    parts.push(lines.to_string());
    parts.join("\n")
}

/// Realised metrics against what validation promised.
fn promises(performance: Option<&PerformanceReport>) -> String {
    let Some(report) = performance.filter(|report| !report.changes.is_empty()) else {
        return "no realised performance yet".to_owned();
    };
    let mut rows = table(&["metric", "promised", "realised", "low", "high", "loss", "tolerated", "judgement"]);
    for change in &report.changes {
        let judgement = match change.tolerated {
            None => "not judged",
            Some(_) if change.worse => "worse",
            Some(_) => "holds",
        };
        rows.add_row([
            change.metric.clone(),
            number(change.baseline, 4),
            number(change.realised, 4),
            number(change.interval.map(|interval| interval.low), 4),
            number(change.interval.map(|interval| interval.high), 4),
            number(change.loss, 4),
            number(change.tolerated, 4),
            judgement.to_owned(),
        ]);
    }
    rows.to_string()
}

/// Latency over all, and replica by replica.
fn latency(service: Option<&ServiceReport>) -> String {
    let mut rows = table(&["latency", "requests", "p50 ms", "p95 ms", "p99 ms"]);
    let mut row = |name: &str, own: Option<LatencySummary>| {
        let quantile = |of: fn(&LatencySummary) -> LatencyQuantile| number(own.as_ref().map(|own| of(own).ms), 2);
        let requests = own.map_or(0, |own| own.requests).to_string();
        rows.add_row([
            name.to_owned(),
            requests,
            quantile(|own| own.p50),
            quantile(|own| own.p95),
            quantile(|own| own.p99),
        ]);
    };
    row("all replicas", service.and_then(|service| service.latency.overall));
    for (replica, own) in service.iter().flat_map(|service| &service.latency.replicas) {
        row(replica, *own);
    }
    rows.to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use delayd_core::ids::ModelVersion;
    use delayd_judge::monitoring::performance::PerformancePolicy;
    use delayd_judge::monitoring::realised::Realised;

    fn look(body: serde_json::Value) -> MetricsWindow {
        MetricsWindow { at: "2013-03-01T06:00:00Z".parse().unwrap(), model: ModelVersion(2), body: body.into() }
    }

    #[test]
    fn a_look_tells_promises_latency_by_replica_and_every_verdict() {
        let time = "2013-03-01T06:00:00Z";
        let ms = |ms: f64| json!({ "ms": ms, "at_least": false });
        let quantiles = |requests: u64, p50: f64| json!({ "requests": requests, "p50": ms(p50), "p95": ms(2.0 * p50), "p99": ms(3.0 * p50) });
        let change = |metric: &str, baseline: f64, realised: f64, tolerated: Option<f64>, worse: bool| {
            json!({ "metric": metric, "baseline": baseline, "realised": realised, "interval": null, "loss": 0.1,
                    "tolerated": tolerated, "worse": worse, "windows_worse": 1 })
        };
        let counts = json!({ "ok": 0, "client_errors": 0, "server_errors": 0 });
        let body = json!({
            "performance": {
                "at": time, "realised": null, "estimated": Realised::default(), "degraded": ["auc"],
                "status": "degraded", "reason": "over 14 days auc is 0.6", "policy": PerformancePolicy::default(),
                "baseline": { "auc": 0.72, "log_loss": 0.5, "delayed_share": 0.2, "calibration_error": 0.01, "recall": 0.584 },
                "changes": [change("auc", 0.72, 0.6, Some(0.02), true), change("recall", 0.584, 0.362, None, false)],
            },
            "service": {
                "errors": { "current": counts, "baseline": counts, "share": 0.0,
                            "interval": { "low": 0.0, "high": 0.0 }, "baseline_share": 0.0, "p_value": 1.0,
                            "spike": false, "reason": "no requests" },
                "latency": { "overall": quantiles(30, 1.5), "replicas": [["a-1", quantiles(10, 1.25)], ["b-2", null]],
                             "slow_replicas": [], "too_slow": false, "reason": "fine" },
                "traffic": [{ "hour": time, "requests": 3, "expected": 90.0, "deviations": -9.0, "kind": "drop",
                              "hours_in_a_row": 2, "anomalous": true, "reason": "3 requests where 90 are usual" }],
                "skew": null,
            },
            "replicas": { "answered": 1, "silent": ["replica b-2 at http://x: refused"], "predictions_lost": 4,
                          "predictions_lost_total": 4 },
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
            ("traffic", &["failed", "3 requests"]),
            ("skew", &["-", "no whole day"]),
            ("drift", &["-", "no report"]),
            ("replicas", &["failed", "1 answered, 4 predictions were lost"]),
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
