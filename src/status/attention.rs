//! What needs somebody's attention. One rule each, in one place, and nothing but the status and the monitor's newest
//! check to judge by.

use serde::{Deserialize, Serialize};

use super::StatusDocument;
use crate::stages::watch::WindowSeen;
use delayd_core::ids::ModelVersion;
use delayd_core::ports::{ReplicaState, Severity};
use delayd_judge::monitoring::drift::{DriftReport, DriftStatus};
use delayd_judge::monitoring::performance::PerformanceStatus;
use delayd_judge::monitoring::service::{ERROR_RATE_TITLE, LATENCY_TITLE, SCORES_TITLE, TRAFFIC_TITLE};
use delayd_ledger::{Alias, CycleOutcome, CycleState, Page, Snapshot};

/// One thing that needs attention.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Finding {
    /// How urgent it is, as for alerts.
    pub severity: Severity,
    /// What sort of thing; the same word for the same rule in every version.
    pub kind: String,
    /// What is wrong and what to do, with the ids it concerns.
    pub text: String,
    /// The page of the web interface that shows more.
    pub page: Option<String>,
}

/// The newest that the monitor saw.
#[derive(Debug, Clone, Default)]
pub(super) struct Watched {
    window: Option<(ModelVersion, WindowSeen)>,
    drift: Option<(ModelVersion, DriftReport)>,
    undelivered_alerts: u64,
}

impl Watched {
    pub(super) fn read(ledger: &Snapshot<'_>) -> rusqlite::Result<Self> {
        let window = ledger.newest_metrics_window()?;
        let drift = ledger.drift_reports(Page::newest(1))?.into_iter().next();
        Ok(Self {
            // A document of another version of delayd cannot be judged; the next check writes one of this version.
            window: window.and_then(|window| Some((window.model, window.body.read().ok()?))),
            drift: drift.and_then(|drift| Some((drift.model, drift.report.read().ok()?))),
            undelivered_alerts: ledger.dead_alerts()?,
        })
    }
}

/// Everything that needs attention, most urgent first.
pub(super) fn findings(status: &StatusDocument, watched: &Watched) -> Vec<Finding> {
    let mut found = Found(Vec::new());
    found.daemon(status);
    found.service(status);
    found.cycle(status);
    found.checks(status, watched);
    let dead = watched.undelivered_alerts;
    if dead > 0 {
        let alerts = if dead == 1 { "1 alert was".to_owned() } else { format!("{dead} alerts were") };
        let text =
            format!("{alerts} not delivered. `delayd alerts` says to whom and why; `delayd alerts retry` sends again.");
        found.warning("alerts_undelivered", Some("alerts"), text);
    }
    found.0.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    found.0
}

struct Found(Vec<Finding>);

impl Found {
    fn add(&mut self, severity: Severity, kind: &str, page: Option<&str>, text: String) {
        self.0.push(Finding { severity, kind: kind.to_owned(), text, page: page.map(str::to_owned) });
    }

    fn critical(&mut self, kind: &str, page: Option<&str>, text: String) {
        self.add(Severity::Critical, kind, page, text);
    }

    fn warning(&mut self, kind: &str, page: Option<&str>, text: String) {
        self.add(Severity::Warning, kind, page, text);
    }

    fn daemon(&mut self, status: &StatusDocument) {
        if !status.running {
            self.critical("daemon_stopped", None, "No daemon is running: nothing is watched or retrained.".to_owned());
        }
        let stopped: Vec<&str> =
            status.actors.iter().filter(|actor| actor.state.has_stopped()).map(|actor| actor.name.as_str()).collect();
        if !stopped.is_empty() {
            let have = if stopped.len() == 1 { "has" } else { "have" };
            let text = format!("{} {have} stopped working. Restart the daemon if that lasts.", stopped.join(", "));
            self.critical("actor_stopped", Some("health"), text);
        }
        if let Some(word) = &status.paused {
            let why = if word.reason.is_empty() { String::new() } else { format!(": {}", word.reason) };
            let since = word.at.format("%Y-%m-%d %H:%M UTC");
            let text = format!("{} paused automatic cycles on {since}{why}. `delayd resume` ends the pause.", word.by);
            self.warning("paused", None, text);
        } else if let Some((why, until)) = status.governor.as_ref().and_then(|stands| stands.held_back(status.now)) {
            let until = until.format("%Y-%m-%d %H:%M UTC");
            let text = format!("No automatic cycle starts before {until}: {why}. `delayd resume` lifts this now.");
            self.add(Severity::Info, "retraining_held_back", Some("decisions"), text);
        }
    }

