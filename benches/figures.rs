//! Every number the README states, measured on this machine in one run.
//!
//!     make bench
//!
//! Prints one table and writes `var/bench/bench.json`. What a measurement needs and
//! does not find makes a row "not measured" with the reason, never a number.
//! `scripts/bench/run` builds what is needed and sets the variables read here.

#![allow(clippy::print_stdout, reason = "a report for the terminal")]

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use delayd::data::{Example, OperationsIndex, TimeZones, airports, assemble, formats, weather};
use delayd::evaluation::latency;
use delayd::evaluation::score::score_rows;
use delayd::monitoring::drift::{CountedFlight, DriftWindow, count_flights, evaluate};
use delayd::monitoring::drift_policy::DriftPolicy;
use delayd::replay::FlightQuestion;
use delayd::replay::report::Report;
use delayd::training::device::DevicePreference;
use delayd::training::{TrainedModel, TrainingControl, TrainingInput, TrainingParameters, train};
use delayd_features::{Airport, Encoded, FitOptions, FlightRow, HolidayCalendar, RawInputs};
use delayd_model::{Architecture, Bundle, DelayNet, DriftReference, PredictScratch, Predictor, Scratch};
use safetensors::SafeTensors;
use serde::Serialize;
use tch::{TchError, Tensor};

const MEGABYTE: f64 = 1e6;
const CONNECTIONS: usize = 32;
const LOAD_SECONDS: f64 = 8.0;
const WARM_UP_SECONDS: f64 = 1.0;
/// Requests prepared for the load; they are sent in turn.
const REQUESTS: usize = 512;

// ---------------------------------------------------------------- rows and table

/// One figure.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    /// `None` where it was not measured; `note` says why.
    value: Option<f64>,
    unit: String,
    /// At most this much is aimed at.
    aim: Option<f64>,
    met: Option<bool>,
    note: String,
}

#[derive(Debug, Default)]
struct Figures {
    rows: Vec<Row>,
}

impl Figures {
    fn push(&mut self, name: impl Into<String>, value: f64, unit: &str, aim: Option<f64>, note: impl Into<String>) {
        let row = Row {
            name: name.into(),
            value: Some(value),
            unit: unit.to_owned(),
            aim,
            met: aim.map(|limit| value <= limit),
            note: note.into(),
        };
        eprintln!("  {}: {} {}", row.name, number(value), row.unit);
        self.rows.push(row);
    }

    fn add(&mut self, name: impl Into<String>, value: f64, unit: &str, note: impl Into<String>) {
        self.push(name, value, unit, None, note);
    }

    fn missing(&mut self, name: &str, why: impl Into<String>) {
        let note = format!("not measured: {}", why.into());
        eprintln!("  {name}: {note}");
        let row = Row { name: name.to_owned(), value: None, unit: String::new(), aim: None, met: None, note };
        self.rows.push(row);
    }

    /// Runs one group of measurements; what it could not do becomes a row.
    fn section(&mut self, name: &str, measure: impl FnOnce(&mut Self) -> Result<()>) {
        eprintln!("{name} …");
        if let Err(error) = measure(self) {
            self.missing(name, format!("{error:#}"));
        }
    }
}

/// A number with about four significant digits.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 1000.0 => 0,
        size if size >= 100.0 => 1,
        size if size >= 1.0 => 2,
        _ => 4,
    };
    format!("{value:.digits$}")
}

fn table(rows: &[Row]) -> String {
    let cells: Vec<[String; 5]> = rows
        .iter()
        .map(|row| {
            let value = row.value.map_or_else(|| "–".to_owned(), number);
            let aim = row.aim.map_or_else(String::new, |aim| format!("<= {}", number(aim)));
            let met = row.met.map_or("", |met| if met { "yes" } else { "NO" });
            [row.name.clone(), value, row.unit.clone(), aim, met.to_owned()]
        })
        .collect();
    let titles = ["what", "value", "unit", "aim", "met"].map(str::to_owned);
    let width = |column: usize| {
        let all = cells.iter().chain([&titles]);
        all.map(|row| row[column].chars().count()).max().unwrap_or(0)
    };
    let widths = [width(0), width(1), width(2), width(3), width(4)];
    let mut text = String::new();
    let mut line = |[name, value, unit, aim, met]: &[String; 5], note: &str| {
        let [a, b, c, d, e] = widths;
        let _ = writeln!(text, "{name:<a$}  {value:>b$}  {unit:<c$}  {aim:<d$}  {met:<e$}  {note}");
    };
    line(&titles, "note");
    cells.iter().zip(rows).for_each(|(cell, row)| line(cell, &row.note));
    text
}

