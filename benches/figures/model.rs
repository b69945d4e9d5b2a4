//! The model that is asked, and how long it takes to answer.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use delayd_features::FlightRow;
use delayd_judge::evaluation::report::measure_latency;
use delayd_model::{Bundle, Predictor};
use delayd_train::TrainedModel;

use crate::table::Figures;

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
