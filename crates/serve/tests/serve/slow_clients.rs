//! Clients that send or read slowly, or hold many connections, silence nobody else.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{bundle, flights};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A replica in a process of its own, whose limits of open files are not ours.
struct Replica {
    child: Child,
    public: String,
    admin: String,
    _folder: TempDir,
}

impl Replica {
    /// `soft_limit` is the soft limit of open files that it is started with.
    fn start(soft_limit: u32, more: &[&str]) -> Self {
        let (folder, dir) = bundle(1);
        let port_file = folder.path().join("admin");
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let public = format!("127.0.0.1:{port}");
        let mut command = Command::new("sh");
        // `exec`, so that the child is the replica itself.
        command.args(["-c", &format!("ulimit -S -n {soft_limit} && exec \"$@\"")]).arg0("sh").arg("sh");
        command.arg(env!("CARGO_BIN_EXE_delayd-serve"));
        command.args(["--bundle", dir.to_str().unwrap(), "--listen", &public, "--workers", "2"]);
        command.args(["--admin-listen", "127.0.0.1:0", "--admin-port-file", port_file.to_str().unwrap()]);
        let child = command.args(more).stderr(Stdio::null()).spawn().unwrap();
        let begun = Instant::now();
        let admin = loop {
            if let Ok(address) = std::fs::read_to_string(&port_file) {
                break address.trim().to_owned();
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "the replica does not become ready");
            std::thread::sleep(Duration::from_millis(5));
        };
        Self { child, public, admin, _folder: folder }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.public).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// A connection on which this was sent.
    fn sent(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        stream
    }

    /// Status and time of one ordinary request, on a connection of its own.
    fn predict(&self) -> (u16, Duration) {
        let body = json!(flights(3, 2)).to_string();
        let begun = Instant::now();
        let head = post_head(&format!("content-length: {}\r\nconnection: close", body.len()));
        let answer = until_closed(self.sent(format!("{head}{body}").as_bytes()));
        (status_of(&answer), begun.elapsed())
    }

    /// A value of the administrative `/metrics`.
    fn metric(&self, name: &str) -> f64 {
        let mut stream = TcpStream::connect(&self.admin).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let text = until_closed(stream);
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        line.trim().parse().unwrap()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn post_head(headers: &str) -> String {
    format!("POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{headers}\r\n\r\n")
}

fn slow_body() -> Vec<u8> {
    format!("{}[", post_head("content-length: 1000")).into_bytes()
}

fn until_closed(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    match stream.read_to_end(&mut text) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}: {}", String::from_utf8_lossy(&text)),
    }
    String::from_utf8(text).unwrap()
}

fn status_of(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no status: {answer:?}"))
}

fn body_of(answer: &str) -> Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

/// Sends `piece` again and again until the connection ends; what was answered, and after how long.
fn drip(mut stream: TcpStream, piece: &[u8]) -> (String, Duration) {
    let begun = Instant::now();
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while begun.elapsed() < Duration::from_secs(20) {
        let _ = stream.write_all(piece);
        match stream.read(&mut buffer) {
            Ok(0) => return (String::from_utf8(answer).unwrap(), begun.elapsed()),
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return (String::from_utf8(answer).unwrap(), begun.elapsed()),
        }
    }
    panic!("the connection is still open: {}", String::from_utf8_lossy(&answer));
}

