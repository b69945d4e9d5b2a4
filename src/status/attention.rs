//! What needs somebody's attention. One rule each, in one place, and nothing but the status and the monitor's newest
//! check to judge by.

use serde::{Deserialize, Serialize};

use super::StatusDocument;
use super::checks::verdicts;
use crate::stages::watch::WindowSeen;
use delayd_core::ids::ModelVersion;
use delayd_core::ports::{ReplicaState, Severity};
use delayd_judge::monitoring::drift::DriftReport;
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
        let text = format!(
            "{alerts} not delivered. `delayd alerts` says to whom and why; `delayd alerts --retry all` resends."
        );
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use delayd_judge::monitoring::performance::PerformancePolicy;
    use delayd_judge::monitoring::realised::Realised;
    use delayd_judge::monitoring::settings::DriftPolicy;
    use delayd_judge::monitoring::skew::Distances;

    const AT: &str = "2013-04-25T06:00:00Z";

    /// A running daemon whose live model serves well.
    fn quiet() -> Value {
        json!({
            "version": "0.1.0", "now": AT, "service_url": "http://127.0.0.1:8000",
            "aliases": [{ "alias": "live", "model": "model_v2", "moved_at": AT }],
            "cycle": {
                "id": "cycle_2", "reason": { "kind": "scheduled" }, "state": "finished", "outcome": "deployed",
                "detail": "model_v2 is live", "run": "run_2", "model": "model_v2", "deployment": "deployment_2",
                "started_at": AT, "finished_at": AT,
            },
            "paused": null,
            "governor": { "cooldown_until": null, "backoff_until": null, "budget_left": 2, "breaker_open": false },
            "live_service": { "live": "model_v2", "served": true, "text": "model_v2 is live and being served" },
            "replicas": [{
                "name": "replica-a", "model": "model_v2", "deployment": "deployment_2", "state": "ready",
                "admin_url": "http://a", "restarts": 0, "memory_bytes": null, "reason": null,
            }],
            "replicas_unknown": null,
            "actors": [{
                "name": "monitor", "state": "running", "restarts": 0, "last_beat_secs": 1.0, "current_work": null,
                "last_failure": null,
            }],
        })
    }

    /// A check that found nothing wrong, as the monitor keeps it.
    fn passed() -> Value {
        let none = json!({ "ok": 0, "client_errors": 0, "server_errors": 0 });
        let distances = Distances::default();
        json!({
            "performance": {
                "at": AT, "realised": null, "estimated": Realised::default(), "changes": [], "degraded": [],
                "status": "holding", "reason": "auc is 0.71", "policy": PerformancePolicy::default(),
                "baseline": { "auc": 0.72, "log_loss": 0.45, "delayed_share": 0.2, "calibration_error": 0.01, "recall": 0.5 },
            },
            "service": {
                "errors": {
                    "current": none, "baseline": none, "share": 0.0, "interval": { "low": 0.0, "high": 0.0 },
                    "baseline_share": 0.0, "p_value": 1.0, "spike": false, "reason": "1 of 40 requests failed",
                },
                "latency": {
                    "overall": null, "replicas": [], "slow_replicas": [], "too_slow": false, "reason": "p95 is 2.50 ms",
                },
                "traffic": [{
                    "hour": AT, "requests": 40, "expected": 41.0, "deviations": 0.1, "kind": "usual",
                    "hours_in_a_row": 1, "anomalous": false, "reason": "40 requests where 41 are usual",
                }],
                "skew": {
                    "rows": 400, "reference_mean": 0.2, "window_mean": 0.2, "distances": distances, "skewed": false,
                    "reason": "PSI is 0.01",
                },
            },
            "replicas": { "answered": 2, "silent": [], "predictions_lost": 0, "predictions_lost_total": 0 },
            "train_serve": {
                "at": AT, "model": "model_v2", "replicas": 2,
                "report": {
                    "rows": 50, "different": 0, "largest_difference": 0.0, "worst": [], "skewed": false,
                    "reason": "all of 50 golden rows score the same",
                },
            },
        })
    }

    fn drift_report() -> Value {
        json!({
            "ended_at": AT, "layout": "l", "rows": 400, "days": 7, "reference_rows": 4000, "dataset_psi": 0.1,
            "features": [], "exceeded": [], "alarms": [], "status": "stable", "reason": "dataset PSI is 0.1",
            "policy": DriftPolicy::default(),
            "score": {
                "input": "score", "kind": "score", "importance": 0.0, "distances": Distances::default(),
                "bins": [], "reference_shares": [], "window_shares": [], "exceeded": false, "windows_exceeded": 0,
                "drifted": false, "reason": "",
            },
        })
    }

    fn found(status: &Value, window: Option<&Value>, drift: Option<&Value>, undelivered: u64) -> Vec<Finding> {
        let status: StatusDocument = serde_json::from_value(status.clone()).unwrap();
        let live = ModelVersion(2);
        let watched = Watched {
            window: window.map(|window| (live, serde_json::from_value(window.clone()).unwrap())),
            drift: drift.map(|drift| (live, serde_json::from_value(drift.clone()).unwrap())),
            undelivered_alerts: undelivered,
        };
        findings(&status, &watched)
    }

    fn with(mut document: Value, changes: &[(&str, Value)]) -> Value {
        for (pointer, value) in changes {
            let (place, name) = pointer.rsplit_once('/').unwrap();
            document.pointer_mut(place).unwrap()[name] = value.clone();
        }
        document
    }

    /// Exactly one finding, and what it says.
    fn one(found: &[Finding], severity: Severity, kind: &str, words: &[&str]) {
        let [finding] = found else { panic!("{kind} alone was expected: {found:?}") };
        assert_eq!((finding.severity, finding.kind.as_str()), (severity, kind), "{finding:?}");
        for words in words {
            assert!(finding.text.contains(words), "no {words:?} in {:?}", finding.text);
        }
    }

    #[test]
    fn nothing_needs_attention_where_all_is_well() {
        assert_eq!(found(&quiet(), Some(&passed()), Some(&drift_report()), 0), []);
        assert_eq!(found(&quiet(), None, None, 0), [], "a check that was not made yet is not a finding");
    }

    #[test]
    fn every_rule_on_the_daemon_the_service_and_the_cycle_makes_its_one_finding() {
        use Severity::{Critical, Info, Warning};
        let no_live = [("/aliases", json!([])), ("/live_service", Value::Null), ("/replicas", json!([]))];
        let with_no_live = |more: &[(&str, Value)]| with(with(quiet(), &no_live), more);
        let ended = |outcome: &str| [("/cycle/outcome", json!(outcome)), ("/cycle/detail", json!("the disk is full"))];
        let later = json!("2013-05-02T06:00:00Z");
        let rules: Vec<(Value, Severity, &str, &[&str])> = vec![
            (
                with(quiet(), &[("/running", json!(false)), ("/replicas_unknown", json!("no daemon is running"))]),
                Critical,
                "daemon_stopped",
                &["No daemon is running"],
            ),
            (
                with(quiet(), &[("/actors/0/state", json!("dead"))]),
                Critical,
                "actor_stopped",
                &["monitor has stopped working"],
            ),
            (
                with(quiet(), &[("/paused", json!({ "by": "ops", "reason": "a storm", "at": AT }))]),
                Warning,
                "paused",
                &["ops paused automatic cycles on 2013-04-25 06:00 UTC: a storm.", "`delayd resume`"],
            ),
            (
                with(quiet(), &[("/governor/backoff_until", later.clone())]),
                Info,
                "retraining_held_back",
                &["before 2013-05-02 06:00 UTC", "the last cycles failed", "`delayd resume`"],
            ),
            (
                with(quiet(), &[("/governor/cooldown_until", later.clone()), ("/governor/breaker_open", json!(true))]),
                Info,
                "retraining_held_back",
                &["the breaker is open"],
            ),
            (
                with_no_live(&[("/waits_for", json!(["no airports yet", "no flights yet"]))]),
                Critical,
                "no_live_model",
                &["No model is live: no airports yet; no flights yet."],
            ),
            (
                with_no_live(&[("/cycle/state", json!("running")), ("/cycle/outcome", Value::Null)]),
                Info,
                "first_model",
                &["No model is live yet"],
            ),
            (
                with(quiet(), &[("/replicas_unknown", json!("connection refused")), ("/replicas", json!([]))]),
                Critical,
                "cluster_unreachable",
                &["connection refused"],
            ),
            (
                with(quiet(), &[("/replicas/0/state", json!("starting"))]),
                Critical,
                "no_ready_replica",
                &["No replica of model_v2 is ready"],
            ),
            (
                with(
                    quiet(),
                    &[("/live_service", json!({ "live": "model_v2", "served": false, "text": "model_v1 serves" }))],
                ),
                Critical,
                "live_model_not_served",
                &["model_v1 serves"],
            ),
            (
                with(quiet(), &[("/cycle/state", json!("waiting_approval")), ("/cycle/outcome", Value::Null)]),
                Warning,
                "waiting_for_approval",
                &["cycle_2 is waiting for approval", "`delayd approve` or `delayd reject`", "model_v2 already serves"],
            ),
            (with(quiet(), &ended("stuck")), Critical, "cycle_stuck", &["cycle_2 is stuck", "the disk is full"]),
            (with(quiet(), &ended("failed")), Warning, "cycle_failed", &["cycle_2, failed: the disk is full"]),
            (
                with(quiet(), &ended("rolled_back")),
                Warning,
                "cycle_rolled_back",
                &["cycle_2, was rolled back: the disk is full"],
            ),
        ];
        for (status, severity, kind, words) in rules {
            one(&found(&status, Some(&passed()), None, 0), severity, kind, words);
        }
        let mut failed = quiet();
        let mut replica = failed["replicas"][0].clone();
        replica["state"] = json!("failed");
        replica["name"] = json!("replica-b");
        replica["reason"] = json!("out of memory");
        failed["replicas"].as_array_mut().unwrap().push(replica);
        let words = ["1 replica failed: replica-b (out of memory)"];
        one(&found(&failed, None, None, 0), Critical, "replica_failed", &words);
        let words = ["1 alert was not delivered", "`delayd alerts --retry all`"];
        one(&found(&quiet(), None, None, 1), Warning, "alerts_undelivered", &words);
        one(&found(&quiet(), None, None, 3), Warning, "alerts_undelivered", &["3 alerts were not delivered"]);
    }

    #[test]
    fn every_check_that_fails_is_a_finding_with_its_own_reason() {
        use Severity::{Critical, Warning};
        let wrong: &[(&str, Value, Severity, &str, &str)] = &[
            ("/performance/status", json!("degraded"), Warning, "performance_degraded", "auc is 0.71"),
            ("/service/errors/spike", json!(true), Warning, "error_rate", "1 of 40 requests failed"),
            ("/service/latency/too_slow", json!(true), Warning, "latency", "p95 is 2.50 ms"),
            ("/service/latency/slow_replicas", json!(["replica-a"]), Warning, "latency", "p95 is 2.50 ms"),
            ("/service/traffic/0/anomalous", json!(true), Warning, "traffic", "40 requests where 41 are usual"),
            ("/service/skew/skewed", json!(true), Warning, "score_shift", "PSI is 0.01"),
            ("/train_serve/report/skewed", json!(true), Critical, "train_serve_skew", "all of 50 golden rows"),
            (
                "/replicas/silent",
                json!(["replica-b at http://b"]),
                Warning,
                "replicas_unread",
                "1 did not: replica-b at",
            ),
            ("/replicas/predictions_lost", json!(3), Warning, "replicas_unread", "3 predictions were lost"),
        ];
        for (pointer, value, severity, kind, words) in wrong {
            let window = with(passed(), &[(pointer, value.clone())]);
            one(&found(&quiet(), Some(&window), None, 0), *severity, kind, &[words]);
        }
        let drifted = with(drift_report(), &[("/status", json!("drifted"))]);
        one(&found(&quiet(), Some(&passed()), Some(&drifted), 0), Warning, "drift", &["dataset PSI is 0.1"]);
    }

    #[test]
    fn what_was_found_of_a_model_that_is_no_longer_live_needs_no_attention() {
        let window = with(passed(), &[("/performance/status", json!("degraded"))]);
        let aliases = json!([{ "alias": "live", "model": "model_v1", "moved_at": AT }]);
        assert_eq!(found(&with(quiet(), &[("/aliases", aliases)]), Some(&window), None, 0), []);
    }

    #[test]
    fn the_most_urgent_finding_comes_first() {
        let paused = ("/paused", json!({ "by": "ops", "reason": "", "at": AT }));
        let status = with(quiet(), &[paused, ("/replicas", json!([]))]);
        let window = with(passed(), &[("/performance/status", json!("degraded"))]);
        let kinds: Vec<String> =
            found(&status, Some(&window), None, 0).into_iter().map(|finding| finding.kind).collect();
        assert_eq!(kinds, ["no_ready_replica", "paused", "performance_degraded"]);
    }
}
