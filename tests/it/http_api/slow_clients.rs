//! Clients that are slow, or hold many connections, keep nobody from the endpoint.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::contracts::flaky_proxy::TestCertificates;
use super::{OPERATOR, get, prepared, started, text};

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
    let metrics = super::client().get(daemon.url("/metrics")).send().await.unwrap().text().await.unwrap();
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
async fn readiness_tells_how_many_replicas_clients_reach() {
    let daemon = started("");
    let (status, body) = get(&daemon.url("/readyz")).await;
    assert_eq!((status, &body["ready"]), (200, &true.into()));
    assert_eq!(body["service"], serde_json::json!({ "replicas": 0, "ready": 0 }));
}
