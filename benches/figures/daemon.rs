//! Sizes, the idle daemon, the drift check and the replay.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, Utc};
use delayd::replay::report::Report;
use delayd_features::{FlightRow, RawInputs};
use delayd_judge::evaluation::score_rows;
use delayd_judge::monitoring::drift::{CountedFlight, DriftWindow, count_flights, evaluate};
use delayd_judge::monitoring::settings::DriftPolicy;
use delayd_model::DriftReference;

use crate::flights::World;
use crate::machine::{MEGABYTE, Started, free_port, resident_megabytes};
use crate::model::Model;
use crate::table::Figures;
use crate::timing::median_seconds;

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
