//! Verdicts on deployments, and the replay of rows over HTTP.

use std::collections::BTreeMap;
use std::iter::repeat;

use chrono::{DateTime, Duration, Utc};
use delayd_core::error::ErrorKind;
use delayd_core::ids::{DeploymentId, Digest, ModelVersion};
use delayd_core::ports::{Replica, ReplicaState};
use delayd_judge::monitoring::window::WindowBook;
use delayd_judge::verification::measurement::{Measurement, MeasurementSource, ProbeAnswer, ProbeResult};
use delayd_judge::verification::{
    CheckOutcome, Verdict, VerificationInputs, VerificationPolicy, VerificationReport, verify,
};
use delayd_model::admin::{LatencyHistogram, ReplicaPhase, ReplicaReport, RequestCounts};
use delayd_model::{DriftReference, Sketch};
use delayd_outside::service::{ProbePolicy, ProbeRow, replay};
use delayd_outside::service::{ScrapePolicy, Scraper};
use delayd_testkit::records;
use delayd_testkit::tools::{free_address, http_answer, serving};

fn bundle() -> Digest {
    Digest::of(b"the bundle")
}

fn reference() -> DriftReference {
    DriftReference { rows: 20_000, score_counts: vec![1_000; 20], ..DriftReference::default() }
}

