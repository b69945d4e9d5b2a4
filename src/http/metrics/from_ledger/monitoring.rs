//! Drift, realised performance, and how the service does: the live model's newest reports.

use std::collections::BTreeSet;

use delayd_features::{CategoryInput, NumericInput};
use rusqlite::{Connection, OptionalExtension};

use super::{known, live_model, number};
use crate::http::metrics::catalogue as names;
use crate::http::metrics::page::Page;
use crate::stages::watch::{ReplicasSeen, WindowSeen};
use delayd_core::Document;
use delayd_judge::monitoring::drift::{DriftReport, DriftStatus};
use delayd_judge::monitoring::performance::{PerformanceReport, PerformanceStatus};
use delayd_judge::monitoring::service::ServiceReport;
use delayd_judge::monitoring::skew::{TrainServeLook, TrainServeSkewReport};
use delayd_model::admin::RequestCounts;

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
    let row: Option<(f64, Document)> =
        connection.prepare_cached(newest)?.query_row([live], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((made_at, report)) = row else { return Ok(()) };
    page.put(&names::DRIFT_REPORT_AT, &[], made_at / 1e6);
    let Some(report) = known::<DriftReport>(&report) else { return Ok(()) };
    page.put_state(&names::DRIFT_STATUS, &[], &DRIFT_STATES, drift_state(report.status));
    page.put(&names::DRIFT_ROWS, &[], report.rows as f64);
    page.put(&names::DRIFT_DATASET, &[], report.dataset_psi);
    let policy = &report.policy;
    for (signal, threshold) in
        [("feature", policy.feature_psi), ("score", policy.score_psi), ("dataset", policy.dataset_psi)]
    {
        page.put(&names::DRIFT_THRESHOLD, &[signal], threshold);
    }
    let inputs = known_inputs();
    for feature in report.features.iter().chain([&report.score]) {
        let Some(name) = inputs.get(feature.input.as_str()) else { continue };
        page.put(&names::DRIFT_EFFECT, &[name], feature.distances.excess_psi);
        page.put(&names::DRIFT_EXCEEDED, &[name], f64::from(u8::from(feature.exceeded)));
    }
    Ok(())
}

fn drift_state(status: DriftStatus) -> &'static str {
    match status {
        DriftStatus::TooFewRows => "too_few_rows",
        DriftStatus::Stable => "stable",
        DriftStatus::Suspected => "suspected",
        DriftStatus::Drifted => "drifted",
    }
}

fn known_inputs() -> BTreeSet<&'static str> {
    let numerics = NumericInput::ALL.iter().map(|input| input.name());
    let categories = CategoryInput::ALL.iter().map(|input| input.name());
    numerics.chain(categories).chain([delayd_judge::monitoring::drift::SCORE]).collect()
}

