//! The status endpoint as programs and administrators meet it: a running daemon,
//! asked over TCP, TLS and its local socket.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use chrono::{DateTime, Utc};
use delayd_core::ports::Severity;
use delayd_testkit::records;
use delayd_testkit::site::{DatalessDaemon, Needs, Running, Site, needs, text};
use delayd_testkit::tools::free_address;
use futures::StreamExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::{Client, Response};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(60);
pub const OPERATOR: &str = "operators-token-of-forty-characters-or-so";
pub const VIEWER: &str = "viewers-token-that-is-quite-as-long-as-that";

/// A daemon that knows two tokens; `http` are more keys of `[http]`.
pub fn prepared(http: &str) -> DatalessDaemon {
    let tokens = format!(
        "[[http.tokens]]\nname = \"oncall\"\nrole = \"operator\"\ntoken = \"{OPERATOR}\"\n\
         [[http.tokens]]\nname = \"wallboard\"\nrole = \"viewer\"\ntoken = \"{VIEWER}\"\n"
    );
    DatalessDaemon::new(http, &tokens)
}

pub fn started(http: &str) -> DatalessDaemon {
    let mut daemon = prepared(http);
    daemon.start();
    daemon
}

pub fn client() -> Client {
    delayd_core::http_client::client_builder().no_proxy().timeout(DEADLINE).build().unwrap()
}

/// Status and body of a GET.
pub async fn get(url: &str) -> (u16, Value) {
    let answer = client().get(url).send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap_or(Value::Null))
}

// ----------------------------------------------------------------
// Lists, single records, and how the API refuses.

fn moment() -> DateTime<Utc> {
    "2013-03-01T12:00:00Z".parse().unwrap()
}

#[tokio::test]
async fn lists_are_paged_and_tell_where_they_end() {
    let mut daemon = prepared("");
    let ledger = daemon.ledger();
    for number in 0..5 {
        let alert = records::alert(&format!("number {number}"), Severity::Info, moment());
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
    assert_eq!(seen, [4, 3, 2, 1, 0].map(|number| format!("title of number {number}")));
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
async fn what_cannot_be_answered_is_reported_as_a_problem_with_the_requests_name() {
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

// ----------------------------------------------------------------
// The API against its own OpenAPI document: schemathesis asks whatever the document
// allows, and what it forbids, and checks every answer.

/// What is checked of every answer. What a question holds beside the document's forms may be ignored.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";

/// schemathesis, where `scripts/setup/python_tools` installed it.
fn schemathesis() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))?;
    let program = cache.join("delayd/schemathesis/bin/schemathesis");
    program.is_file().then_some(program)
}

/// A daemon whose loop has gone round once, so that there is a record of every sort, and its address.
fn with_records(needs: &Needs) -> (Site, Running, String) {
    let site = Site::with_history(needs);
    let address = free_address();
    let text = std::fs::read_to_string(site.config()).unwrap();
    let http = format!("listen = \"{address}\"\nrequests_per_second = 100000\nrequest_burst = 100000");
    std::fs::write(site.config(), text.replace("listen = \"127.0.0.1:0\"", &http)).unwrap();
    let mut running = site.start();
    site.wait_for_the_cycle(&mut running);
    (site, running, format!("http://{address}"))
}

#[test]
fn no_question_makes_the_server_fail_and_no_answer_is_undocumented() {
    let Some(program) = schemathesis() else {
        eprintln!("SKIPPED: schemathesis is missing (`scripts/setup/python_tools`)");
        return;
    };
    let Some(needs) = needs("the API against its document") else { return };
    let (site, _running, url) = with_records(&needs);
    let output = Command::new(program)
        .current_dir(site.place.path())
        .args(["run", &format!("{url}/api/v1/openapi.json"), "--url", &url])
        .args(["--max-examples", "15", "--seed", "1", "--no-color", "--continue-on-failure", "--warnings", "off"])
        // An event stream never ends; its own tests read it.
        .args(["--exclude-path", "/api/v1/events"])
        .args(["--phases", "examples,coverage,fuzzing"])
        .args(["--checks", CHECKS])
        .env("HYPOTHESIS_STORAGE_DIRECTORY", site.place.path().join("hypothesis"))
        .output()
        .unwrap();
    let told = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{told}");
    assert!(told.contains("Tested: 3"), "nothing was asked: {told}");
}

