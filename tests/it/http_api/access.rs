//! Who may look, who may command.

use std::net::{IpAddr, UdpSocket};

use serde_json::{Value, json};

use super::{DatalessDaemon, OPERATOR, VIEWER, client, get, prepared, started};

async fn post(daemon: &DatalessDaemon, path: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    let mut request = client().post(daemon.url(path)).json(&json!({ "by": "alice", "why": "a test" }));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test]
async fn a_viewer_looks_and_an_operator_commands_and_what_they_do_is_noted() {
    let daemon = started("");
    assert_eq!(get(&daemon.url("/api/v1/session")).await.1["role"], "viewer");
    let (status, problem) = post(&daemon, "/api/v1/pause", &[]).await;
    assert_eq!(status, 403, "{problem}");
    let bearer = |token: &str| format!("Bearer {token}");
    let (status, problem) = post(&daemon, "/api/v1/pause", &[("authorization", &bearer(VIEWER))]).await;
    assert_eq!(status, 403);
    assert!(problem["detail"].as_str().unwrap().contains("wallboard is a viewer"), "{problem}");
    let (status, problem) = post(&daemon, "/api/v1/pause", &[("authorization", "Bearer wrong")]).await;
    assert_eq!(status, 401, "{problem}");
    assert_eq!(get(&daemon.url("/api/v1/status")).await.1["paused"], Value::Null);

    let (status, answer) = post(&daemon, "/api/v1/pause", &[("authorization", &bearer(OPERATOR))]).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(get(&daemon.url("/api/v1/status")).await.1["paused"]["reason"], "a test");
    let audit = get(&daemon.url("/api/v1/audit")).await.1;
    let deeds: Vec<(&str, &str, &str)> = audit["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|deed| {
            let of = |key: &str| deed[key].as_str().unwrap();
            (of("actor"), of("action"), of("detail"))
        })
        .collect();
    assert_eq!(deeds, [("oncall for alice", "pause", "a test")]);
}

#[tokio::test]
async fn a_page_of_another_site_can_neither_look_nor_command() {
    let daemon = started("loopback_role = \"operator\"");
    let (status, _) = post(&daemon, "/api/v1/pause", &[("origin", "https://evil.example")]).await;
    assert_eq!(status, 403);
    let (status, _) = post(&daemon, "/api/v1/pause", &[("sec-fetch-site", "cross-site")]).await;
    assert_eq!(status, 403);
    // A name of the other site that was made to lead here.
    let rebound = client().get(daemon.url("/api/v1/status")).header("host", "evil.example").send().await.unwrap();
    assert_eq!(rebound.status().as_u16(), 421);
    let (status, _) = post(&daemon, "/api/v1/pause", &[("origin", &daemon.url(""))]).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn from_elsewhere_a_token_is_needed_for_all_but_health_and_metrics() {
    let Some(address) = address_of_this_machine() else {
        eprintln!("SKIPPED: this machine has no address but loopback");
        return;
    };
    let mut daemon = prepared("");
    let config = daemon.place.path().join("delayd.toml");
    let port = daemon.address.port();
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("127.0.0.1", "0.0.0.0")).unwrap();
    daemon.start();
    let url = |path: &str| format!("http://{address}:{port}{path}");
    for path in ["/healthz", "/readyz", "/metrics"] {
        let answer = client().get(url(path)).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{path}");
    }
    for path in ["/api/v1/status", "/api/v1/events", "/api/v1/openapi.json", "/api/v1/nothing"] {
        let answer = client().get(url(path)).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 401, "{path}");
        assert!(answer.headers()["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
    }
    let answer = client().get(url("/api/v1/status")).bearer_auth(VIEWER).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
}

/// The address by which this machine would reach others; nothing is sent.
fn address_of_this_machine() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[tokio::test]
async fn the_configuration_is_shown_to_operators_only_and_without_its_secrets() {
    let daemon = started("");
    let ask = |token: &'static str| client().get(daemon.url("/api/v1/config")).bearer_auth(token).send();
    assert_eq!(ask(VIEWER).await.unwrap().status().as_u16(), 403);
    let answer = ask(OPERATOR).await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    let text = answer.text().await.unwrap();
    assert!(text.contains("oncall") && text.contains("***"), "{text}");
    assert!(!text.contains(OPERATOR) && !text.contains(VIEWER), "{text}");
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_come_again() {
    let daemon = started("requests_per_second = 1\nrequest_burst = 5");
    let client = client();
    let mut statuses = Vec::new();
    let mut retry_after = None;
    for _ in 0..8 {
        let answer = client.get(daemon.url("/api/v1/session")).send().await.unwrap();
        retry_after = answer.headers().get("retry-after").cloned().or(retry_after);
        statuses.push(answer.status().as_u16());
    }
    assert_eq!((statuses[0], statuses[7]), (200, 429), "{statuses:?}");
    assert_eq!(retry_after.unwrap(), "1");
    // Others are not made to wait for it, and neither is the probe of the service manager.
    let other = client.get(daemon.url("/api/v1/session")).bearer_auth(VIEWER).send().await.unwrap();
    assert_eq!(other.status().as_u16(), 200);
    assert_eq!(get(&daemon.url("/healthz")).await.0, 200);
}
