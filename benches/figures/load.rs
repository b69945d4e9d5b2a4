//! Load over HTTP: as many requests as it answers, or so many a second.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::timing::quantile;

pub(crate) const CONNECTIONS: usize = 32;
pub(crate) const LOAD_SECONDS: f64 = 8.0;
const WARM_UP_SECONDS: f64 = 1.0;

/// An HTTP/1.1 request as it goes over the wire.
pub(crate) fn http_post(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Where the body of the answer begins and ends, once the answer is whole.
fn whole_answer(buffer: &[u8]) -> Result<Option<std::ops::Range<usize>>> {
    let Some(head) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { return Ok(None) };
    let mut lines = std::str::from_utf8(&buffer[..head])?.split("\r\n");
    let status = lines.next().unwrap_or_default();
    let body = head + 4;
    ensure!(status.starts_with("HTTP/1.1 200"), "{status}: {}", String::from_utf8_lossy(&buffer[body..]));
    let mut fields = lines.filter_map(|line| line.split_once(':'));
    let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = length.context("the answer has no Content-Length")?.1.trim().parse()?;
    Ok((buffer.len() >= body + length).then_some(body..body + length))
}

/// A connection that is kept alive, and blocks.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self { stream, buffer: Vec::with_capacity(16 * 1024) })
    }

    /// Sends one request and answers the body of its answer.
    pub(crate) fn ask(&mut self, request: &[u8]) -> Result<&[u8]> {
        self.stream.write_all(request)?;
        self.buffer.clear();
        let mut chunk = [0_u8; 16 * 1024];
        loop {
            let read = self.stream.read(&mut chunk)?;
            ensure!(read > 0, "the service closed the connection");
            self.buffer.extend_from_slice(&chunk[..read]);
            if let Some(body) = whole_answer(&self.buffer)? {
                return Ok(&self.buffer[body]);
            }
        }
    }
}

/// What a load found.
pub(crate) struct Load {
    pub(crate) per_second: f64,
    /// Microseconds, ascending.
    times: Vec<f64>,
}

impl Load {
    pub(crate) fn millis(&self, share: f64) -> f64 {
        quantile(&self.times, share) / 1000.0
    }
}

/// One connection that asks again as soon as it is answered.
async fn ask_until(
    address: SocketAddr,
    requests: Arc<Vec<Vec<u8>>>,
    first: usize,
    warm: Instant,
    until: Instant,
) -> Result<Vec<f64>> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut buffer: Vec<u8> = Vec::with_capacity(16 * 1024);
    let mut times = Vec::new();
    for request in requests.iter().cycle().skip(first) {
        let began = Instant::now();
        if began >= until {
            break;
        }
        stream.write_all(request).await?;
        buffer.clear();
        while whole_answer(&buffer)?.is_none() {
            ensure!(stream.read_buf(&mut buffer).await? > 0, "the service closed the connection");
        }
        if began >= warm {
            times.push(began.elapsed().as_secs_f64() * 1e6);
        }
    }
    Ok(times)
}

/// Closed loop: every connection has one request under way, always. One thread.
pub(crate) fn closed_loop(address: SocketAddr, requests: &Arc<Vec<Vec<u8>>>) -> Result<Load> {
    ensure!(!requests.is_empty(), "there are no requests to send");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut times = runtime.block_on(async {
        let warm = Instant::now() + Duration::from_secs_f64(WARM_UP_SECONDS);
        let until = warm + Duration::from_secs_f64(LOAD_SECONDS);
        let ask = |n: usize| tokio::spawn(ask_until(address, Arc::clone(requests), n * 7, warm, until));
        let connections: Vec<_> = (0..CONNECTIONS).map(ask).collect();
        let mut times = Vec::new();
        for connection in connections {
            times.extend(connection.await??);
        }
        anyhow::Ok(times)
    })?;
    times.sort_unstable_by(f64::total_cmp);
    Ok(Load { per_second: times.len() as f64 / LOAD_SECONDS, times })
}

/// Open loop: requests are due at fixed moments, whether or not earlier ones were
/// answered, and the time counts from the moment at which a request was due.
pub(crate) struct Pace {
    address: SocketAddr,
    pub(crate) per_second: usize,
    total: usize,
    start: Instant,
}

impl Pace {
    pub(crate) const CONNECTIONS: usize = 16;

    pub(crate) fn connection(&self, requests: &[Vec<u8>], first: usize) -> Result<Vec<f64>> {
        let mut connection = Connection::open(self.address)?;
        let mut times = Vec::with_capacity(self.total / Self::CONNECTIONS + 1);
        for number in (first..self.total).step_by(Self::CONNECTIONS) {
            let due = self.start + Duration::from_secs_f64(number as f64 / self.per_second as f64);
            if let Some(early) = due.checked_duration_since(Instant::now()) {
                std::thread::sleep(early);
            }
            let request = requests.get(number % requests.len().max(1)).context("there are no requests to send")?;
            connection.ask(request)?;
            // The first second warms up.
            if number >= self.per_second {
                times.push(due.elapsed().as_secs_f64() * 1e6);
            }
        }
        Ok(times)
    }
}

pub(crate) fn open_loop(address: SocketAddr, requests: &[Vec<u8>], per_second: usize) -> Result<Load> {
    let total = (per_second as f64 * (LOAD_SECONDS + WARM_UP_SECONDS)) as usize;
    let pace = &Pace { address, per_second, total, start: Instant::now() + Duration::from_millis(200) };
    let mut times = std::thread::scope(|scope| {
        let connect = |n: usize| scope.spawn(move || pace.connection(requests, n));
        let connections: Vec<_> = (0..Pace::CONNECTIONS).map(connect).collect();
        let mut times = Vec::with_capacity(total);
        for connection in connections {
            times.extend(connection.join().map_err(|_| anyhow!("a client's thread panicked"))??);
        }
        anyhow::Ok(times)
    })?;
    let ended = pace.start.elapsed().as_secs_f64();
    times.sort_unstable_by(f64::total_cmp);
    Ok(Load { per_second: total as f64 / ended, times })
}