// ----------------------------------------------------------------
// The event stream.

/// The next events of a stream, until one of this kind.
async fn until(answer: Response, kind: &str) -> Vec<Value> {
    let mut stream = answer.bytes_stream();
    let mut text = String::new();
    let look = async {
        loop {
            let events: Vec<Value> = text
                .lines()
                .filter_map(|line| line.strip_prefix("data: "))
                .filter_map(|data| serde_json::from_str(data).ok())
                .collect();
            if events.last().is_some_and(|event| event["kind"] == kind) {
                return events;
            }
            text.push_str(std::str::from_utf8(&stream.next().await.expect("the stream ended").unwrap()).unwrap());
        }
    };
    tokio::time::timeout(DEADLINE, look).await.expect("no such event came")
}

#[tokio::test]
async fn what_happens_is_streamed_as_it_happens_and_can_be_streamed_again() {
    let daemon = started("");
    let open = |last: Option<u64>| {
        let request = client().get(daemon.url("/api/v1/events"));
        let request = match last {
            Some(id) => request.header("last-event-id", id.to_string()),
            None => request,
        };
        async move { request.send().await.unwrap() }
    };
    let live = open(None).await;
    assert_eq!(live.headers()["content-type"], "text/event-stream");
    daemon.says(&["pause", "--why", "looking"]);
    let events = until(live, "audit").await;
    let event = events.last().unwrap();
    assert_eq!((&event["subject"], &event["state"]), (&"audit_1".into(), &"pause".into()), "{events:?}");
    let id = event["id"].as_u64().unwrap();

    daemon.says(&["resume"]);
    let again = until(open(Some(id - 1)).await, "audit").await;
    assert_eq!(again[0]["id"].as_u64(), Some(id), "the one after the last that was seen comes first");
    let rest = until(open(Some(id)).await, "audit").await;
    assert_eq!(rest.last().unwrap()["state"], "resume");
    // A number of another ledger waits for nothing that will not come.
    let beyond = open(Some(id + 1_000_000)).await;
    daemon.says(&["pause"]);
    assert_eq!(until(beyond, "audit").await.last().unwrap()["state"], "pause");
}

#[tokio::test]
async fn a_daemon_that_stops_ends_its_streams_and_does_not_wait_for_them() {
    let mut daemon = started("");
    let mut stream = client().get(daemon.url("/api/v1/events")).send().await.unwrap().bytes_stream();
    assert!(stream.next().await.is_some());
    let running = daemon.running.as_mut().unwrap();
    let began = std::time::Instant::now();
    running.signal(Signal::SIGTERM);
    let end = async { while stream.next().await.is_some_and(|piece| piece.is_ok()) {} };
    tokio::time::timeout(Duration::from_secs(20), end).await.expect("the stream goes on");
    let status = running.end();
    assert!(status.success(), "{status} after {:?}", began.elapsed());
    assert!(!daemon.state().join("delayd.sock").exists(), "the socket goes with the daemon");
}

#[tokio::test]
async fn the_command_prints_a_line_for_each_event() {
    let daemon = started("");
    daemon.says(&["pause", "--why", "first"]);
    let mut command = daemon.command(&["events", "--after", "0", "--json"]);
    let mut follower = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let out = std::io::BufReader::new(follower.stdout.take().unwrap());
    let mut lines = std::io::BufRead::lines(out);
    let found = tokio::task::spawn_blocking(move || lines.find(|line| line.as_ref().unwrap().contains("audit_1")));
    let line = tokio::time::timeout(DEADLINE, found).await.unwrap().unwrap().unwrap().unwrap();
    kill(Pid::from_raw(i32::try_from(follower.id()).unwrap()), Signal::SIGINT).unwrap();
    assert!(follower.wait().unwrap().success());
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["state"], "pause");
}