#[test]
fn four_hundred_slow_bodies_keep_nobody_from_an_answer() {
    // 200 files are fewer than the attack needs, as a system's default may be.
    let replica = Replica::start(200, &["--request-deadline-secs", "5"]);
    let slow: Vec<TcpStream> = (0..400).map(|_| replica.sent(&slow_body())).collect();
    std::thread::sleep(Duration::from_millis(200));
    for _ in 0..20 {
        let (status, took) = replica.predict();
        assert_eq!(status, 200);
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
    assert!(replica.metric("delayd_serve_connections ") >= 400.0);
    for stream in slow {
        let answer = until_closed(stream);
        assert_eq!(status_of(&answer), 408);
        assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
        assert!(body_of(&answer)["detail"].as_str().unwrap().contains("within 5 s"), "{answer}");
    }
    assert_eq!(
        replica.metric("delayd_serve_connections_closed_total{listener=\"public\",reason=\"slow_request\"}"),
        400.0
    );
    assert_eq!(replica.metric("delayd_serve_connections "), 0.0);
}

#[test]
fn a_body_that_drips_is_given_up_whether_its_length_is_known_or_not() {
    let replica = Replica::start(1024, &["--request-deadline-secs", "1"]);
    let known = replica.sent(&slow_body());
    let chunked = replica.sent(post_head("transfer-encoding: chunked").as_bytes());
    let protocol = "POST /v2/models/delaynet/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\n\r\n{";
    let protocol = replica.sent(protocol.as_bytes());
    for (stream, piece, field) in
        [(known, &b" "[..], "detail"), (chunked, b"1\r\n \r\n", "detail"), (protocol, b" ", "error")]
    {
        let (answer, took) = drip(stream, piece);
        assert_eq!(status_of(&answer), 408, "{answer}");
        assert!(body_of(&answer)[field].is_string(), "{answer}");
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
}

#[test]
fn a_body_that_no_handler_reads_is_not_drained_for_ever() {
    let replica = Replica::start(1024, &["--request-deadline-secs", "1"]);
    let head = "POST /nothing HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    let (answer, took) = drip(replica.sent(head.as_bytes()), b"1\r\n \r\n");
    assert_eq!(status_of(&answer), 404, "{answer}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_head_that_drips_is_given_up_also_when_it_is_not_the_first() {
    let replica = Replica::start(1024, &["--request-deadline-secs", "1"]);
    let head = "GET /health/live HTTP/1.1\r\nhost: x\r\nx-slow: ";
    let (answer, took) = drip(replica.sent(head.as_bytes()), b"a");
    assert_eq!((status_of(&answer), &body_of(&answer)["status"]), (408, &json!(408)), "{answer}");
    assert!(took < Duration::from_secs(5), "{took:?}");

    let mut second = replica.sent(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut buffer = [0; 4096];
    let read = second.read(&mut buffer).unwrap();
    assert_eq!(status_of(&String::from_utf8_lossy(&buffer[..read])), 200);
    second.write_all(head.as_bytes()).unwrap();
    let (answer, took) = drip(second, b"a");
    assert_eq!(status_of(&answer), 408, "{answer}");
    assert!(took < Duration::from_secs(5), "{took:?}");

    // Nothing was asked here, so that nothing is answered.
    assert_eq!(until_closed(replica.connect()), "");
}

#[test]
fn a_client_that_is_idle_between_requests_keeps_its_connection() {
    let replica = Replica::start(1024, &["--request-deadline-secs", "1"]);
    let body = json!(flights(3, 2)).to_string();
    let request = format!("{}{body}", post_head(&format!("content-length: {}", body.len())));
    let mut stream = replica.connect();
    let mut buffer = [0; 8192];
    for _ in 0..2 {
        stream.write_all(request.as_bytes()).unwrap();
        let read = stream.read(&mut buffer).unwrap();
        assert_eq!(status_of(&String::from_utf8_lossy(&buffer[..read])), 200);
        std::thread::sleep(Duration::from_millis(2500));
    }
}

#[test]
fn an_answer_that_is_not_taken_is_given_up() {
    let replica = Replica::start(1024, &["--answer-deadline-secs", "1"]);
    // Many answers of the largest kind, pipelined and none read: more than the kernel's buffers hold.
    let mut stream = replica.connect();
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let request = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n";
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(replica.metric("delayd_serve_connections "), 1.0);
    let begun = Instant::now();
    // The kernel may find out first, by its own timeout, so that the count by reason is not always ours.
    while replica.metric("delayd_serve_connections ") > 0.0 {
        // It fails once the replica reads no more, or has closed.
        let _ = stream.write_all(&request.repeat(200));
        assert!(begun.elapsed() < Duration::from_secs(20), "the connection is still open");
    }
}

#[test]
fn a_client_at_its_limit_is_closed_at_once_and_another_is_answered() {
    let replica = Replica::start(1024, &["--connections-per-client", "10"]);
    let held: Vec<TcpStream> = (0..10).map(|_| replica.sent(&slow_body())).collect();
    std::thread::sleep(Duration::from_millis(100));
    let begun = Instant::now();
    assert_eq!(until_closed(replica.connect()), "");
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(
        replica.metric("delayd_serve_connections_closed_total{listener=\"public\",reason=\"client_limit\"}"),
        1.0
    );

    // All of 127.0.0.0/8 is this machine, and another address is another client.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.2:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.connect(&replica.public.parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    let mut other: TcpStream = socket.into();
    other.write_all(b"GET /health/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    assert_eq!(status_of(&until_closed(other)), 200);

    drop(held);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(replica.predict().0, 200);
}

#[test]
fn bodies_that_are_large_and_slow_do_not_fill_the_memory() {
    let limits = ["--max-body-bytes", "1000000", "--max-bodies-bytes", "2000000"];
    let replica = Replica::start(1024, &limits);
    let mut large = post_head("content-length: 900000").into_bytes();
    large.extend(vec![b' '; 800_000]);
    let held: Vec<TcpStream> = (0..2).map(|_| replica.sent(&large)).collect();
    std::thread::sleep(Duration::from_millis(200));
    let refused = until_closed(replica.sent(&large));
    assert_eq!(status_of(&refused), 503, "{refused}");
    assert!(refused.to_ascii_lowercase().contains("retry-after: 1"), "{refused}");
    assert_eq!(replica.predict().0, 200, "a small body has room");
    assert!(replica.metric("delayd_serve_body_memory_bytes ") >= 1_600_000.0);
    drop(held);
}
