//! Drift, realised performance, and how the service does: the live model's newest reports.

use std::collections::BTreeSet;

use delayd_features::{CategoryInput, NumericInput};
use rusqlite::{Connection, OptionalExtension};
use serde_json::Value;

use super::{at, live_model, number, parsed, text_at};
use crate::http::metrics::catalogue as names;
use crate::http::metrics::page::Page;

const DRIFT_STATES: [&str; 4] = ["too_few_rows", "stable", "suspected", "drifted"];
const PERFORMANCE_STATES: [&str; 4] = ["too_few_outcomes", "holding", "suspected", "degraded"];

pub(super) fn drift(page: &mut Page, connection: &Connection) -> rusqlite::Result<()> {
    for (label, drifted) in [("true", 1), ("false", 0)] {
        let count = number(connection, "SELECT count(*) FROM drift_reports WHERE drifted = ?1", [drifted])?;
        page.put(&names::DRIFT_REPORTS, &[label], count.unwrap_or(0.0));
    }
    // Reports on an earlier model say nothing of the live one: after a retrain there is none at first.
    let Some(live) = live_model(connection)? else { return Ok(()) };
    let newest = "SELECT at, report FROM drift_reports WHERE id = (SELECT max(id) FROM drift_reports) AND model = ?1";
    let row: Option<(f64, String)> =
        connection.prepare_cached(newest)?.query_row([live], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((made_at, report)) = row else { return Ok(()) };
    let report = parsed(&report)?;
    page.put(&names::DRIFT_REPORT_AT, &[], made_at / 1e6);
    if let Some(status) = text_at(&report, "/status") {
        page.put_state(&names::DRIFT_STATUS, &[], &DRIFT_STATES, status);
    }
    page.put_some(&names::DRIFT_ROWS, &[], at(&report, "/rows"));
    page.put_some(&names::DRIFT_DATASET, &[], at(&report, "/dataset_psi"));
    for signal in ["feature", "score", "dataset"] {
        page.put_some(&names::DRIFT_THRESHOLD, &[signal], at(&report, &format!("/policy/{signal}_psi")));
    }
    let known: BTreeSet<&str> = known_inputs();
    let features = report.get("features").and_then(Value::as_array).into_iter().flatten();
    for feature in features.chain(report.get("score")) {
        let Some(name) = text_at(feature, "/input").and_then(|name| known.get(name)) else { continue };
        page.put_some(&names::DRIFT_EFFECT, &[name], at(feature, "/distances/excess_psi"));
        let exceeded = feature.get("exceeded").and_then(Value::as_bool);
        page.put_some(&names::DRIFT_EXCEEDED, &[name], exceeded.map(|is| f64::from(u8::from(is))));
    }
    Ok(())
}

/// The closed list of what a model can look at, and its score.
fn known_inputs() -> BTreeSet<&'static str> {
    let numerics = NumericInput::ALL.iter().map(|input| input.name());
    let categories = CategoryInput::ALL.iter().map(|input| input.name());
    numerics.chain(categories).chain([delayd_judge::monitoring::drift::SCORE]).collect()
}