fn replica(n: u32) -> Replica {
    Replica {
        model: ModelVersion(2),
        deployment: DeploymentId(5),
        memory_bytes: Some(20_000_000),
        ..records::replica(&format!("replica-{n}"))
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
        (|n, a| a.score = if n == 3 { Some(f32::NAN) } else { a.score }, "prediction_distribution", "not between 0"),
        (
            |n, a| a.model_version = Some(format!("model_v{}", 2 - u8::from(n == 3))),
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
    let probe = probe(500, |n, a| a.expected_score = if n == 7 { Some(0.99) } else { a.expected_score });
    let report = judge(Some(&probe), &[replica(1), replica(2)], None);
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

fn rows(count: usize) -> Vec<ProbeRow> {
    let row = |n| ProbeRow { label: format!("{n}"), body: serde_json::json!({"carrier": "B6"}), expected_score: None };
    (0..count).map(row).collect()
}

#[tokio::test]
async fn rows_are_replayed_as_real_requests_and_every_failure_is_reported() {
    let scored = r#"{"model_version":"model_v2","bundle":"sha256:x","threshold":0.4,"predictions":[{"score":0.25,"delayed":false,"warnings":[]}]}"#;
    let answers = [("500 X", "out of order"), ("200 OK", "not json")].into_iter().chain(repeat(("200 OK", scored)));
    let mut answers = answers.map(|(status, body)| http_answer(status, body));
    let url = serving(move |head| {
        let head = head.to_lowercase();
        let fine = head.starts_with("post /predict") && head.contains("x-delayd-probe");
        if fine { answers.next() } else { Some(http_answer("404 X", "")) }
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
    let url = format!("http://{}", free_address());
    let result = replay(&url, &rows(3), &ProbePolicy::default()).await.unwrap();
    assert!(result.answers.iter().all(|answer| answer.status.is_none() && answer.error.is_some()));
    let policy = ProbePolicy { deadline_secs: 0, headers: BTreeMap::new(), ..ProbePolicy::default() };
    let result = replay(&url, &rows(3), &policy).await.unwrap();
    assert_eq!((result.answers.len(), result.not_sent), (0, 3));
}

// ----------------------------------------------------------------
// From replicas' reports to windows, and the fetching of reports over HTTP.

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn report(replica: &str, model: &str, started: DateTime<Utc>, reported: DateTime<Utc>, rows: u64) -> ReplicaReport {
    let mut latency = LatencyHistogram::default();
    (0..rows).for_each(|_| latency.observe(0.001));
    ReplicaReport {
        replica: replica.into(),
        model_version: model.into(),
        bundle: format!("sha256:{model}"),
        feature_hash: "f".into(),
        phase: ReplicaPhase::Ready,
        started_at: started,
        reported_at: reported,
        requests: RequestCounts { ok: rows, client_errors: 0, server_errors: 0 },
        in_flight: 0,
        latency,
        sketch: Sketch {
            layout: format!("layout of {model}"),
            rows,
            numerics: vec![vec![rows, 0]],
            categories: vec![],
            scores: vec![0, rows],
        },
        unknown_categories: BTreeMap::new(),
        last_sequence: rows,
        memory_bytes: None,
    }
}

const MODEL: &str = "model_v1";

#[test]
fn counts_since_the_start_become_days_and_a_restarted_replica_begins_again_at_zero() {
    let mut book = WindowBook::new(300);
    let start = at("2013-03-01T05:00:00Z");
    let hours = |n: i64| start + Duration::hours(n);
    book.absorb(&report("a", MODEL, start, hours(12), 100)).unwrap();
    book.absorb(&report("b", MODEL, start, hours(12), 50)).unwrap();
    let second = book.absorb(&report("a", MODEL, start, hours(13), 130)).unwrap();
    assert_eq!((second.rows, second.from_zero), (30, false));
    let again = book.absorb(&report("a", MODEL, start, hours(13), 130)).unwrap();
    assert_eq!(again.rows, 0, "the same report again adds nothing");
    let late = book.absorb(&report("a", MODEL, start, hours(12), 100)).unwrap();
    assert_eq!(late.rows, 0, "an answer that was overtaken adds nothing");
    let restarted = book.absorb(&report("a", MODEL, hours(25), hours(26), 7)).unwrap();
    assert_eq!((restarted.rows, restarted.from_zero), (7, true));
    let window = book.drift_window(MODEL, hours(48), 14).unwrap().unwrap();
    assert_eq!((window.sketch.rows, window.days.len()), (187, 2));
    assert_eq!(window.days[0].rows, 180);
    assert_eq!(book.requests(MODEL, start, hours(48)).ok, 187);
}

#[test]
fn the_day_under_way_is_left_out_and_a_nights_departures_stay_with_their_day() {
    let mut book = WindowBook::new(300);
    let start = at("2013-03-01T05:00:00Z");
    book.absorb(&report("a", MODEL, start, at("2013-03-02T04:00:00Z"), 10)).unwrap();
    assert_eq!(book.drift_window(MODEL, at("2013-03-02T04:30:00Z"), 14).unwrap(), None);
    let window = book.drift_window(MODEL, at("2013-03-02T05:30:00Z"), 14).unwrap().unwrap();
    assert_eq!((window.sketch.rows, window.ended_at), (10, at("2013-03-02T05:00:00Z")));
}

#[test]
fn models_are_kept_apart_and_a_report_in_other_bins_changes_nothing() {
    let mut book = WindowBook::new(0);
    let start = at("2013-03-01T00:00:00Z");
    let noon = at("2013-03-01T12:00:00Z");
    book.absorb(&report("a", "model_v1", start, noon, 10)).unwrap();
    book.absorb(&report("b", "model_v2", start, noon, 3)).unwrap();
    let mut foreign = report("c", "model_v1", start, noon, 5);
    foreign.sketch.layout = "of somebody else".into();
    let before = book.clone();
    let error = book.absorb(&foreign).unwrap_err();
    assert!(error.to_string().contains("replica c (model_v1)"), "{error}");
    assert_eq!(book, before);
    let rows = |model: &str| book.drift_window(model, noon + Duration::days(1), 7).unwrap().unwrap().sketch.rows;
    assert_eq!((rows("model_v1"), rows("model_v2")), (10, 3));
    let hour = book.traffic(at("2013-03-01T06:00:00Z"));
    assert_eq!(hour, 13, "traffic is of all models");
}

#[test]
fn the_book_survives_json_and_forgets_on_request() {
    let mut book = WindowBook::new(300);
    let start = at("2013-03-01T05:00:00Z");
    book.absorb(&report("a", MODEL, start, start + Duration::hours(5), 10)).unwrap();
    let stored = serde_json::to_string(&book).unwrap();
    let mut restored: WindowBook = serde_json::from_str(&stored).unwrap();
    assert_eq!(restored, book);
    let latency = restored.latency_by_replica(MODEL, start + Duration::hours(6), 1).unwrap();
    assert_eq!((latency.len(), latency[0].1.count()), (1, 10));
    restored.forget_before("2013-03-05".parse().unwrap());
    assert_eq!(restored, WindowBook::new(300));
}

/// A server that gives every connection the same answer.
async fn server(status: &str, body: &str) -> String {
    let answer = http_answer(status, body);
    serving(move |_| Some(answer.clone())).await
}

fn replica_at(name: &str, admin_url: String) -> Replica {
    Replica { admin_url, ..records::replica(name) }
}

#[tokio::test]
async fn one_dead_replica_does_not_hide_the_others() {
    let start = at("2013-03-01T00:00:00Z");
    let body = |name: &str| serde_json::to_string(&report(name, MODEL, start, start, 4)).unwrap();
    let closed = format!("http://{}", free_address());
    let replicas = [
        replica_at("fine", server("200 OK", &body("fine")).await),
        replica_at("hangs", serving(|_| None).await),
        replica_at("gone", closed),
        replica_at("broken", server("200 OK", "{\"replica\":").await),
        replica_at("sick", server("503 Service Unavailable", "").await),
        replica_at("usurped", server("200 OK", &body("other")).await),
        replica_at("large", server("200 OK", &" ".repeat(200_000)).await),
    ];
    let policy = ScrapePolicy { timeout_ms: 500, maximum_bytes: 100_000, ..ScrapePolicy::default() };
    let scraped = Scraper::new(policy).unwrap().reports(&replicas).await;
    let names: Vec<&str> = scraped.answers.iter().map(|report| report.replica.as_str()).collect();
    assert_eq!(names, ["fine"]);
    let failures: Vec<(&str, ErrorKind)> =
        scraped.failures.iter().map(|failure| (failure.replica.as_str(), failure.kind)).collect();
    let expected = [
        ("hangs", ErrorKind::Timeout),
        ("gone", ErrorKind::Unavailable),
        ("broken", ErrorKind::Corrupt),
        ("sick", ErrorKind::Unavailable),
        ("usurped", ErrorKind::Conflict),
        ("large", ErrorKind::Exhausted),
    ];
    assert_eq!(failures, expected);
}

#[tokio::test]
async fn predictions_are_fetched_by_page() {
    let page = r#"{"replica":"a","started_at":"2013-03-01T00:00:00Z","phase":"ready","predictions":[],"next_after":7,"lost":0,"more":false}"#;
    let replica = replica_at("a", server("200 OK", page).await);
    let scraped = Scraper::new(ScrapePolicy::default()).unwrap().predictions(&[(replica, 5)]).await;
    assert_eq!(scraped.answers[0].next_after, 7);
    assert!(scraped.failures.is_empty());
}
