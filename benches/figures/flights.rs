//! Real flights: read, turned into features, and learnt from.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use delayd_data::{Example, OperationsIndex, TimeZones, airports, assemble, formats, weather};
use delayd_features::{Airport, Encoded, FitOptions, HolidayCalendar};
use delayd_model::Predictor;
use delayd_train::{TrainedModel, TrainingInput, train};
use delayd_training_job::params::DevicePreference;
use delayd_training_job::{TrainingControl, TrainingParameters};

use crate::table::Figures;
use crate::timing::median;

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
    let operations = OperationsIndex::new(&flights, &airports)?;
    let history = weather::WeatherHistory::new(&observations);
    let index_seconds = began.elapsed().as_secs_f64();

    let began = Instant::now();
    let examples = assemble(&flights, &operations, &history, chrono::Duration::minutes(120));
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

pub(crate) fn train_model(figures: &mut Figures, world: &World) -> Result<TrainedModel> {
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
