//! The network's forward pass in plain Rust, as it serves, next to libtorch's, as it trains.

use anyhow::{Result, anyhow, ensure};
use delayd_features::{Encoded, FlightRow};
use delayd_model::{DelayNet, Scratch};
use delayd_train::network::{TorchNet, TorchRows};

use crate::model::Model;
use crate::table::Figures;
use crate::timing::median_seconds;

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
