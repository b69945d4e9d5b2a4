//! Lists, single records, and how the API refuses.

use chrono::{DateTime, Utc};
use delayd_core::ports::Severity;
use delayd_ledger::NewAlert;

use super::{client, get, prepared, started};

fn moment() -> DateTime<Utc> {
    "2013-03-01T12:00:00Z".parse().unwrap()
}

#[tokio::test]
async fn lists_are_paged_and_tell_where_they_end() {
    let mut daemon = prepared("");
    let ledger = daemon.ledger();
    for number in 0..5 {
        let alert = NewAlert {
            at: moment(),
            severity: Severity::Info,
            dedup_key: format!("test/{number}"),
            title: format!("number {number}"),
            body: String::new(),
        };
        ledger.enqueue_alert(alert).await.unwrap();
    }
    drop(ledger);
    daemon.start();
    let mut seen = Vec::new();
    let mut next = Some(0);
    while let Some(offset) = next {
        let (status, page) = get(&daemon.url(&format!("/api/v1/alerts?limit=2&offset={offset}"))).await;
        assert_eq!(status, 200, "{page}");
        seen.extend(page["items"].as_array().unwrap().iter().map(|item| item["alert"]["title"].clone()));
        next = page["next_offset"].as_u64();
    }
    assert_eq!(seen, ["number 4", "number 3", "number 2", "number 1", "number 0"]);
    for list in [
        "objects",
        "datasets",
        "datasets/refused",
        "runs",
        "models",
        "aliases",
        "images",
        "deployments",
        "verifications",
    ] {
        let (status, page) = get(&daemon.url(&format!("/api/v1/{list}"))).await;
        assert_eq!((status, page), (200, serde_json::json!({ "items": [], "next_offset": null })), "{list}");
    }
}

#[tokio::test]
async fn what_cannot_be_answered_is_told_as_a_problem_with_the_requests_name() {
    let daemon = started("loopback_role = \"operator\"");
    let cases = [
        ("GET", "/api/v1/cycles/cycle_9", 404, "cycle_9 is not in the ledger"),
        ("GET", "/api/v1/cycles/nonsense", 422, "name like `cycle_1`"),
        ("GET", "/api/v1/cycles?limit=0", 422, "limit is 0; expected 1 to 1000"),
        ("GET", "/api/v1/cycles?limit=many", 422, "the query"),
        ("GET", "/api/v1/cycles?pages=3", 422, "unknown field `pages`"),
        ("GET", "/api/v1/objects?status=lost", 422, "unknown variant `lost`"),
        ("GET", "/api/v1/monitoring?days=0", 422, "days is 0"),
        ("GET", "/api/v1/datasets/sha256:12", 422, "64 hex digits"),
        ("GET", "/api/v1/nothing", 404, "openapi.json"),
        ("GET", "/nothing", 404, "openapi.json"),
        ("POST", "/api/v1/approve", 409, "no release is waiting for approval"),
        ("POST", "/api/v1/cancel", 409, "no cycle is under way"),
        ("POST", "/api/v1/resume", 409, "nothing to resume"),
        ("DELETE", "/api/v1/silences/silence_9", 404, "silence_9"),
    ];
    for (method, path, status, detail) in cases {
        let request = client().request(method.parse().unwrap(), daemon.url(path)).header("x-request-id", "my-own.name");
        let answer = request.send().await.unwrap();
        let headers = answer.headers().clone();
        assert_eq!(answer.status().as_u16(), status, "{method} {path}");
        assert_eq!(headers["content-type"], "application/problem+json", "{method} {path}");
        assert_eq!(headers["x-request-id"], "my-own.name");
        let problem: serde_json::Value = answer.json().await.unwrap();
        assert_eq!((&problem["status"], &problem["request_id"]), (&status.into(), &"my-own.name".into()), "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(detail), "{method} {path}: {problem}");
    }
    let answer = client().post(daemon.url("/api/v1/status")).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 405);
    // A name that could break a log line is not taken over.
    let answer = client().get(daemon.url("/healthz")).header("x-request-id", "a b").send().await.unwrap();
    assert_ne!(answer.headers()["x-request-id"], "a b");
}

#[tokio::test]
async fn bodies_that_are_not_what_they_should_be_are_refused() {
    let daemon = started("loopback_role = \"operator\"");
    let long = format!("{{\"why\": \"{}\"}}", "x".repeat(3000));
    let huge = format!("{{\"why\": \"{}\"}}", "x".repeat(100_000));
    let cases = [
        ("/api/v1/pause", "application/json", "{", 400),
        ("/api/v1/pause", "application/json", "{\"whom\": \"\"}", 422),
        ("/api/v1/pause", "application/json", long.as_str(), 422),
        ("/api/v1/pause", "application/json", huge.as_str(), 413),
        ("/api/v1/silences", "application/json", "{\"prefix\": \" \", \"for_secs\": 60}", 422),
        ("/api/v1/silences", "application/json", "{\"prefix\": \"drift/\", \"for_secs\": 0}", 422),
        ("/api/v1/silences", "application/json", "{\"prefix\": \"drift/\"}", 422),
        ("/api/v1/silences", "text/plain", "{\"prefix\": \"drift/\", \"for_secs\": 60}", 415),
    ];
    for (path, kind, body, status) in cases {
        let request = client().post(daemon.url(path)).header("content-type", kind).body(body.to_owned());
        let answer = request.send().await.unwrap();
        let (found, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        let excerpt: String = body.chars().take(60).collect();
        assert_eq!(found, status, "{path} {kind} {excerpt}: {text}");
    }
    assert_eq!(get(&daemon.url("/api/v1/audit")).await.1["items"], serde_json::json!([]), "nothing was done");
}

#[tokio::test]
async fn an_unchanged_answer_is_not_sent_again() {
    let daemon = started("");
    let url = daemon.url("/api/v1/models");
    let first = client().get(&url).send().await.unwrap();
    let tag = first.headers()["etag"].clone();
    let second = client().get(&url).header("if-none-match", &tag).send().await.unwrap();
    assert_eq!((second.status().as_u16(), &second.headers()["etag"]), (304, &tag));
    assert_eq!(second.bytes().await.unwrap().len(), 0);
    let other = client().get(&url).header("if-none-match", "\"something-else\"").send().await.unwrap();
    assert_eq!(other.status().as_u16(), 200);
}

#[tokio::test]
async fn the_document_describes_what_the_daemon_answers() {
    let daemon = started("");
    let (status, document) = get(&daemon.url("/api/v1/openapi.json")).await;
    assert_eq!(status, 200);
    for (path, item) in document["paths"].as_object().unwrap() {
        // What takes an id is asked with one that is not there: it must be known, not nothing.
        let asked = path.replace("{version}", "model_v999").replace("{command}", "pause").replace("{id}", "cycle_999");
        if item.get("get").is_none() || path == "/api/v1/events" || path == "/api/v1/config" {
            continue;
        }
        let (status, body) = get(&daemon.url(&asked)).await;
        assert!(matches!(status, 200 | 404 | 422), "{asked}: {status} {body}");
        let nothing = body["detail"].as_str().is_some_and(|detail| detail.contains("there is nothing at"));
        assert!(!nothing, "{asked} is described and is not there");
    }
}