// ---------------------------------------------------------------- helpers

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn path_variable(name: &str, default: &str) -> PathBuf {
    PathBuf::from(variable(name).unwrap_or_else(|| default.to_owned()))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    quantile(&values, 0.5)
}

/// By nearest rank of ascending values.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
}

/// Median seconds of some calls, after one to warm up.
fn median_seconds(calls: usize, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let began = Instant::now();
        work()?;
        times.push(began.elapsed().as_secs_f64());
    }
    Ok(median(times))
}

/// Resident memory of a process in megabytes.
fn resident_megabytes(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in /proc")?;
    let kibibytes: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kibibytes * 1024.0 / MEGABYTE)
}

/// A port that nobody listens on just now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A process that goes when this goes.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        // It may have ended by itself: there is nothing left to do then.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Started {
    fn ended(&mut self) -> Result<bool> {
        Ok(self.0.try_wait()?.is_some())
    }

    /// Asks the process to stop, and waits a little for it.
    fn stop_politely(&mut self) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(10) && !self.ended()? {
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

// ---------------------------------------------------------------- data and training

struct World {
    examples: Vec<Example>,
    airports: BTreeMap<String, Airport>,
    parse_seconds: f64,
    index_seconds: f64,
    assemble_seconds: f64,
}

fn read_file(folder: &Path, stem: &str) -> Result<(String, Bytes)> {
    for ending in ["csv", "csv.zip", "csv.gz"] {
        let path = folder.join(format!("{stem}.{ending}"));
        if let Ok(bytes) = std::fs::read(&path) {
            return Ok((path.display().to_string(), Bytes::from(bytes)));
        }
    }
    bail!("{} holds no {stem}.csv, .csv.zip or .csv.gz", folder.display())
}

fn load_world(folder: &Path) -> Result<World> {
    let (key, body) = read_file(folder, "airports")?;
    let (mut airports, _) = airports::parse_airports(&key, &body, &BTreeMap::new())?;
    airports::supplement(&mut airports);
    let zones = TimeZones::of(&airports)?;
    let (weather_key, weather_body) = read_file(folder, "weather")?;
    let (key, body) = read_file(folder, "flights")?;

    let began = Instant::now();
    let (observations, _) = weather::parse_weather_csv(&weather_key, &weather_body)?;
    let parsed = formats::parse_flights(&key, &body, &zones, None, &formats::ParseLimits::default())?;
    let flights: Vec<_> = parsed.flights.into_iter().map(|(_, flight)| flight).collect();
    let parse_seconds = began.elapsed().as_secs_f64();

    let began = Instant::now();
    let operations = OperationsIndex::new(&flights, &airports)?;
    let history = weather::WeatherHistory::new(&observations);
    let index_seconds = began.elapsed().as_secs_f64();

    let began = Instant::now();
    let examples = assemble(&flights, &operations, &history, chrono::Duration::minutes(120));
    let assemble_seconds = began.elapsed().as_secs_f64();
    ensure!(!examples.is_empty(), "{} holds no flight", folder.display());
    Ok(World { examples, airports, parse_seconds, index_seconds, assemble_seconds })
}

fn feature_rows(figures: &mut Figures, world: &World, predictor: &Predictor) -> Result<()> {
    let (encoder, rows) = (predictor.encoder(), world.examples.len() as f64);
    let first = world.examples.first().context("no examples")?;
    let Encoded { mut categories, mut numerics } = encoder.encode(&first.row);
    let began = Instant::now();
    for example in &world.examples {
        encoder.encode_into(&example.row, &mut categories, &mut numerics);
        std::hint::black_box((&categories, &numerics));
    }
    let encode_seconds = began.elapsed().as_secs_f64();
    let total = world.parse_seconds + world.index_seconds + world.assemble_seconds + encode_seconds;
    let width = encoder.spec().numerics.len() + encoder.spec().categories.len();
    let note = format!("{rows} flights, {width} features, one run, from the files' bytes to the network's input");
    figures.add("features from raw CSV, end to end", rows / total, "rows/s", note);
    let parts = [
        ("parse flights and weather", world.parse_seconds),
        ("index operations and weather", world.index_seconds),
        ("assemble at prediction time", world.assemble_seconds),
        ("encode, one thread", encode_seconds),
    ];
    for (part, seconds) in parts {
        figures.add(format!("  of which {part}"), rows / seconds, "rows/s", format!("{seconds:.2} s"));
    }
    Ok(())
}

fn train_model(figures: &mut Figures, world: &World) -> Result<TrainedModel> {
    let until: DateTime<Utc> = "2013-04-01T05:00:00Z".parse()?;
    let known = |example: &&Example| example.outcome.is_some_and(|outcome| outcome.known_at < until);
    let examples: Vec<Example> = world.examples.iter().filter(known).cloned().collect();
    let parameters = TrainingParameters { torch_threads: 2, device: DevicePreference::Cpu, ..Default::default() };
    let parameters = parameters.check()?;
    let input = TrainingInput {
        examples: &examples,
        sample_weights: None,
        airports: &world.airports,
        holidays: &HolidayCalendar::us_federal(),
        fit: &FitOptions::default(),
        dataset: None,
        previous: None,
    };
    let model = train(&input, &parameters, None, &TrainingControl::default())?;
    let passes = model.report.epochs.iter().filter(|epoch| epoch.epoch > 0);
    let speeds: Vec<f64> = passes.map(|epoch| epoch.rows_per_second).collect();
    ensure!(!speeds.is_empty(), "the run reports no epoch");
    let note = format!(
        "DelayNet, {} weights, 2 torch threads, CPU; median of {} epochs over {} flights",
        model.report.record.weights,
        speeds.len(),
        model.report.record.train_rows
    );
    figures.add("training", median(speeds), "rows/s", note);
    let note = "first quarter of 2013, features assembled already; fit, calibration, importance and bundle";
    figures.add("training, a whole run", model.report.total_seconds, "s", note);
    Ok(model)
}

// ---------------------------------------------------------------- the bundle

/// A bundle on disk that the service can load.
struct Model {
    dir: PathBuf,
    bundle: Bundle,
    predictor: Predictor,
    origin: String,
    /// Keeps the folder of a bundle made here.
    _folder: Option<tempfile::TempDir>,
}

fn newest_bundle(bundles: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(bundles).ok()?;
    let dated = entries.filter_map(|entry| {
        let path = entry.ok()?.path();
        let modified = path.join("manifest.json").metadata().ok()?.modified().ok()?;
        Some((modified, path))
    });
    dated.max().map(|(_, path)| path)
}

fn load_model(state: &Path, trained: Option<TrainedModel>) -> Result<Model> {
    if let Some(dir) = newest_bundle(&state.join("bundles")) {
        let (bundle, digest) = Bundle::read_from(&dir)?;
        let predictor = Predictor::from_bundle(&bundle)?;
        let origin = format!("newest of {}, {digest}", state.display());
        return Ok(Model { dir, bundle, predictor, origin, _folder: None });
    }
    let trained = trained.context("there is neither a bundle of a replay nor one trained here")?;
    let folder = tempfile::tempdir()?;
    let dir = folder.path().join("bundle");
    let digest = trained.bundle.write_to(&dir)?;
    let predictor = Predictor::from_bundle(&trained.bundle)?;
    let origin = format!("trained by this benchmark, {digest}");
    Ok(Model { dir, bundle: trained.bundle, predictor, origin, _folder: Some(folder) })
}

fn prediction_latency(figures: &mut Figures, model: &Model, rows: &[&FlightRow]) -> Result<()> {
    let report = latency::measure(&model.predictor, rows, 50_000).context("there are no rows")?;
    for batch in &report.batches {
        let name = |quantile: &str| match batch.batch {
            1 => format!("prediction of one row, {quantile}"),
            rows => format!("prediction of {rows} rows, {quantile}"),
        };
        let note = format!("features and forward pass, one thread, {} calls", batch.per_batch.calls);
        figures.add(name("p50"), batch.per_batch.p50_us, "µs", note.clone());
        figures.add(name("p95"), batch.per_batch.p95_us, "µs", note.clone());
        figures.add(name("p99"), batch.per_batch.p99_us, "µs", note);
    }
    Ok(())
}

// ---------------------------------------------------------------- plain Rust and libtorch

struct Affine {
    weight: Tensor,
    bias: Tensor,
}

impl Affine {
    fn linear(&self, input: &Tensor) -> Result<Tensor, TchError> {
        input.f_linear(&self.weight, Some(&self.bias))
    }

    fn norm(&self, input: &Tensor) -> Result<Tensor, TchError> {
        input.f_layer_norm(self.bias.size(), Some(&self.weight), Some(&self.bias), 1e-5, false)
    }
}

/// One member of DelayNet in libtorch, as training has it.
struct TorchMember {
    embeddings: Vec<Tensor>,
    input: Affine,
    blocks: Vec<(Affine, Affine, Affine)>,
    norm: Affine,
    head: Affine,
}

impl TorchMember {
    fn read(architecture: &Architecture, file: &SafeTensors<'_>, member: usize) -> Result<Self> {
        let get = |rest: &str| -> Result<Tensor> {
            let view = file.tensor(&format!("member.{member}.{rest}"))?;
            let bytes = view.data().chunks_exact(4);
            let values: Vec<f32> = bytes.filter_map(|b| Some(f32::from_le_bytes(b.try_into().ok()?))).collect();
            let shape: Vec<i64> = view.shape().iter().map(|size| *size as i64).collect();
            Ok(Tensor::f_from_slice(&values)?.f_view(shape.as_slice())?)
        };
        let affine = |name: &str| -> Result<Affine> {
            Ok(Affine { weight: get(&format!("{name}.weight"))?, bias: get(&format!("{name}.bias"))? })
        };
        let embeddings = (0..architecture.cardinalities.len()).map(|n| get(&format!("embedding.{n}.weight")));
        let blocks = (0..architecture.blocks).map(|n| {
            let part = |part: &str| affine(&format!("block.{n}.{part}"));
            anyhow::Ok((part("norm")?, part("up")?, part("down")?))
        });
        Ok(Self {
            embeddings: embeddings.collect::<Result<_>>()?,
            blocks: blocks.collect::<Result<_>>()?,
            input: affine("input")?,
            norm: affine("norm")?,
            head: affine("head")?,
        })
    }

    fn forward(&self, rows: &TorchRows) -> Result<Tensor, TchError> {
        let mut parts = Vec::with_capacity(self.embeddings.len() + 1);
        for (index, table) in self.embeddings.iter().enumerate() {
            let indexes = rows.categories.f_select(1, index as i64)?;
            parts.push(Tensor::f_embedding(table, &indexes, -1, false, false)?);
        }
        parts.push(rows.numerics.shallow_clone());
        let mut stream = self.input.linear(&Tensor::f_cat(&parts, 1)?)?;
        for (norm, up, down) in &self.blocks {
            let inner = up.linear(&norm.norm(&stream)?)?.f_relu()?;
            stream = stream.f_add(&down.linear(&inner)?)?;
        }
        self.head.linear(&self.norm.norm(&stream)?.f_relu()?)?.f_squeeze_dim(1)
    }
}

struct TorchRows {
    categories: Tensor,
    numerics: Tensor,
}

impl TorchRows {
    fn new(rows: &[Encoded]) -> Result<Self> {
        let count = rows.len() as i64;
        let categories: Vec<i64> = rows.iter().flat_map(|row| row.categories.iter().map(|n| i64::from(*n))).collect();
        let numerics: Vec<f32> = rows.iter().flat_map(|row| row.numerics.iter().copied()).collect();
        Ok(Self {
            categories: Tensor::f_from_slice(&categories)?.f_view([count, -1].as_slice())?,
            numerics: Tensor::f_from_slice(&numerics)?.f_view([count, -1].as_slice())?,
        })
    }
}

fn torch_logits(members: &[TorchMember], rows: &TorchRows) -> Result<Vec<f32>> {
    let mut sums: Vec<f32> = Vec::new();
    for member in members {
        let logits = Vec::<f32>::try_from(&tch::no_grad(|| member.forward(rows))?)?;
        sums.resize(logits.len(), 0.0);
        sums.iter_mut().zip(logits).for_each(|(sum, logit)| *sum += logit);
    }
    sums.iter_mut().for_each(|sum| *sum /= members.len().max(1) as f32);
    Ok(sums)
}

/// Seconds of plain Rust and of libtorch: for one row, then for all rows at once.
struct ForwardTimes {
    one: (f64, f64),
    all: (f64, f64),
}

fn time_forward_passes(bundle: &Bundle, rows: &[Encoded]) -> Result<ForwardTimes> {
    // Settles the number of threads for this thread, as training does.
    tch::set_num_threads(1);
    let threads = tch::get_num_threads();
    ensure!(threads == 1, "libtorch computes with {threads} threads, not with one");
    let architecture = &bundle.model.architecture;
    let file = SafeTensors::deserialize(&bundle.weights)?;
    let members = (0..architecture.members).map(|n| TorchMember::read(architecture, &file, n));
    let members = members.collect::<Result<Vec<_>>>()?;
    let net = DelayNet::from_safetensors(architecture, &bundle.weights)?;
    let together = TorchRows::new(rows)?;
    let singles = rows.iter().take(256).map(|row| TorchRows::new(std::slice::from_ref(row)));
    let singles = singles.collect::<Result<Vec<_>>>()?;

    let mut scratch = Scratch::default();
    let found = torch_logits(&members, &together)?;
    ensure!(found.len() == rows.len(), "libtorch answers {} logits to {} rows", found.len(), rows.len());
    let mut apart = 0.0_f32;
    for (row, logit) in rows.iter().zip(&found) {
        apart = apart.max((net.logit(&row.categories, &row.numerics, &mut scratch) - logit).abs());
    }
    ensure!(apart < 1e-2, "the two forward passes differ by {apart}: they are not the same network");

    let mut plain = |rows: &[Encoded]| {
        for row in rows {
            std::hint::black_box(net.logit(&row.categories, &row.numerics, &mut scratch));
        }
        Ok(())
    };
    let (few, count) = (&rows[..singles.len()], singles.len() as f64);
    let plain_one = median_seconds(40, || plain(few))? / count;
    let plain_all = median_seconds(40, || plain(rows))?;
    let torch_one = median_seconds(40, || {
        singles.iter().try_for_each(|row| torch_logits(&members, row).map(|logits| drop(std::hint::black_box(logits))))
    })?;
    let torch_all =
        median_seconds(40, || torch_logits(&members, &together).map(|logits| drop(std::hint::black_box(logits))))?;
    Ok(ForwardTimes { one: (plain_one, torch_one / count), all: (plain_all, torch_all) })
}

fn forward_passes(figures: &mut Figures, model: &Model, rows: &[&FlightRow]) -> Result<()> {
    let encoded: Vec<Encoded> = rows.iter().take(1024).map(|row| model.predictor.encoder().encode(row)).collect();
    ensure!(!encoded.is_empty(), "there are no rows");
    // A thread of its own: libtorch's number of threads stays with it.
    let times = std::thread::scope(|scope| {
        let work = scope.spawn(|| time_forward_passes(&model.bundle, &encoded));
        work.join().map_err(|_| anyhow!("the measuring thread panicked"))?
    })?;
    let note = "rows encoded before, one thread each, same rows, same logits";
    for (what, (plain, torch)) in [("1 row".to_owned(), times.one), (format!("{} rows", encoded.len()), times.all)] {
        figures.add(format!("forward pass of {what}, plain Rust"), plain * 1e6, "µs", note);
        figures.add(format!("forward pass of {what}, libtorch"), torch * 1e6, "µs", note);
        figures.add(
            format!("forward pass of {what}, libtorch / plain Rust"),
            torch / plain,
            "×",
            "over 1: Rust is faster",
        );
    }
    Ok(())
}

// ---------------------------------------------------------------- HTTP load

/// An HTTP/1.1 request as it goes over the wire.
fn http_post(path: &str, body: &[u8]) -> Vec<u8> {
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
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self { stream, buffer: Vec::with_capacity(16 * 1024) })
    }

    /// Sends one request and answers the body of its answer.
    fn ask(&mut self, request: &[u8]) -> Result<&[u8]> {
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
struct Load {
    per_second: f64,
    /// Microseconds, ascending.
    times: Vec<f64>,
}

impl Load {
    fn millis(&self, share: f64) -> f64 {
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
fn closed_loop(address: SocketAddr, requests: &Arc<Vec<Vec<u8>>>) -> Result<Load> {
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
struct Pace {
    address: SocketAddr,
    per_second: usize,
    total: usize,
    start: Instant,
}

impl Pace {
    const CONNECTIONS: usize = 16;

    fn connection(&self, requests: &[Vec<u8>], first: usize) -> Result<Vec<f64>> {
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

fn open_loop(address: SocketAddr, requests: &[Vec<u8>], per_second: usize) -> Result<Load> {
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

// ---------------------------------------------------------------- the service

struct Serving {
    process: Started,
    public: SocketAddr,
    ready_after: Duration,
    _folder: tempfile::TempDir,
}

/// Starts the service and waits until it says that it is ready.
fn serve(binary: &Path, bundle: &Path, workers: Option<u16>) -> Result<Serving> {
    ensure!(binary.is_file(), "{} is not there; `make service` builds it", binary.display());
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

fn start_up(figures: &mut Figures, binary: &Path, model: &Model) -> Result<()> {
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
    categories: Vec<u32>,
    numerics: Vec<f32>,
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

struct OverHttp {
    all_workers: f64,
    one_worker: f64,
}

fn service_load(figures: &mut Figures, binary: &Path, model: &Model, examples: &[&Example]) -> Result<OverHttp> {
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

fn fastapi(figures: &mut Figures, model: &Model, examples: &[&Example], service: Option<&OverHttp>) -> Result<()> {
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

// ---------------------------------------------------------------- sizes, daemon, drift, replay

fn image_size(figures: &mut Figures, state: &Path) -> Result<()> {
    let layout = state.join("images/delay-ml");
    let text = std::fs::read_to_string(layout.join("index.json"))
        .with_context(|| format!("no image at {}: a replay makes one", layout.display()))?;
    let index: serde_json::Value = serde_json::from_str(&text)?;
    let newest = index["manifests"].as_array().and_then(|all| all.last()).context("the index names no image")?;
    let digest = newest["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
    let blobs = layout.join("blobs/sha256");
    let manifest = std::fs::read_to_string(blobs.join(digest.context("the image has no digest")?))?;
    let manifest: serde_json::Value = serde_json::from_str(&manifest)?;
    let mut bytes = 0;
    let layers = manifest["layers"].as_array().context("the image has no layers")?;
    for layer in layers {
        let digest = layer["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
        bytes += blobs.join(digest.context("a layer has no digest")?).metadata()?.len();
    }
    let tag = newest["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap_or("untagged");
    let note = format!("{tag}: {} layers as stored, compressed", layers.len());
    figures.push("service image", bytes as f64 / MEGABYTE, "MB", Some(20.0), note);
    Ok(())
}

fn binary_size(figures: &mut Figures, binary: &Path) -> Result<()> {
    let bytes = binary.metadata().with_context(|| format!("{} is not there", binary.display()))?.len();
    figures.add("service binary, static", bytes as f64 / MEGABYTE, "MB", binary.display().to_string());
    Ok(())
}

fn idle_daemon(figures: &mut Figures, binary: &Path, service: &Path) -> Result<()> {
    ensure!(binary.is_file(), "{} is not there; `make build` builds it", binary.display());
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("log");
    let mut command = Command::new(binary);
    command.arg("--state").arg(folder.path().join("state")).arg("run");
    command.env("DELAYD__HTTP__LISTEN", format!("127.0.0.1:{}", free_port()?));
    command.env("DELAYD_SERVE_BIN", service).env_remove("DELAYD_CONFIG").env_remove("DELAYD_STATE");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&log)?);
    let mut process = Started(command.spawn()?);
    std::thread::sleep(Duration::from_secs(15));
    if process.ended()? {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        bail!("the daemon ended by itself: {}", text.lines().last().unwrap_or("no log"));
    }
    let note = "VmRSS 15 s after `delayd run` on an empty state directory";
    figures.push("daemon memory, idle", resident_megabytes(process.0.id())?, "MB", Some(120.0), note);
    process.stop_politely()
}

fn drift_check(figures: &mut Figures, world: &World, model: &Model) -> Result<()> {
    const ROWS: usize = 1_000_000;
    const FEATURES: usize = 20;
    const DAYS: usize = 14;
    let mut spec = model.bundle.features.clone();
    let every = (spec.numerics.len() / FEATURES).max(1);
    spec.numerics = spec.numerics.into_iter().step_by(every).take(FEATURES).collect();
    spec.categories.clear();
    ensure!(spec.numerics.len() == FEATURES, "the model reads only {} numbers", spec.numerics.len());
    let encoder = model.predictor.encoder();
    let rows: Vec<&FlightRow> = world.examples.iter().map(|example| &example.row).collect();
    let raws: Vec<RawInputs> = rows.iter().map(|row| encoder.raw(row)).collect();
    let scores = score_rows(&model.predictor, &rows);
    let learnt = rows.len().min(100_000);
    let of_reference: Vec<FlightRow> = rows.iter().take(learnt).map(|row| (*row).clone()).collect();
    let importance: HashMap<String, f64> =
        spec.numerics.iter().map(|feature| (feature.input.clone(), 1.0 / FEATURES as f64)).collect();
    let reference = DriftReference::build(&spec, &of_reference, &raws[..learnt], &scores[..learnt], &importance);
    let flights =
        rows.iter().zip(&raws).zip(&scores).map(|((row, raw), score)| CountedFlight { row, raw, score: *score });
    let flights: Vec<CountedFlight<'_>> = flights.cycle().take(ROWS).collect();
    let ended_at: DateTime<Utc> = "2014-01-01T05:00:00Z".parse()?;
    let policy = DriftPolicy::default();
    let seconds = median_seconds(5, || {
        let days = flights.chunks(ROWS.div_ceil(DAYS)).map(|day| count_flights(&reference, day));
        let days = days.collect::<Result<Vec<_>, _>>()?;
        let window = DriftWindow::from_days(ended_at, days)?.context("no days")?;
        ensure!(window.sketch.rows == ROWS as u64, "{} rows were counted", window.sketch.rows);
        std::hint::black_box(evaluate(&reference, &window, &[], &policy)?);
        Ok(())
    })?;
    let note = format!(
        "{ROWS} rows × {FEATURES} numbers ({} distinct flights) counted on all cores in {DAYS} days, \
         then judged; median of 5",
        rows.len()
    );
    figures.push("drift check", seconds, "s", Some(1.0), note);
    Ok(())
}

fn replay_figures(figures: &mut Figures, path: &Path) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("no report at {}: `make run`", path.display()))?;
    let report: Report = serde_json::from_str(&text)?;
    let note = format!("{} predictions, {} cycles; from {}", report.predictions, report.cycles.len(), path.display());
    figures.push("whole replay", report.wall_secs, "s", Some(300.0), note);
    let later = report.cycles.iter().skip(1).rev().find(|cycle| cycle.outcome == "deployed");
    let cycle = later.context("after the first no cycle of the replay was deployed")?;
    let note = format!("{}: {}", cycle.id, cycle.reason);
    figures.add("from alarm to live", cycle.total_secs, "s", note);
    for (step, seconds) in &cycle.seconds_by_step.0 {
        figures.add(format!("  of which {step}"), *seconds, "s", "");
    }
    let training = cycle.seconds_by_step.of("train").context("the cycle has no step `train`")?;
    let note = "all steps but `train`";
    figures.push("from alarm to live, outside training", cycle.total_secs - training, "s", Some(10.0), note);
    Ok(())
}

// ---------------------------------------------------------------- all of it

#[derive(Debug, Serialize)]
struct Document {
    commit: Option<String>,
    date: Option<String>,
    processor: String,
    cores: usize,
    bundle: String,
    rows: Vec<Row>,
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    line.map_or_else(|| "unknown".to_owned(), |(_, name)| name.trim().to_owned())
}

/// What needs a model; the latest flights of the year are asked about.
fn with_model(figures: &mut Figures, world: &World, model: &Model, service: &Path) {
    let latest: Vec<&Example> = world.examples.iter().rev().take(20_000).collect();
    let rows: Vec<&FlightRow> = latest.iter().map(|example| &example.row).collect();
    figures.section("features from raw CSV", |figures| feature_rows(figures, world, &model.predictor));
    figures.section("prediction latency", |figures| prediction_latency(figures, model, &rows));
    figures.section("plain Rust and libtorch", |figures| forward_passes(figures, model, &rows));
    figures.section("drift check", |figures| drift_check(figures, world, model));
    figures.section("service start", |figures| start_up(figures, service, model));
    let mut over_http = None;
    figures.section("service over HTTP", |figures| {
        over_http = Some(service_load(figures, service, model, &latest)?);
        Ok(())
    });
    figures.section("comparison with FastAPI", |figures| fastapi(figures, model, &latest, over_http.as_ref()));
}

fn main() -> Result<()> {
    let state = path_variable("DELAYD_BENCH_STATE", "var/delayd");
    let service = path_variable("DELAYD_SERVE_BIN", "delayd-serve");
    let daemon = path_variable("DELAYD_BIN", env!("CARGO_BIN_EXE_delayd"));
    let data = path_variable("DELAYD_DATA", ".data/nycflights13");
    let out = path_variable("DELAYD_BENCH_OUT", "var/bench/bench.json");
    let mut figures = Figures::default();
    let mut bundle = "none".to_owned();

    figures.section("image", |figures| image_size(figures, &state));
    figures.section("service binary", |figures| binary_size(figures, &service));
    figures.section("idle daemon", |figures| idle_daemon(figures, &daemon, &service));
    figures.section("training, predictions and service", |figures| {
        let world = load_world(&data)?;
        let mut trained = None;
        figures.section("training", |figures| {
            trained = Some(train_model(figures, &world)?);
            Ok(())
        });
        let model = load_model(&state, trained)?;
        bundle.clone_from(&model.origin);
        with_model(figures, &world, &model, &service);
        Ok(())
    });
    figures.section("replay", |figures| replay_figures(figures, Path::new("var/replay/report.json")));

    let document = Document {
        commit: variable("DELAYD_BENCH_COMMIT"),
        date: variable("DELAYD_BENCH_DATE"),
        processor: processor(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        bundle,
        rows: figures.rows,
    };
    if let Some(folder) = out.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&out, serde_json::to_vec_pretty(&document)?)
        .with_context(|| format!("writing {}", out.display()))?;
    println!("{}", table(&document.rows));
    println!("{}, {} cores; model: {}", document.processor, document.cores, document.bundle);
    println!("written to {}", out.display());
    Ok(())
}
