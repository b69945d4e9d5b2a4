//! From replicas' reports to windows, and the fetching of reports over HTTP.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "helpers are shared by inclusion")]

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};
use delayd_core::error::ErrorKind;
use delayd_core::ids::{DeploymentId, ModelVersion};
use delayd_core::ports::{Replica, ReplicaState};
use delayd_judge::monitoring::window::WindowBook;
use delayd_model::Sketch;
use delayd_model::admin::{LatencyHistogram, ReplicaPhase, ReplicaReport, RequestCounts};
use delayd_outside::service::{ScrapePolicy, Scraper};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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

/// A server that gives every connection the same answer; `None` never answers.
async fn server(answer: Option<String>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            match &answer {
                Some(answer) => {
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
                None => held.push(stream),
            }
        }
    });
    format!("http://{address}")
}

fn http(status: &str, body: &str) -> Option<String> {
    let length = body.len();
    Some(format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"))
}

fn replica(name: &str, admin_url: String) -> Replica {
    Replica {
        name: name.into(),
        model: ModelVersion(1),
        deployment: DeploymentId(1),
        state: ReplicaState::Ready,
        admin_url,
        restarts: 0,
        memory_bytes: None,
        reason: None,
    }
}

#[tokio::test]
async fn one_dead_replica_does_not_hide_the_others() {
    let start = at("2013-03-01T00:00:00Z");
    let body = |name: &str| serde_json::to_string(&report(name, MODEL, start, start, 4)).unwrap();
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let replicas = [
        replica("fine", server(http("200 OK", &body("fine"))).await),
        replica("hangs", server(None).await),
        replica("gone", closed),
        replica("broken", server(http("200 OK", "{\"replica\":")).await),
        replica("sick", server(http("503 Service Unavailable", "")).await),
        replica("usurped", server(http("200 OK", &body("other"))).await),
        replica("large", server(http("200 OK", &" ".repeat(200_000))).await),
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
    let replica = replica("a", server(http("200 OK", page)).await);
    let scraped = Scraper::new(ScrapePolicy::default()).unwrap().predictions(&[(replica, 5)]).await;
    assert_eq!(scraped.answers[0].next_after, 7);
    assert!(scraped.failures.is_empty());
}
