//! The verdict of each of the monitor's checks.

use crate::stages::watch::WindowSeen;
use delayd_core::ports::Severity;
use delayd_judge::monitoring::drift::{DriftReport, DriftStatus};
use delayd_judge::monitoring::performance::PerformanceStatus;
use delayd_judge::monitoring::service::{ERROR_RATE_TITLE, LATENCY_TITLE, SCORES_TITLE, TRAFFIC_TITLE};

/// What one of the monitor's checks found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Which check, as people call it.
    pub check: &'static str,
    /// What sort of finding it makes.
    pub kind: &'static str,
    /// In one word: `passed`, `-` where there is nothing to judge yet, or what is wrong.
    pub word: &'static str,
    /// How urgent it is; `None` where nothing is wrong.
    pub severity: Option<Severity>,
    /// What is wrong, in one line.
    pub title: &'static str,
    /// The check's own reason, with its numbers.
    pub why: String,
}

/// The verdict of every check. The severity of each is that of the alert it raises.
pub fn verdicts(window: &WindowSeen, drift: Option<&DriftReport>) -> Vec<Verdict> {
    let mut all = Vec::new();
    let mut add = |check, kind, word, severity, title, why: &str| {
        all.push(Verdict { check, kind, word, severity, title, why: why.to_owned() });
    };
    let warns = |wrong: bool| wrong.then_some(Severity::Warning);
    let passed = |wrong: bool| if wrong { "failed" } else { "passed" };

    let title = "The live model performs below its validation";
    match &window.performance {
        Some(report) => {
            let degraded = report.status == PerformanceStatus::Degraded;
            let word = match report.status {
                PerformanceStatus::TooFewOutcomes => "too_few_outcomes",
                PerformanceStatus::Holding => "holding",
                PerformanceStatus::Suspected => "suspected",
                PerformanceStatus::Degraded => "degraded",
            };
            add("performance", "performance_degraded", word, warns(degraded), title, &report.reason);
        }
        None => add("performance", "performance_degraded", "-", None, title, "no outcomes yet"),
    }
    match &window.service {
        Some(service) => {
            let (spike, slow) = (service.errors.spike, service.latency.is_slow());
            add("errors", "error_rate", passed(spike), warns(spike), ERROR_RATE_TITLE, &service.errors.reason);
            add("latency", "latency", passed(slow), warns(slow), LATENCY_TITLE, &service.latency.reason);
        }
        None => {
            add("errors", "error_rate", "-", None, ERROR_RATE_TITLE, "no requests yet");
            add("latency", "latency", "-", None, LATENCY_TITLE, "no requests yet");
        }
    }
    let service = window.service.as_ref();
    let title = TRAFFIC_TITLE;
    match service.and_then(|service| service.traffic.last()) {
        Some(hour) => add("traffic", "traffic", passed(hour.anomalous), warns(hour.anomalous), title, &hour.reason),
        None => add("traffic", "traffic", "-", None, title, "no hour has ended since the last check"),
    }
    let title = SCORES_TITLE;
    match service.and_then(|service| service.skew.as_ref()) {
        Some(skew) => add("skew", "score_shift", passed(skew.skewed), warns(skew.skewed), title, &skew.reason),
        None => add("skew", "score_shift", "-", None, title, "no whole day of traffic yet"),
    }
    let title = "Replicas score differently from training";
    match window.train_serve.as_ref().map(|checked| &checked.report) {
        Some(report) => {
            let severity = report.skewed.then_some(Severity::Critical);
            add("train/serve", "train_serve_skew", passed(report.skewed), severity, title, &report.reason);
        }
        None => {
            add("train/serve", "train_serve_skew", "-", None, title, "golden rows have not been sent to a replica yet")
        }
    }
    let title = "The input distribution has shifted from training";
    match drift {
        Some(report) => {
            let word = match report.status {
                DriftStatus::TooFewRows => "too_few_rows",
                DriftStatus::Stable => "stable",
                DriftStatus::Suspected => "suspected",
                DriftStatus::Drifted => "drifted",
            };
            add("drift", "drift", word, warns(report.status == DriftStatus::Drifted), title, &report.reason);
        }
        None => add("drift", "drift", "-", None, title, "no report on this model yet"),
    }
    let title = "Predictions are missing from realised performance";
    match &window.replicas {
        Some(seen) => {
            let incomplete = !seen.silent.is_empty() || seen.predictions_lost > 0;
            let silent = match seen.silent.len() {
                0 => String::new(),
                count => format!("; {count} did not: {}", seen.silent.join("; ")),
            };
            let why = format!("{} answered, {} predictions were lost{silent}", seen.answered, seen.predictions_lost);
            add("replicas", "replicas_unread", passed(incomplete), warns(incomplete), title, &why);
        }
        None => add("replicas", "replicas_unread", "-", None, title, "replicas have not been read yet"),
    }
    all
}