    fn service(&mut self, status: &StatusDocument) {
        let Some(live) = status.aliased(Alias::Live) else {
            if status.cycle.as_ref().is_some_and(|cycle| cycle.state != CycleState::Finished) {
                let text = "No model is live yet; the first one is being prepared.".to_owned();
                self.add(Severity::Info, "first_model", Some("cycles"), text);
            } else {
                let missing = status.waits_for.join("; ");
                let why = if missing.is_empty() { String::new() } else { format!(": {missing}") };
                self.critical("no_live_model", Some("datasets"), format!("No model is live{why}."));
            }
            return;
        };
        if let Some(why) = status.replicas_unknown.as_ref().filter(|_| status.running) {
            self.critical("cluster_unreachable", Some("health"), format!("The cluster cannot be asked: {why}"));
        } else if status.running && !status.replicas.iter().any(|replica| replica.state == ReplicaState::Ready) {
            let text = format!("No replica of {live} is ready: no request is answered.");
            self.critical("no_ready_replica", Some("health"), text);
        }
        if let Some(service) = status.live_service.as_ref().filter(|service| !service.served) {
            self.critical("live_model_not_served", Some("deployments"), service.text.clone());
        }
        let failed: Vec<String> = status
            .replicas
            .iter()
            .filter(|replica| replica.state == ReplicaState::Failed)
            .map(|replica| match &replica.reason {
                Some(why) => format!("{} ({why})", replica.name),
                None => replica.name.clone(),
            })
            .collect();
        if !failed.is_empty() {
            let replicas = if failed.len() == 1 { "replica" } else { "replicas" };
            let text = format!("{} {replicas} failed: {}.", failed.len(), failed.join(", "));
            self.critical("replica_failed", Some("health"), text);
        }
    }

    fn cycle(&mut self, status: &StatusDocument) {
        let Some(cycle) = &status.cycle else { return };
        let (id, model) = (cycle.id, cycle.model);
        match (cycle.state, cycle.outcome) {
            (CycleState::WaitingApproval, _) => {
                let text = format!(
                    "{id} is waiting for approval: `delayd approve` or `delayd reject`; {model} already serves."
                );
                self.warning("waiting_for_approval", Some("cycles"), text);
            }
            (_, Some(CycleOutcome::Stuck)) => {
                let text = format!("{id} is stuck: an undo could not finish. {}", cycle.detail);
                self.critical("cycle_stuck", Some("cycles"), text);
            }
            (_, Some(CycleOutcome::Failed)) => {
                let text = format!("The last cycle, {id}, failed: {}", cycle.detail);
                self.warning("cycle_failed", Some("cycles"), text);
            }
            (_, Some(CycleOutcome::RolledBack)) => {
                let text = format!("The last cycle, {id}, was rolled back: {}", cycle.detail);
                self.warning("cycle_rolled_back", Some("cycles"), text);
            }
            _ => {}
        }
    }

    /// What the monitor's newest check finds wrong with the live model and its service.
    fn checks(&mut self, status: &StatusDocument, watched: &Watched) {
        let live = status.aliased(Alias::Live);
        let window = watched.window.as_ref().filter(|(model, _)| Some(*model) == live).map(|(_, window)| window);
        let drift = watched.drift.as_ref().filter(|(model, _)| Some(*model) == live).map(|(_, drift)| drift);
        for verdict in window.iter().flat_map(|window| verdicts(window, drift)) {
            let Some(severity) = verdict.severity else { continue };
            let page = match verdict.check {
                "drift" => "drift",
                "train/serve" | "replicas" => "health",
                _ => "performance",
            };
            let text = format!("{}: {}", verdict.title, verdict.why);
            self.add(severity, verdict.kind, Some(page), text);
        }
    }
}

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
