//! Small things that many tests need: free ports, plain HTTP, waiting, and what is logged.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use delayd::cycle::saga::StepObserver;
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::failure::StepFailure;
use delayd_core::ids::CycleId;
use tracing_subscriber::fmt::MakeWriter;

/// How long anything may take that ends well.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// An address of this machine that nobody uses now.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub fn free_port() -> u16 {
    free_address().port()
}

/// The whole answer to a request; `None` when the connection breaks.
pub fn answer_on(mut stream: TcpStream, request: &str) -> Option<String> {
    stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}

/// The same on a connection of its own; `None` also when nobody answers.
pub fn exchange(address: impl ToSocketAddrs, request: &str) -> Option<String> {
    answer_on(TcpStream::connect(address).ok()?, request)
}

/// Status and body of an answer.
pub fn status_and_body(answer: &str) -> Option<(u16, String)> {
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
}

/// Status and body of a GET; `None` when nobody answers. HTTP/1.0, so that nothing comes in chunks.
pub fn get(address: impl ToSocketAddrs, path: &str) -> Option<(u16, String)> {
    status_and_body(&exchange(address, &format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n"))?)
}

/// Status and body of a POST of JSON.
pub fn post_json(address: impl ToSocketAddrs, path: &str, json: &str) -> Option<(u16, String)> {
    let head = format!("POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n");
    status_and_body(&exchange(address, &format!("{head}Content-Length: {}\r\n\r\n{json}", json.len()))?)
}

/// A web server that answers a connection with what `respond` makes of the head of its request; `None` holds it open.
pub async fn serving(mut respond: impl FnMut(&str) -> Option<String> + Send + 'static) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 8192];
            let read = stream.read(&mut request).await.unwrap_or(0);
            match respond(&String::from_utf8_lossy(&request[..read])) {
                // A client that hung up is a test.
                Some(answer) => drop(stream.write_all(answer.as_bytes()).await),
                None => held.push(stream),
            }
        }
    });
    url
}

/// An answer for [`serving`]: a status with its reason and further lines of the head, and a body.
pub fn http_answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

/// Waits until `look` finds something; actors of this thread continue meanwhile.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits for a condition.
pub async fn until_true(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    until(what, async || condition().await.then_some(())).await;
}

/// Runs a test that starts actors.
pub fn in_system<T>(test: impl Future<Output = T>) -> T {
    actix_web::rt::System::new().block_on(test)
}

/// An error of this kind, whose text holds all these parts.
pub fn assert_error(error: &PortError, kind: ErrorKind, parts: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
}

pub fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// An observer of steps that tells nobody.
pub struct Silent;

impl StepObserver for Silent {
    fn started(&self, _: CycleId, _: &str) {}
    fn finished(&self, _: CycleId, _: &str, _: Duration, _: Option<&StepFailure>) {}
}

/// Everything that this process logs from now on, at the finest level. A subscriber of one thread would miss what
/// another thread's test has met first; a test is a process of its own under nextest.
#[derive(Clone, Default)]
pub struct CapturedLog(Arc<Mutex<Vec<u8>>>);

impl CapturedLog {
    pub fn begin() -> Self {
        let captured = Self::default();
        let lines = tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::TRACE);
        // A second capture in one process would see nothing; the test's own check of its text tells.
        let _ = lines.with_writer(captured.clone()).try_init();
        captured
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for CapturedLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for CapturedLog {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
