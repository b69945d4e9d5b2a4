//! The model that is asked, and how long it takes to answer.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use delayd_features::{Encoded, FlightRow};
use delayd_judge::evaluation::report::measure_latency;
use delayd_model::{Bundle, DelayNet, Predictor, Scratch};
use delayd_train::TrainedModel;
use delayd_train::network::{TorchNet, TorchRows};

use crate::table::Figures;
use crate::table::median_seconds;

/// A bundle on disk that the service can load.
pub(crate) struct Model {
    pub(crate) dir: PathBuf,
    pub(crate) bundle: Bundle,
    pub(crate) predictor: Predictor,
    pub(crate) origin: String,
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

pub(crate) fn load_model(state: &Path, trained: Option<TrainedModel>) -> Result<Model> {
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

pub(crate) fn prediction_latency(figures: &mut Figures, model: &Model, rows: &[&FlightRow]) -> Result<()> {
    let report = measure_latency(&model.predictor, rows, 50_000).context("there are no rows")?;
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

// ----------------------------------------------------------------
// The network's forward pass in plain Rust, as it serves, next to libtorch's, as it trains.

/// Seconds of plain Rust and of libtorch: for one row, then for all rows at once.
struct ForwardTimes {
    one: (f64, f64),
    all: (f64, f64),
}

fn time_forward_passes(model: &Model, rows: &[&FlightRow]) -> Result<ForwardTimes> {
    let (bundle, encoder) = (&model.bundle, model.predictor.encoder());
    let encoded: Vec<Encoded> = rows.iter().map(|row| encoder.encode(row)).collect();
    let torch = TorchNet::of_bundle(bundle, 1)?;
    let net = DelayNet::from_safetensors(&bundle.model.architecture, &bundle.weights)?;
    let together = TorchRows::encode(encoder, rows)?;
    let singles = rows.iter().take(256).map(|row| TorchRows::encode(encoder, std::slice::from_ref(row)));
    let singles = singles.collect::<Result<Vec<_>, _>>()?;

    let mut scratch = Scratch::default();
    let found = torch.logits(&together)?;
    ensure!(found.len() == rows.len(), "libtorch answers {} logits to {} rows", found.len(), rows.len());
    let mut apart = 0.0_f32;
    for (row, logit) in encoded.iter().zip(&found) {
        apart = apart.max((net.logit(&row.categories, &row.numerics, &mut scratch) - logit).abs());
    }
    ensure!(apart < 1e-2, "the two forward passes differ by {apart}: they are not the same network");

    let mut plain = |rows: &[Encoded]| {
        for row in rows {
            std::hint::black_box(net.logit(&row.categories, &row.numerics, &mut scratch));
        }
        Ok(())
    };
    let (few, count) = (&encoded[..singles.len()], singles.len() as f64);
    let plain_one = median_seconds(40, || plain(few))? / count;
    let plain_all = median_seconds(40, || plain(&encoded))?;
    let logits = |rows: &TorchRows| -> Result<()> {
        std::hint::black_box(torch.logits(rows)?);
        Ok(())
    };
    let torch_one = median_seconds(40, || singles.iter().try_for_each(&logits))?;
    let torch_all = median_seconds(40, || logits(&together))?;
    Ok(ForwardTimes { one: (plain_one, torch_one / count), all: (plain_all, torch_all) })
}

pub(crate) fn forward_passes(figures: &mut Figures, model: &Model, rows: &[&FlightRow]) -> Result<()> {
    let rows = &rows[..rows.len().min(1024)];
    ensure!(!rows.is_empty(), "there are no rows");
    // A thread of its own: libtorch's number of threads stays with it.
    let times = std::thread::scope(|scope| {
        let work = scope.spawn(|| time_forward_passes(model, rows));
        work.join().map_err(|_| anyhow!("the measuring thread panicked"))?
    })?;
    let note = "rows encoded before, one thread each, same rows, same logits";
    for (what, (plain, torch)) in [("1 row".to_owned(), times.one), (format!("{} rows", rows.len()), times.all)] {
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
