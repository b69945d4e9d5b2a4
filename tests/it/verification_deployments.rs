//! Verdicts on deployments, and the replay of rows over HTTP.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "helpers are shared by inclusion")]

use std::collections::BTreeMap;

use delayd_core::ids::{DeploymentId, Digest, ModelVersion};
use delayd_core::ports::{Replica, ReplicaState};
use delayd_judge::verification::measurement::{Measurement, MeasurementSource};
use delayd_judge::verification::measurement::{ProbeAnswer, ProbeResult};
use delayd_judge::verification::verify::{
    CheckOutcome, Verdict, VerificationInputs, VerificationPolicy, VerificationReport, verify,
};
use delayd_model::DriftReference;
use delayd_outside::service::{ProbePolicy, ProbeRow, replay};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn bundle() -> Digest {
    Digest::of(b"the bundle")
}

fn reference() -> DriftReference {
    DriftReference { rows: 20_000, score_counts: vec![1_000; 20], ..DriftReference::default() }
}

fn replica(n: u32) -> Replica {
    Replica {
        name: format!("replica-{n}"),
        model: ModelVersion(2),
        deployment: DeploymentId(5),
        state: ReplicaState::Ready,
        admin_url: String::new(),
        restarts: 0,
        memory_bytes: Some(20_000_000),
        reason: None,
    }
}

fn answer(n: usize) -> ProbeAnswer {
    let score = (n % 20) as f32 / 20.0 + 0.01;
    ProbeAnswer {
        label: format!("flight {n}"),
        latency_ms: 1.0 + (n % 10) as f64 / 10.0,
        status: Some(200),
        score: Some(score),
        expected_score: Some(score),
        model_version: Some("model_v2".into()),
        bundle: Some(bundle().to_string()),
        error: None,
        warm_up: n < 20,
    }
}

fn probe(rows: usize, change: impl Fn(usize, &mut ProbeAnswer)) -> ProbeResult {
    let answers = (0..rows).map(|n| {
        let mut one = answer(n);
        change(n, &mut one);
        one
    });
    ProbeResult { answers: answers.collect(), not_sent: 0, duration_ms: 100.0 }
}

fn baseline() -> Measurement {
    Measurement::of_probe(&probe(500, |_, _| {}), 0.95)
}

fn judge(probe: Option<&ProbeResult>, replicas: &[Replica], baseline: Option<&Measurement>) -> VerificationReport {
    let (bundle, reference) = (bundle(), reference());
    let inputs = VerificationInputs {
        deployment: DeploymentId(5),
        model: ModelVersion(2),
        bundle: &bundle,
        replicas_wanted: 2,
        replicas,
        reports: &[],
        probe,
        baseline,
        reference: &reference,
        rows: "",
    };
    verify(&inputs, &VerificationPolicy::default())
}

fn failed(report: &VerificationReport) -> Vec<&str> {
    let failed = report.checks.iter().filter(|check| check.outcome == CheckOutcome::Failed);
    failed.map(|check| check.name.as_str()).collect()
}

#[test]
fn a_sound_deployment_passes_and_its_report_survives_json() {
    let report = judge(Some(&probe(500, |_, _| {})), &[replica(1), replica(2)], Some(&baseline()));
    assert_eq!(report.verdict, Verdict::Passed, "{}", report.reason);
    assert_eq!(report.checks.len(), 7);
    assert_eq!(report.measured.source, MeasurementSource::Probe);
    let stored = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<VerificationReport>(&stored).unwrap(), report);
}

#[test]
fn each_fault_fails_its_own_check() {
    type Change = fn(usize, &mut ProbeAnswer);
    let table: [(Change, &str, &str); 6] = [
        (|n, a| a.error = (n % 20 == 0).then(|| "status 500".into()), "error_share", "over the limit"),
        (|_, a| a.latency_ms = 90.0, "p95_latency", "over 50 ms"),
        (|_, a| a.latency_ms *= 10.0, "p95_latency_against_baseline", "allows"),
        (|_, a| a.score = Some(0.03), "prediction_distribution", "PSI"),
        (
            |n, a| {
                if n == 3 {
                    a.score = Some(f32::NAN)
                }
            },
            "prediction_distribution",
            "not between 0 and 1",
        ),
        (
            |n, a| {
                if n == 3 {
                    a.model_version = Some("model_v1".into())
                }
            },
            "served_model",
            "expected model_v2",
        ),
    ];
    for (change, name, why) in table {
        let report = judge(Some(&probe(500, change)), &[replica(1), replica(2)], Some(&baseline()));
        assert_eq!(report.verdict, Verdict::Failed, "{name}");
        assert!(failed(&report).contains(&name), "{name}: {:?}", failed(&report));
        assert!(report.reason.contains(why), "{name}: {}", report.reason);
    }
}

