//! What the monitor finds, as the page shows it: the newest check, and what needs attention because of it.

use delayd_core::clock::{Clock, SystemClock};
use delayd_core::ids::{Digest, ModelVersion};
use delayd_ledger::{CycleOutcome, CycleReason, Ledger, MetricsWindow};
use delayd_testkit::records;
use delayd_testkit::site::DatalessDaemon;
use serde_json::json;

use crate::browser::{Browser, PATIENCE};
use crate::{daemon, sign_in};

/// Makes model_v1 live in the ledger of a daemon that has not started; no cluster serves it.
async fn make_live(ledger: &Ledger) {
    let now = SystemClock.now();
    let cycle = ledger.begin_cycle(CycleReason::Scheduled, now).await.unwrap();
    let dataset = records::dataset(&cycle, Digest::of(b"dataset"), now);
    let run = records::run(&cycle, &dataset.version, now);
    let model = records::model(&cycle, &dataset.version, Digest::of(b"bundle"), now);
    ledger.insert_dataset(dataset).await.unwrap();
    ledger.save_run(run).await.unwrap();
    ledger.register_model(model).await.unwrap();
    ledger.promote(cycle.model, now).await.unwrap();
    ledger.finish_cycle(cycle.id, CycleOutcome::Deployed, "", now).await.unwrap();
}

/// A check of model_v1 that found a slow replica, one that could not be read, and lost predictions.
async fn check(ledger: &Ledger) {
    let none = json!({ "ok": 0, "client_errors": 0, "server_errors": 0 });
    let quantiles = json!({ "requests": 40, "p50": { "ms": 1.5, "at_least": false },
                            "p95": { "ms": 2.5, "at_least": false }, "p99": { "ms": 3.5, "at_least": true } });
    let mut estimated = serde_json::to_value(delayd_judge::monitoring::realised::Realised::default()).unwrap();
    estimated["auc"] = json!(0.7);
    let policy = delayd_judge::monitoring::performance::PerformancePolicy::default();
    let body = json!({
        "performance": { "at": "2013-03-01T06:00:00Z", "status": "holding", "degraded": [], "policy": policy,
            "reason": "no metric is worse than tolerated", "realised": null, "estimated": estimated,
            "baseline": { "auc": 0.72, "log_loss": 0.45, "delayed_share": 0.2, "calibration_error": 0.01,
                          "recall": 0.584 },
            "changes": [{ "metric": "recall", "baseline": 0.584, "realised": 0.362, "interval": null, "loss": 0.222,
                          "tolerated": null, "worse": false, "windows_worse": 0 }] },
        "service": { "traffic": [], "skew": null,
            "errors": { "current": none, "baseline": none, "share": 0.0, "interval": { "low": 0.0, "high": 0.0 },
                        "baseline_share": 0.0, "p_value": 1.0, "spike": false, "reason": "no requests" },
            "latency": { "overall": quantiles, "replicas": [["replica-a", quantiles], ["replica-b", null]],
                         "slow_replicas": ["replica-a"], "too_slow": false, "reason": "p95 is 2.50 ms" } },
        "replicas": { "answered": 1, "silent": ["replica replica-b at http://b: refused"], "predictions_lost": 3,
                      "predictions_lost_total": 3 },
    });
    let window = MetricsWindow { at: SystemClock.now(), model: ModelVersion(1), body: body.into() };
    ledger.save_metrics_window(window).await.unwrap();
}

/// The page of a daemon whose live model was checked.
async fn of_a_checked_model(test: &str) -> Option<(DatalessDaemon, Browser)> {
    let mut daemon = daemon("");
    let browser = Browser::start(test, &daemon.url("")).await?;
    let ledger = daemon.ledger();
    make_live(&ledger).await;
    check(&ledger).await;
    drop(ledger);
    daemon.start();
    Some((daemon, browser))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_check_says_what_is_judged_and_nothing_that_was_not_measured() {
    const TEST: &str = "the_newest_check_says_what_is_judged_and_nothing_that_was_not_measured";
    let Some((daemon, mut browser)) = of_a_checked_model(TEST).await else { return };
    browser.open("performance").await;
    let main = browser.wait_for_text("main", "Latency by replica").await;
    for words in ["not judged", "replica-a", "slower than the others", "replica-b", "≥ 3.50", "Validation baseline"] {
        assert!(main.contains(words), "no {words} in {main}");
    }
    browser.open("").await;
    let health = browser.wait_for_text("main", "no requests").await;
    assert!(!health.contains("0.00 %") && health.contains("1 could not be read"), "{health}");
    let attention = browser.text("#attention").await;
    assert!(attention.contains("replica-b at") && attention.contains("3 predictions were lost"), "{attention}");
    let told = daemon.says(&["monitoring"]);
    assert!(told.contains("not judged") && told.contains("replica-a"), "{told}");
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn findings_lead_to_what_shows_more_and_a_button_says_why_it_cannot_be_pressed() {
    const TEST: &str = "findings_lead_to_what_shows_more_and_a_button_says_why_it_cannot_be_pressed";
    let Some((_daemon, mut browser)) = of_a_checked_model(TEST).await else { return };

    // Most urgent first, each with the ids it concerns and the page that shows more.
    browser.open("").await;
    let attention = browser.wait_for_text("#attention", "4 things need attention").await;
    for told in ["No replica of model_v1 is ready", "model_v1 is live but not being served", "p95 is 2.50 ms"] {
        assert!(attention.contains(told), "no `{told}` in {attention}");
    }
    let findings = "return [...document.querySelectorAll('#attention [data-finding]')].map((finding) => \
                    [finding.dataset.finding, ...[...finding.querySelectorAll('a')].map((link) => link.hash)])";
    let expected = json!([
        ["no_ready_replica", "#/models/model_v1", "#/health"],
        ["live_model_not_served", "#/models/model_v1", "#/deployments"],
        ["latency", "#/performance"],
        ["replicas_unread", "#/health"],
    ]);
    assert_eq!(browser.script(findings).await, expected);
    assert_eq!(browser.text("#attention code").await, "delayd retrain");
    browser.press("#attention [data-finding=replicas_unread] a").await;
    browser.wait_for_text("main h1", "Health").await;
    browser.wait_for_text("main", "replica replica-b at http://b: refused").await;

    // What the daemon refuses is said where it would be asked for.
    browser.open("").await;
    sign_in(&mut browser).await;
    browser.wait("a retrain can be asked for", PATIENCE, &pressable("retrain")).await;
    let refused = "return document.querySelector('[data-command=rollback][aria-disabled=true]').title";
    assert_eq!(browser.script(refused).await, json!("there is no previous model to roll back to"));
    browser.press("[data-command=rollback]").await;
    browser.wait_for_text("#announcer", "there is no previous model to roll back to").await;
    assert_eq!(browser.script("return document.querySelector('dialog[open]') === null").await, json!(true));
    // Nothing is paused: there is something to pause, and nothing to resume.
    let offered = "return [...document.querySelectorAll('.commands [data-command]')].map((one) => one.dataset.command)";
    assert_eq!(browser.script(offered).await, json!(["retrain", "rollback", "pause"]));
    browser.close().await;
}

fn pressable(command: &str) -> String {
    format!("return document.querySelector('[data-command={command}]:not([aria-disabled])') !== null")
}
