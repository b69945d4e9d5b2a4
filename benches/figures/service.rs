//! The inference service under load, next to one written with FastAPI.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use delayd_data::Example;
use delayd_features::Encoded;
use delayd_model::PredictScratch;
use delayd_outside::service::FlightQuestion;
use serde::Serialize;

use crate::model::Model;
use crate::table::Figures;
use crate::table::{Started, free_port, resident_megabytes, variable};
use crate::table::{median, quantile};

/// Requests prepared for the load; they are sent in turn.
const REQUESTS: usize = 512;

struct Serving {
    process: Started,
    public: SocketAddr,
    ready_after: Duration,
    _folder: tempfile::TempDir,
}

/// Starts the service and waits until it says that it is ready.
fn serve(binary: &Path, bundle: &Path, workers: Option<u16>) -> Result<Serving> {
    ensure!(binary.is_file(), "{} is not there; `make build` builds it", binary.display());
    let folder = tempfile::tempdir()?;
    let port_file = folder.path().join("admin");
    let public = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let mut command = Command::new(binary);
    command.arg("--bundle").arg(bundle).arg("--listen").arg(public.to_string());
    command.args(["--admin-listen", "127.0.0.1:0", "--model-version", "model_v1"]);
    command.arg("--admin-port-file").arg(&port_file);
    if let Some(workers) = workers {
        command.args(["--workers", &workers.to_string()]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(folder.path().join("log"))?);
    let began = Instant::now();
    let mut process = Started(command.spawn()?);
    let admin: SocketAddr = loop {
        // Written in one piece; not there yet is the only other case.
        if let Ok(text) = std::fs::read_to_string(&port_file) {
            break text.trim().parse()?;
        }
        if process.ended()? || began.elapsed() > Duration::from_secs(20) {
            let log = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
            bail!("the service did not become ready: {}", log.lines().last().unwrap_or("no log"));
        }
        std::thread::sleep(Duration::from_micros(200));
    };
    let request = b"GET /health/ready HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    Connection::open(admin)?.ask(request).context("asking whether the service is ready")?;
    Ok(Serving { process, public, ready_after: began.elapsed(), _folder: folder })
}

pub(crate) fn start_up(figures: &mut Figures, binary: &Path, model: &Model) -> Result<()> {
    const STARTS: usize = 20;
    let (mut times, mut resident) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let serving = serve(binary, &model.dir, None)?;
        times.push(serving.ready_after.as_secs_f64() * 1e3);
        resident.push(resident_megabytes(serving.process.0.id())?);
    }
    let slowest = times.iter().copied().fold(0.0, f64::max);
    let note = format!("spawn to GET /health/ready answered; median of {STARTS}, slowest {slowest:.1} ms");
    figures.push("service start to ready", median(times), "ms", Some(50.0), note);
    let note = "VmRSS with the bundle loaded, before any traffic; median";
    figures.push("service memory, ready", median(resident), "MB", Some(30.0), note);
    Ok(())
}

/// What the replay sends too.
fn flight_request(example: &Example) -> Result<Vec<u8>> {
    Ok(http_post("/predict", &serde_json::to_vec(&FlightQuestion::of(example))?))
}

#[derive(Serialize)]
struct EncodedQuestion {
    pub(crate) categories: Vec<u32>,
    pub(crate) numerics: Vec<f32>,
}

fn encoded_request(model: &Model, example: &Example) -> Result<Vec<u8>> {
    let Encoded { categories, numerics } = model.predictor.encoder().encode(&example.row);
    Ok(http_post("/predict", &serde_json::to_vec(&EncodedQuestion { categories, numerics })?))
}

/// Refuses a service that answers something else than the model says.
fn check_answers(address: SocketAddr, model: &Model, examples: &[&Example], requests: &[Vec<u8>]) -> Result<()> {
    let mut connection = Connection::open(address)?;
    let mut scratch = PredictScratch::default();
    for (example, request) in examples.iter().zip(requests).take(20) {
        let answer: serde_json::Value = serde_json::from_slice(connection.ask(request)?)?;
        let score = answer.pointer("/predictions/0/score").and_then(serde_json::Value::as_f64);
        let score = score.context("the answer has no score")?;
        let expected = model.predictor.predict(&example.row, &mut scratch);
        let apart = (score - f64::from(expected.score)).abs();
        ensure!(apart < 1e-3, "the service answers {score}, the model says {}", expected.score);
    }
    Ok(())
}

pub(crate) struct OverHttp {
    all_workers: f64,
    one_worker: f64,
}