#[test]
fn a_row_scored_otherwise_than_by_the_bundles_own_code_fails() {
    let report = judge(
        Some(&probe(500, |n, a| {
            if n == 7 {
                a.expected_score = Some(0.99);
            }
        })),
        &[replica(1), replica(2)],
        None,
    );
    assert_eq!(failed(&report), ["score_agreement"]);
    assert!(report.reason.contains("flight 7"), "{}", report.reason);
}

#[test]
fn unsteady_replicas_fail() {
    let restarted = Replica { restarts: 2, ..replica(2) };
    let large = Replica { memory_bytes: Some(1 << 40), ..replica(2) };
    let starting = Replica { state: ReplicaState::Starting, ..replica(2) };
    let of_another_release = Replica { deployment: DeploymentId(4), ..replica(2) };
    for (second, why) in
        [(restarted, "restarted 2 times"), (large, "bytes"), (starting, "1 of 2"), (of_another_release, "1 of 2")]
    {
        let report = judge(Some(&probe(500, |_, _| {})), &[replica(1), second], None);
        assert_eq!(failed(&report), ["pod_health"]);
        assert!(report.reason.contains(why), "{}", report.reason);
    }
}

#[test]
fn with_too_few_requests_it_says_how_many_rows_to_replay() {
    let report = judge(None, &[replica(1), replica(2)], None);
    assert_eq!(report.verdict, Verdict::ReplayNeeded { rows: 400 }, "{}", report.reason);
    let strict = VerificationPolicy { error_share_limit: 0.001, ..VerificationPolicy::default() };
    assert_eq!(strict.requests_needed(), 3_838, "to prove one in a thousand takes that many without an error");
    assert!(VerificationPolicy::default().faults().is_empty());
}

#[test]
fn a_clearly_broken_deployment_fails_without_waiting_for_more_requests() {
    let report = judge(Some(&probe(50, |_, a| a.error = Some("no answer".into()))), &[replica(1), replica(2)], None);
    assert_eq!(report.verdict, Verdict::Failed);
    assert!(failed(&report).contains(&"error_share"));
}

/// Answers `POST /predict` with what `respond` makes of how many came before.
async fn service(respond: fn(usize) -> (u16, String)) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut served = 0;
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 8192];
            let read = stream.read(&mut request).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&request[..read]).to_lowercase();
            let fine = head.starts_with("post /predict") && head.contains("x-delayd-probe");
            let (status, body) = if fine { respond(served) } else { (404, String::new()) };
            served += 1;
            let length = body.len();
            let text = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
            let _ = stream.write_all(text.as_bytes()).await;
        }
    });
    format!("http://{address}/")
}

fn rows(count: usize) -> Vec<ProbeRow> {
    let row = |n| ProbeRow { label: format!("{n}"), body: serde_json::json!({"carrier": "B6"}), expected_score: None };
    (0..count).map(row).collect()
}

#[tokio::test]
async fn rows_are_replayed_as_real_requests_and_every_failure_is_told() {
    let url = service(|n| match n {
        0 => (500, "out of order".into()),
        1 => (200, "not json".into()),
        _ => {
            let body = r#"{"model_version":"model_v2","bundle":"sha256:x","threshold":0.4,"predictions":[{"score":0.25,"delayed":false,"warnings":[]}]}"#;
            (200, body.into())
        }
    })
    .await;
    let policy = ProbePolicy { concurrency: 1, warm_up: 1, ..ProbePolicy::default() };
    let result = replay(&url, &rows(5), &policy).await.unwrap();
    assert_eq!((result.answers.len(), result.not_sent), (5, 0));
    assert!(result.answers[0].error.as_deref().unwrap().contains("status 500: out of order"));
    assert!(result.answers[1].error.as_deref().unwrap().contains("not the document"));
    assert_eq!(result.answers[2].score, Some(0.25));
    assert_eq!(result.answers[4].model_version.as_deref(), Some("model_v2"));
    assert!(result.answers[0].warm_up && !result.answers[1].warm_up);
    assert!(result.answers.iter().all(|answer| answer.latency_ms > 0.0));
}

#[tokio::test]
async fn a_service_that_is_not_there_is_a_result_and_a_passed_deadline_sends_nothing() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let result = replay(&url, &rows(3), &ProbePolicy::default()).await.unwrap();
    assert!(result.answers.iter().all(|answer| answer.status.is_none() && answer.error.is_some()));
    let policy = ProbePolicy { deadline_secs: 0, headers: BTreeMap::new(), ..ProbePolicy::default() };
    let result = replay(&url, &rows(3), &policy).await.unwrap();
    assert_eq!((result.answers.len(), result.not_sent), (0, 3));
}