pub(super) fn windows(page: &mut Page, connection: &Connection) -> rusqlite::Result<()> {
    let Some(live) = live_model(connection)? else { return Ok(()) };
    let newest = "SELECT at, body FROM metrics_windows WHERE at = (SELECT max(at) FROM metrics_windows) AND model = ?1";
    let row: Option<(f64, Document)> =
        connection.prepare_cached(newest)?.query_row([live], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((looked_at, body)) = row else { return Ok(()) };
    page.put(&names::MONITOR_LOOK, &[], looked_at / 1e6);
    let seen = known::<WindowSeen>(&body).unwrap_or_default();
    performance(page, seen.performance.as_ref());
    service(page, seen.service.as_ref());
    replicas(page, seen.replicas.as_ref());
    train_serve(page, seen.train_serve.as_ref());
    Ok(())
}

fn replicas(page: &mut Page, seen: Option<&ReplicasSeen>) {
    let Some(seen) = seen else { return };
    page.put(&names::SILENT_REPLICAS, &[], seen.silent.len() as f64);
    page.put(&names::PREDICTIONS_LOST, &[], seen.predictions_lost_total as f64);
}

/// Golden rows of the last comparison; an earlier version's look has none.
fn train_serve(page: &mut Page, look: Option<&TrainServeLook>) {
    let Some(TrainServeSkewReport { rows, different, .. }) = look.map(|look| &look.report) else { return };
    page.put(&names::TRAIN_SERVE_ROWS, &["same"], (rows - different) as f64);
    page.put(&names::TRAIN_SERVE_ROWS, &["different"], *different as f64);
}

fn performance(page: &mut Page, report: Option<&PerformanceReport>) {
    let Some(report) = report else { return };
    let status = match report.status {
        PerformanceStatus::TooFewOutcomes => "too_few_outcomes",
        PerformanceStatus::Holding => "holding",
        PerformanceStatus::Suspected => "suspected",
        PerformanceStatus::Degraded => "degraded",
    };
    page.put_state(&names::PERFORMANCE_STATUS, &[], &PERFORMANCE_STATES, status);
    let realised = report.realised.as_ref().map(|realised| &realised.metrics);
    page.put_some(&names::REALISED_OUTCOMES, &[], realised.map(|found| found.rows as f64));
    page.put_some(&names::REALISED_AUC, &[], realised.and_then(|found| found.auc));
    page.put_some(&names::REALISED_LOG_LOSS, &[], realised.and_then(|found| found.log_loss));
    page.put_some(&names::REALISED_ECE, &[], realised.and_then(|found| found.calibration_error));
    page.put_some(&names::REALISED_RECALL, &[], realised.and_then(|found| found.recall));
    let baseline = &report.baseline;
    page.put(&names::BASELINE_AUC, &[], baseline.auc);
    page.put(&names::BASELINE_LOG_LOSS, &[], baseline.log_loss);
    page.put(&names::BASELINE_ECE, &[], baseline.calibration_error);
    page.put(&names::BASELINE_RECALL, &[], baseline.recall);
    page.put(&names::REALISED_AUC_FLOOR, &[], baseline.auc - report.policy.auc_drop);
}

fn service(page: &mut Page, report: Option<&ServiceReport>) {
    let Some(report) = report else { return };
    if let Some(overall) = report.latency.overall {
        page.put(&names::LATENCY_P50, &[], overall.p50.ms / 1000.0);
        page.put(&names::LATENCY_P95, &[], overall.p95.ms / 1000.0);
        page.put(&names::LATENCY_P99, &[], overall.p99.ms / 1000.0);
    }
    page.put(&names::SERVICE_ERRORS, &[], report.errors.share);
    let RequestCounts { ok, client_errors, server_errors } = report.errors.current;
    page.put(&names::SERVICE_REQUESTS, &[], (ok + client_errors + server_errors) as f64);
    if let Some(hour) = report.traffic.last() {
        page.put(&names::TRAFFIC, &[], hour.requests as f64);
        page.put_some(&names::TRAFFIC_EXPECTED, &[], hour.expected);
        page.put_some(&names::TRAFFIC_DEVIATIONS, &[], hour.deviations);
    }
    page.put_some(&names::SCORE_SKEW, &[], report.skew.as_ref().map(|skew| skew.distances.excess_psi));
}

#[cfg(test)]
mod tests {
    use super::*;
    use delayd_core::ids::ModelVersion;
    use delayd_judge::monitoring::performance::{PerformancePolicy, ValidationBaseline};
    use delayd_judge::monitoring::realised::Realised;

    #[test]
    fn replicas_that_were_silent_and_predictions_that_were_lost_are_told() {
        let mut page = Page::default();
        // A look of an earlier version tells neither.
        replicas(&mut page, None);
        assert!(page.families().is_empty());
        let mut page = Page::default();
        let seen = ReplicasSeen {
            answered: 1,
            silent: vec!["replica b: refused".to_owned()],
            predictions_lost: 2,
            predictions_lost_total: 9,
        };
        replicas(&mut page, Some(&seen));
        let families = page.families();
        let names: Vec<&str> = families.iter().map(prometheus::proto::MetricFamily::name).collect();
        assert_eq!(names, ["delayd_monitoring_predictions_lost_total", "delayd_monitoring_silent_replicas"]);
        assert_eq!(families[0].get_metric()[0].get_counter().get_value(), 9.0);
        assert_eq!(families[1].get_metric()[0].get_gauge().get_value(), 1.0);
    }

    #[test]
    fn golden_rows_are_told_by_how_they_score() {
        let mut page = Page::default();
        train_serve(&mut page, None);
        assert!(page.families().is_empty());
        let mut page = Page::default();
        let report = TrainServeSkewReport {
            rows: 32,
            different: 2,
            largest_difference: 0.1,
            worst: Vec::new(),
            skewed: false,
            reason: String::new(),
        };
        let at = "2013-03-01T06:00:00Z".parse().unwrap();
        train_serve(&mut page, Some(&TrainServeLook { at, model: ModelVersion(1), replicas: 1, report }));
        let families = page.families();
        let values: Vec<f64> = families[0].get_metric().iter().map(|sample| sample.get_gauge().get_value()).collect();
        assert_eq!(values, [30.0, 2.0]);
    }

    #[test]
    fn a_window_without_a_service_tells_nothing_of_it() {
        let mut page = Page::default();
        service(&mut page, None);
        let report = PerformanceReport {
            at: "2013-03-01T06:00:00Z".parse().unwrap(),
            realised: None,
            estimated: Realised::default(),
            changes: Vec::new(),
            degraded: Vec::new(),
            status: PerformanceStatus::Holding,
            reason: String::new(),
            baseline: ValidationBaseline {
                auc: 0.8,
                log_loss: 0.5,
                delayed_share: 0.2,
                calibration_error: 0.01,
                recall: 0.5,
            },
            policy: PerformancePolicy { auc_drop: 0.05, ..PerformancePolicy::default() },
        };
        performance(&mut page, Some(&report));
        let families = page.families();
        let names: Vec<&str> = families.iter().map(prometheus::proto::MetricFamily::name).collect();
        let baseline =
            ["calibration_error", "log_loss", "recall", "roc_auc"].map(|name| format!("delayd_baseline_{name}"));
        assert_eq!(names[..4], baseline);
        assert_eq!(names[4..], ["delayd_performance_status", "delayd_realised_roc_auc_floor"]);
        let floor = families[5].get_metric()[0].get_gauge().get_value();
        assert!((floor - 0.75).abs() < 1e-12);
    }
}