pub(crate) fn service_load(
    figures: &mut Figures,
    binary: &Path,
    model: &Model,
    examples: &[&Example],
) -> Result<OverHttp> {
    let requests = examples.iter().take(REQUESTS).map(|example| flight_request(example)).collect::<Result<Vec<_>>>()?;
    let requests = Arc::new(requests);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let serving = serve(binary, &model.dir, None)?;
    check_answers(serving.public, model, examples, &requests)?;
    let closed = closed_loop(serving.public, &requests)?;
    let note = format!(
        "single-flight POST /predict with all inputs, keep-alive, closed loop, {LOAD_SECONDS} s, \
         one worker per core ({cores}); the client shares the cores"
    );
    figures.add(format!("service at {CONNECTIONS} connections"), closed.per_second, "requests/s", note.clone());
    figures.add(format!("service at {CONNECTIONS} connections, p50"), closed.millis(0.5), "ms", note.clone());
    figures.add(format!("service at {CONNECTIONS} connections, p99"), closed.millis(0.99), "ms", note);
    let steady = open_loop(serving.public, &requests, 1000)?;
    let note = format!(
        "open loop, {LOAD_SECONDS} s over {} connections, counted from when each request was due; \
         {:.0} requests/s reached",
        Pace::CONNECTIONS,
        steady.per_second
    );
    figures.add("service at 1,000 requests/s, p50", steady.millis(0.5), "ms", note.clone());
    figures.push("service at 1,000 requests/s, p99", steady.millis(0.99), "ms", Some(2.0), note);
    let resident = resident_megabytes(serving.process.0.id())?;
    let note = "VmRSS after both loads, its ring of 65,536 predictions filled";
    figures.push("service memory, after load", resident, "MB", Some(30.0), note);
    drop(serving);

    let serving = serve(binary, &model.dir, Some(1))?;
    let single = closed_loop(serving.public, &requests)?;
    let note = "as above with --workers 1, for the comparison";
    figures.add(format!("service at {CONNECTIONS} connections, one worker"), single.per_second, "requests/s", note);
    Ok(OverHttp { all_workers: closed.per_second, one_worker: single.per_second })
}

pub(crate) fn fastapi(
    figures: &mut Figures,
    model: &Model,
    examples: &[&Example],
    service: Option<&OverHttp>,
) -> Result<()> {
    if let Some(why) = variable("DELAYD_BENCH_FASTAPI_SKIPPED") {
        bail!("SKIPPED: {why}");
    }
    let python = variable("DELAYD_BENCH_PYTHON").context("SKIPPED: run it by scripts/bench/run, which installs it")?;
    let versions = variable("DELAYD_BENCH_FASTAPI_VERSIONS").unwrap_or_default();
    let requests =
        examples.iter().take(REQUESTS).map(|example| encoded_request(model, example)).collect::<Result<Vec<_>>>()?;
    let requests = Arc::new(requests);
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let mut command = Command::new(python);
    command.arg("scripts/bench/fastapi_service.py").arg(&model.dir).arg(address.port().to_string());
    command.env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null()).stdout(Stdio::null());
    let mut process = Started(command.spawn().context("starting the FastAPI service")?);
    let began = Instant::now();
    while TcpStream::connect(address).is_err() {
        ensure!(!process.ended()?, "the FastAPI service ended; its message stands above");
        ensure!(began.elapsed() < Duration::from_secs(60), "the FastAPI service does not listen after a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
    check_answers(address, model, examples, &requests)?;
    let load = closed_loop(address, &requests)?;
    let note = format!("same model in numpy, rows encoded by the client, no drift counts, one worker; {versions}");
    figures.add(format!("FastAPI at {CONNECTIONS} connections"), load.per_second, "requests/s", note.clone());
    figures.add(format!("FastAPI at {CONNECTIONS} connections, p50"), load.millis(0.5), "ms", note.clone());
    figures.add(format!("FastAPI at {CONNECTIONS} connections, p99"), load.millis(0.99), "ms", note);
    figures.add("FastAPI memory, after load", resident_megabytes(process.0.id())?, "MB", "VmRSS");
    let service = service.context("the service itself was not measured, so there is no ratio")?;
    let note = "requests/s of the same run, one worker each";
    figures.add("service / FastAPI, one worker each", service.one_worker / load.per_second, "×", note);
    let note = "requests/s of the same run, a worker per core against one";
    figures.add("service / FastAPI, as deployed", service.all_workers / load.per_second, "×", note);
    Ok(())
}

// ----------------------------------------------------------------
// Load over HTTP: as many requests as it answers, or so many a second.

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