pub(super) fn windows(page: &mut Page, connection: &Connection) -> rusqlite::Result<()> {
    let Some(live) = live_model(connection)? else { return Ok(()) };
    let newest = "SELECT at, body FROM metrics_windows WHERE at = (SELECT max(at) FROM metrics_windows) AND model = ?1";
    let row: Option<(f64, String)> =
        connection.prepare_cached(newest)?.query_row([live], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((looked_at, body)) = row else { return Ok(()) };
    let body = parsed(&body)?;
    page.put(&names::MONITOR_LOOK, &[], looked_at / 1e6);
    performance(page, body.get("performance").unwrap_or(&Value::Null));
    service(page, body.get("service").unwrap_or(&Value::Null));
    replicas(page, body.get("replicas").unwrap_or(&Value::Null));
    train_serve(page, body.get("train_serve").unwrap_or(&Value::Null));
    Ok(())
}

fn replicas(page: &mut Page, seen: &Value) {
    let silent = seen.get("silent").and_then(Value::as_array).map(Vec::len);
    page.put_some(&names::SILENT_REPLICAS, &[], silent.map(|count| count as f64));
    page.put_some(&names::PREDICTIONS_LOST, &[], at(seen, "/predictions_lost_total"));
}

fn train_serve(page: &mut Page, look: &Value) {
    let Some((rows, different)) = at(look, "/report/rows").zip(at(look, "/report/different")) else { return };
    page.put(&names::TRAIN_SERVE_ROWS, &["same"], rows - different);
    page.put(&names::TRAIN_SERVE_ROWS, &["different"], different);
}

fn performance(page: &mut Page, report: &Value) {
    if let Some(status) = text_at(report, "/status") {
        page.put_state(&names::PERFORMANCE_STATUS, &[], &PERFORMANCE_STATES, status);
    }
    for (metric, field) in [
        (&names::REALISED_OUTCOMES, "/realised/metrics/rows"),
        (&names::REALISED_AUC, "/realised/metrics/auc"),
        (&names::REALISED_LOG_LOSS, "/realised/metrics/log_loss"),
        (&names::REALISED_ECE, "/realised/metrics/calibration_error"),
        (&names::REALISED_RECALL, "/realised/metrics/recall"),
        (&names::BASELINE_AUC, "/baseline/auc"),
        (&names::BASELINE_LOG_LOSS, "/baseline/log_loss"),
        (&names::BASELINE_ECE, "/baseline/calibration_error"),
        (&names::BASELINE_RECALL, "/baseline/recall"),
    ] {
        page.put_some(metric, &[], at(report, field));
    }
    let floor = at(report, "/baseline/auc").zip(at(report, "/policy/auc_drop")).map(|(auc, drop)| auc - drop);
    page.put_some(&names::REALISED_AUC_FLOOR, &[], floor);
}

fn service(page: &mut Page, report: &Value) {
    for (metric, field) in [
        (&names::LATENCY_P50, "/latency/overall/p50/ms"),
        (&names::LATENCY_P95, "/latency/overall/p95/ms"),
        (&names::LATENCY_P99, "/latency/overall/p99/ms"),
    ] {
        page.put_some(metric, &[], at(report, field).map(|ms| ms / 1000.0));
    }
    page.put_some(&names::SERVICE_ERRORS, &[], at(report, "/errors/share"));
    let requests = ["ok", "client_errors", "server_errors"].map(|kind| at(report, &format!("/errors/current/{kind}")));
    page.put_some(&names::SERVICE_REQUESTS, &[], requests.into_iter().sum());
    if let Some(hour) = report.get("traffic").and_then(Value::as_array).and_then(|hours| hours.last()) {
        page.put_some(&names::TRAFFIC, &[], at(hour, "/requests"));
        page.put_some(&names::TRAFFIC_EXPECTED, &[], at(hour, "/expected"));
        page.put_some(&names::TRAFFIC_DEVIATIONS, &[], at(hour, "/deviations"));
    }
    page.put_some(&names::SCORE_SKEW, &[], at(report, "/skew/distances/excess_psi"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_that_were_silent_and_predictions_that_were_lost_are_told() {
        let mut page = Page::default();
        // A look of an earlier version tells neither.
        replicas(&mut page, &Value::Null);
        assert!(page.families().is_empty());
        let mut page = Page::default();
        let seen = serde_json::json!({ "answered": 1, "silent": ["replica b: refused"], "predictions_lost": 2, "predictions_lost_total": 9 });
        replicas(&mut page, &seen);
        let families = page.families();
        let names: Vec<&str> = families.iter().map(prometheus::proto::MetricFamily::name).collect();
        assert_eq!(names, ["delayd_monitoring_predictions_lost_total", "delayd_monitoring_silent_replicas"]);
        assert_eq!(families[0].get_metric()[0].get_counter().get_value(), 9.0);
        assert_eq!(families[1].get_metric()[0].get_gauge().get_value(), 1.0);
    }

    #[test]
    fn golden_rows_are_told_by_how_they_score() {
        let mut page = Page::default();
        train_serve(&mut page, &Value::Null);
        assert!(page.families().is_empty());
        let mut page = Page::default();
        train_serve(&mut page, &serde_json::json!({ "report": { "rows": 32, "different": 2 } }));
        let families = page.families();
        let values: Vec<f64> = families[0].get_metric().iter().map(|sample| sample.get_gauge().get_value()).collect();
        assert_eq!(values, [30.0, 2.0]);
    }

    #[test]
    fn a_window_without_a_service_tells_nothing_of_it() {
        let mut page = Page::default();
        service(&mut page, &Value::Null);
        performance(
            &mut page,
            &serde_json::json!({ "status": "holding", "baseline": { "auc": 0.8 }, "policy": { "auc_drop": 0.05 } }),
        );
        let families = page.families();
        let names: Vec<&str> = families.iter().map(prometheus::proto::MetricFamily::name).collect();
        assert_eq!(names, ["delayd_baseline_roc_auc", "delayd_performance_status", "delayd_realised_roc_auc_floor"]);
        let floor = families[2].get_metric()[0].get_gauge().get_value();
        assert!((floor - 0.75).abs() < 1e-12);
    }
}
