//! The event stream.

use std::time::Duration;

use futures::StreamExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Response;
use serde_json::Value;

use super::{DEADLINE, client, started};

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
async fn what_happens_is_told_as_it_happens_and_can_be_told_again() {
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
    kill(Pid::from_raw(i32::try_from(running.child.id()).unwrap()), Signal::SIGTERM).unwrap();
    let end = async { while stream.next().await.is_some_and(|piece| piece.is_ok()) {} };
    tokio::time::timeout(Duration::from_secs(20), end).await.expect("the stream goes on");
    let status = super::site::ended(&mut running.child, DEADLINE).unwrap();
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
