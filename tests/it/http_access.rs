//! Who may look, who may command.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use delayd_testkit::contracts::flaky_proxy::TestCertificates;
use delayd_testkit::site::{DatalessDaemon, text};
use serde_json::{Value, json};

use crate::http_api::{OPERATOR, VIEWER, client, get, prepared, started};

async fn post(daemon: &DatalessDaemon, path: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    let mut request = client().post(daemon.url(path)).json(&json!({ "by": "alice", "why": "a test" }));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test]
async fn a_viewer_reads_and_an_operator_commands_and_what_they_do_is_recorded() {
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

// ----------------------------------------------------------------
// The endpoint over TLS.

/// A new certificate for 127.0.0.1 of an authority of its own, in `place`; answers the authority's file.
fn issue(place: &std::path::Path, name: &str) -> std::path::PathBuf {
    let new = TestCertificates::new();
    let ca = place.join(format!("{name}.pem"));
    fs::write(&ca, &new.ca_pem).unwrap();
    // One after the other, as tools that renew do.
    fs::write(place.join("tls.crt"), &new.server_pem).unwrap();
    fs::write(place.join("tls.key"), &new.server_key_pem).unwrap();
    ca
}

#[test]
fn the_endpoint_speaks_tls_and_takes_a_renewed_certificate_without_a_restart() {
    let mut daemon = prepared("tls_certificate = \"{place}/tls.crt\"\ntls_key = \"{place}/tls.key\"");
    let first = issue(daemon.place.path(), "first");
    daemon.start();
    let url = format!("https://{}", daemon.address);
    let outcome = |ca: Option<&std::path::Path>| {
        let mut arguments = vec!["--url", url.as_str(), "status"];
        if let Some(path) = ca {
            arguments.extend(["--ca-file", path.to_str().unwrap()]);
        }
        let output = daemon.run(&arguments);
        (output.status.code().unwrap(), text(&output.stderr))
    };
    let (code, told) = outcome(Some(&first));
    assert_eq!(code, 0, "{told}");
    let (code, told) = outcome(None);
    assert!(code == 3 && told.contains("certificate"), "an unknown authority, {code}: {told}");

    // Files' times may be as coarse as a second's part.
    std::thread::sleep(Duration::from_millis(50));
    let second = issue(daemon.place.path(), "second");
    let (code, told) = outcome(Some(&second));
    assert_eq!(code, 0, "{told}");
    assert_eq!(outcome(Some(&first)).0, 3, "the old one is no longer shown");

    // A pair that does not fit leaves what was there.
    fs::write(daemon.place.path().join("tls.key"), "nonsense").unwrap();
    assert_eq!(outcome(Some(&second)).0, 0);
    assert!(fs::read_to_string(daemon.log()).unwrap().contains("keeps its old certificate"));
}

#[test]
fn a_certificate_that_cannot_be_used_keeps_the_daemon_from_starting_and_says_why() {
    let daemon = prepared("tls_certificate = \"{place}/tls.crt\"\ntls_key = \"{place}/tls.key\"");
    let told = |daemon: &DatalessDaemon| {
        let output = daemon.run(&["run"]);
        assert_eq!(output.status.code(), Some(1));
        text(&output.stderr)
    };
    assert!(told(&daemon).contains("http.tls_certificate"), "no file");
    issue(daemon.place.path(), "first");
    let other = TestCertificates::new();
    fs::write(daemon.place.path().join("tls.key"), &other.server_key_pem).unwrap();
    let text = told(&daemon);
    assert!(text.contains("http.tls_key") && text.contains("expected the key of the certificate"), "{text}");
}

// ----------------------------------------------------------------
// Clients that are slow, or hold many connections, keep nobody from the endpoint.

fn connected(address: std::net::SocketAddr, sent: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(sent.as_bytes()).unwrap();
    stream
}

fn until_closed(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset ends it as well.
    let _ = stream.read_to_end(&mut answer);
    text(&answer)
}

fn command(headers: &str) -> String {
    format!(
        "POST /api/v1/pause HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {OPERATOR}\r\n\
         content-type: application/json\r\n{headers}\r\n\r\n{{"
    )
}

#[tokio::test]
async fn four_hundred_slow_bodies_keep_nobody_from_an_answer() {
    let daemon = started("request_burst = 1000\nrequest_deadline_secs = 5");
    let slow: Vec<TcpStream> = (0..400).map(|_| connected(daemon.address, &command("content-length: 100"))).collect();
    for _ in 0..20 {
        let begun = Instant::now();
        assert_eq!(get(&daemon.url("/api/v1/session")).await.0, 200);
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
    for stream in slow {
        let answer = until_closed(stream);
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("application/problem+json") && head.contains("connection: close"), "{answer}");
        assert!(body.contains("within 5 s (http.request_deadline_secs)"), "{answer}");
    }
    let metrics = crate::http_api::client().get(daemon.url("/metrics")).send().await.unwrap().text().await.unwrap();
    let closed = "delayd_http_connections_closed_total{listener=\"network\",reason=\"slow_request\"} 400\n";
    assert!(metrics.contains(closed), "{metrics}");
}

#[test]
fn the_local_socket_has_room_whatever_the_network_does() {
    let daemon = started("connections_per_client = 10\nrequest_deadline_secs = 60");
    // The connection by which the start was noticed is one of the ten until it has gone.
    std::thread::sleep(Duration::from_millis(500));
    let held: Vec<TcpStream> = (0..10).map(|_| connected(daemon.address, "GET / HTTP/1.1\r\n")).collect();
    std::thread::sleep(Duration::from_millis(200));
    let begun = Instant::now();
    assert_eq!(until_closed(TcpStream::connect(daemon.address).unwrap()), "");
    assert!(begun.elapsed() < Duration::from_secs(1), "one too many is closed at once");
    daemon.says(&["status"]);
    drop(held);
}

#[tokio::test]
async fn stalled_handshakes_keep_nobody_from_an_answer() {
    let mut daemon =
        prepared("tls_certificate = \"{place}/tls.crt\"\ntls_key = \"{place}/tls.key\"\nrequest_deadline_secs = 5");
    let certificates = TestCertificates::new();
    std::fs::write(daemon.place.path().join("tls.crt"), &certificates.server_pem).unwrap();
    std::fs::write(daemon.place.path().join("tls.key"), &certificates.server_key_pem).unwrap();
    daemon.start();
    // The first bytes of a TLS record, and no more.
    let stalled: Vec<TcpStream> = (0..300).map(|_| connected(daemon.address, "\u{16}\u{3}\u{1}")).collect();
    std::thread::sleep(Duration::from_millis(200));
    let ca = daemon.place.path().join("ca.pem");
    std::fs::write(&ca, &certificates.ca_pem).unwrap();
    let url = format!("https://{}", daemon.address);
    let begun = Instant::now();
    daemon.says(&["--url", &url, "--ca-file", ca.to_str().unwrap(), "status"]);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    for stream in stalled {
        until_closed(stream);
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn readiness_reports_how_many_replicas_clients_reach() {
    let daemon = started("");
    let (status, body) = get(&daemon.url("/readyz")).await;
    assert_eq!((status, &body["ready"]), (200, &true.into()));
    assert_eq!(body["service"], serde_json::json!({ "replicas": 0, "ready": 0 }));
}
