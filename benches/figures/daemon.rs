//! Sizes, the idle daemon, the drift check and the replay.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use delayd::replay::report::Report;
use delayd_data::{Example, OperationsIndex, TimeZones, airports, assemble, formats, weather};
use delayd_features::{Airport, Encoded, FitOptions, FlightRow, HolidayCalendar, RawInputs};
use delayd_judge::evaluation::score_rows;
use delayd_judge::monitoring::drift::{CountedFlight, DriftWindow, count_flights, evaluate};
use delayd_judge::monitoring::settings::DriftPolicy;
use delayd_model::{DriftReference, Predictor};
use delayd_train::{TrainedModel, TrainingInput, train};
use delayd_training_job::params::DevicePreference;
use delayd_training_job::{TrainingControl, TrainingParameters};

use crate::model::Model;
use crate::table::Figures;
use crate::table::{MEGABYTE, Started, free_port, resident_megabytes};
use crate::table::{median, median_seconds};

pub(crate) fn image_size(figures: &mut Figures, state: &Path) -> Result<()> {
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

pub(crate) fn binary_size(figures: &mut Figures, binary: &Path) -> Result<()> {
    let bytes = binary.metadata().with_context(|| format!("{} is not there", binary.display()))?.len();
    figures.add("service binary, static", bytes as f64 / MEGABYTE, "MB", binary.display().to_string());
    Ok(())
}

/// Starts `delayd run` on a state directory in `folder`, and waits until it answers.
fn start_daemon(binary: &Path, service: &Path, folder: &Path) -> Result<(Started, SocketAddr)> {
    ensure!(binary.is_file(), "{} is not there; `make build` builds it", binary.display());
    let log = folder.join("log");
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let mut command = Command::new(binary);
    command.arg("--state").arg(folder.join("state")).arg("run");
    command.env("DELAYD__HTTP__LISTEN", address.to_string());
    command.env("DELAYD_SERVE_BIN", service).env_remove("DELAYD_CONFIG").env_remove("DELAYD_STATE");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&log)?);
    let mut process = Started(command.spawn()?);
    while TcpStream::connect(address).is_err() {
        if process.ended()? {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            bail!("the daemon ended by itself: {}", text.lines().last().unwrap_or("no log"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok((process, address))
}

pub(crate) fn idle_daemon(figures: &mut Figures, binary: &Path, service: &Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (mut process, _) = start_daemon(binary, service, folder.path())?;
    std::thread::sleep(Duration::from_secs(15));
    let note = "VmRSS 15 s after `delayd run` on an empty state directory";
    figures.push("daemon memory, idle", resident_megabytes(process.0.id())?, "MB", Some(120.0), note);
    process.stop_politely()
}

/// What a Prometheus costs a daemon whose ledger holds a year of traffic.
pub(crate) fn scrapes(figures: &mut Figures, binary: &Path, service: &Path) -> Result<()> {
    const ROWS: u32 = 400_000;
    const SCRAPES: usize = 30;
    let folder = tempfile::tempdir()?;
    start_daemon(binary, service, folder.path())?.0.stop_politely()?;
    let ledger = rusqlite::Connection::open(folder.path().join("state/ledger.sqlite"))?;
    ledger.execute_batch(&format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
         INSERT INTO outcomes SELECT 'UA', i % 9000, 'EWR', 'IAH', i * 1000000, i % 5 = 0, i * 1000000 FROM n;
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
         INSERT INTO served_predictions
         SELECT 'r', i, 'UA', i % 9000, 'EWR', 'IAH', i * 1000000, i * 1000000, 0.2, 1 FROM n;"
    ))?;
    drop(ledger);
    let (mut process, address) = start_daemon(binary, service, folder.path())?;
    let scrape = || -> Result<()> {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.contains("delayd_ingestion_watermark_timestamp_seconds 400000\n"), "not the ledger's metrics");
        Ok(())
    };
    let seconds = median_seconds(SCRAPES, scrape)?;
    let note = format!("median of {SCRAPES}, over HTTP; {ROWS} outcomes and as many predictions in the ledger");
    figures.add("scrape of the daemon's metrics", seconds * 1e3, "ms", note);
    process.stop_politely()
}

pub(crate) fn drift_check(figures: &mut Figures, world: &World, model: &Model) -> Result<()> {
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

pub(crate) fn replay_figures(figures: &mut Figures, path: &Path) -> Result<()> {
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

// ----------------------------------------------------------------
// Real flights: read, turned into features, and learnt from.

pub(crate) struct World {
    pub(crate) examples: Vec<Example>,
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

pub(crate) fn load_world(folder: &Path) -> Result<World> {
    let (key, body) = read_file(folder, "airports")?;
    let (mut airports, _) = airports::parse_airports(&key, &body, &BTreeMap::new(), &formats::ParseLimits::default())?;
    airports::supplement(&mut airports);
    let zones = TimeZones::of(&airports)?;
    let (weather_key, weather_body) = read_file(folder, "weather")?;
    let (key, body) = read_file(folder, "flights")?;

    let began = Instant::now();
    let (observations, _) = weather::parse_weather_csv(&weather_key, &weather_body, &formats::ParseLimits::default())?;
    let parsed = formats::parse_flights(&key, &body, &zones, None, &formats::ParseLimits::default())?;
    let flights: Vec<_> = parsed.flights.into_iter().map(|(_, flight)| flight).collect();
    let parse_seconds = began.elapsed().as_secs_f64();

    let began = Instant::now();
    std::hint::black_box(OperationsIndex::new(&flights, &airports)?);
    let history = weather::WeatherHistory::new(&observations);
    let index_seconds = began.elapsed().as_secs_f64();

    let began = Instant::now();
    let examples = assemble(&flights, &airports, &history, chrono::Duration::minutes(120))?;
    let assemble_seconds = began.elapsed().as_secs_f64();
    ensure!(!examples.is_empty(), "{} holds no flight", folder.display());
    Ok(World { examples, airports, parse_seconds, index_seconds, assemble_seconds })
}

pub(crate) fn feature_rows(figures: &mut Figures, world: &World, predictor: &Predictor) -> Result<()> {
    let (encoder, rows) = (predictor.encoder(), world.examples.len() as f64);
    let first = world.examples.first().context("no examples")?;
    let Encoded { mut categories, mut numerics } = encoder.encode(&first.row);
    let began = Instant::now();
    for example in &world.examples {
        encoder.encode_into(&example.row, &mut categories, &mut numerics);
        std::hint::black_box((&categories, &numerics));
    }
    let encode_seconds = began.elapsed().as_secs_f64();
    let total = world.parse_seconds + world.assemble_seconds + encode_seconds;
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

pub(crate) fn train_model(figures: &mut Figures, world: &World) -> Result<TrainedModel> {
    let until: DateTime<Utc> = "2013-04-01T05:00:00Z".parse()?;
    let known = |example: &&Example| example.outcome.is_some_and(|outcome| outcome.known_at < until);
    let examples: Vec<Example> = world.examples.iter().filter(known).cloned().collect();
    let parameters = TrainingParameters { torch_threads: 2, device: DevicePreference::Cpu, ..Default::default() };
    let parameters = parameters.check()?;
    let input = TrainingInput {
        examples: &examples.as_slice(),
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
