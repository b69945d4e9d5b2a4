//! How good DelayNet is on New York's 2013 when it is retrained month by month on
//! everything known by then, and what a choice of parameters does to that.
//!
//!     cargo run --release --example quality -- DATA_DIR [--every N] ['{"members": 2}' …]
//!
//! `DATA_DIR` holds nycflights13's flights, weather and airports. Each further
//! argument is one experiment: JSON that overrides the default training parameters.

#![allow(clippy::print_stdout, reason = "a report for the terminal")]

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use bytes::Bytes;
use chrono::{DateTime, Duration, TimeZone, Utc};
use delayd_data::{Example, TimeZones, airports, assemble, formats, weather};
use delayd_features::{Airport, FitOptions, FlightRow, HolidayCalendar};
use delayd_judge::evaluation::Metrics;
use delayd_judge::evaluation::score_rows;
use delayd_model::{Bundle, Predictor};
use delayd_train::{TrainingInput, train};
use delayd_training_job::{TrainingControl, TrainingParameters};
use std::collections::BTreeMap;

struct World {
    examples: Vec<Example>,
    airports: BTreeMap<String, Airport>,
}

fn read(folder: &Path, stem: &str) -> Result<(String, Bytes)> {
    for ending in ["csv", "csv.zip", "csv.gz"] {
        let path = folder.join(format!("{stem}.{ending}"));
        if let Ok(bytes) = std::fs::read(&path) {
            return Ok((path.display().to_string(), Bytes::from(bytes)));
        }
    }
    anyhow::bail!("{} holds no {stem}.csv, .csv.zip or .csv.gz", folder.display())
}

fn load(folder: &Path) -> Result<World> {
    let began = Instant::now();
    let limits = formats::ParseLimits::default();
    let (key, body) = read(folder, "airports")?;
    let (mut airports, _) = airports::parse_airports(&key, &body, &BTreeMap::new(), &limits)?;
    airports::supplement(&mut airports);
    let zones = TimeZones::of(&airports)?;
    let (key, body) = read(folder, "weather")?;
    let (observations, _) = weather::parse_weather_csv(&key, &body, &limits)?;
    let (key, body) = read(folder, "flights")?;
    let parsed = formats::parse_flights(&key, &body, &zones, None, &limits)?;
    let flights: Vec<_> = parsed.flights.into_iter().map(|(_, flight)| flight).collect();
    let weather = weather::WeatherHistory::new(&observations);
    let examples = assemble(&flights, &airports, &weather, Duration::minutes(120))?;
    println!("{} examples assembled in {:.0} s", examples.len(), began.elapsed().as_secs_f64());
    Ok(World { examples, airports })
}

/// The first moment of a month of 2013 in New York (winter time will do).
fn month(number: u32) -> Result<DateTime<Utc>> {
    let (year, number) = if number > 12 { (2014, number - 12) } else { (2013, number) };
    Utc.with_ymd_and_hms(year, number, 1, 5, 0, 0).single().context("no such month")
}

fn parameters(overrides: &str) -> Result<TrainingParameters> {
    let mut value = serde_json::to_value(TrainingParameters::default())?;
    let changes: serde_json::Map<String, serde_json::Value> = serde_json::from_str(overrides)?;
    let target = value.as_object_mut().context("parameters are no object")?;
    target.extend(changes);
    Ok(serde_json::from_value(value)?)
}

fn experiment(world: &World, name: &str, every: u32) -> Result<()> {
    let parameters = parameters(name)?.check()?;
    let (mut scores, mut labels, mut by_month) = (Vec::new(), Vec::new(), String::new());
    let (mut fitting, mut total, mut longest) = (0.0, 0.0, 0.0_f64);
    let mut previous: Option<Bundle> = None;
    let mut start = 3;
    while start <= 12 {
        let (from, until) = (month(start)?, month((start + every).min(13))?);
        let known: Vec<Example> = world
            .examples
            .iter()
            .filter(|example| example.outcome.is_some_and(|outcome| outcome.known_at < from))
            .cloned()
            .collect();
        let later: Vec<&Example> = world
            .examples
            .iter()
            .filter(|e| e.outcome.is_some() && (from..until).contains(&e.row.scheduled_departure))
            .collect();
        let input = TrainingInput {
            sample_weights: None,
            examples: &known.as_slice(),
            airports: &world.airports,
            holidays: &HolidayCalendar::us_federal(),
            fit: &FitOptions::default(),
            dataset: None,
            previous: previous.as_ref(),
        };
        let model = train(&input, &parameters, None, &TrainingControl::default())?;
        let predictor = Predictor::from_bundle(&model.bundle)?;
        let rows: Vec<&FlightRow> = later.iter().map(|example| &example.row).collect();
        let now = score_rows(&predictor, &rows);
        let came: Vec<bool> = later.iter().map(|e| e.outcome.is_some_and(|outcome| outcome.delayed)).collect();
        let found = Metrics::of(&now, &came, predictor.threshold());
        by_month.push_str(&format!(" {:.3}", found.roc_auc.unwrap_or(f64::NAN)));
        fitting += model.report.fitting_seconds;
        total += model.report.total_seconds;
        longest = longest.max(model.report.total_seconds);
        if start == 3 {
            let epochs: Vec<String> = model
                .report
                .epochs
                .iter()
                .map(|e| format!("{:.4}/{:.3}", e.validation_log_loss, e.validation_roc_auc.unwrap_or(f64::NAN)))
                .collect();
            println!("  first run: {} rows, epochs {}", model.report.record.train_rows, epochs.join(" "));
        }
        scores.extend(now);
        labels.extend(came);
        previous = Some(model.bundle);
        start += every;
    }
    let pooled = Metrics::of(&scores, &labels, 0.3);
    let number = |value: Option<f64>| value.unwrap_or(f64::NAN);
    println!(
        "{name} | {:.4} | {:.4} | {:.4} | {:.4} | fit {fitting:.0} s, all {total:.0} s, longest {longest:.0} s |{by_month}",
        number(pooled.roc_auc),
        number(pooled.pr_auc),
        number(pooled.log_loss),
        number(pooled.expected_calibration_error),
    );
    Ok(())
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    let folder = arguments.next().context("usage: quality DATA_DIR [--every MONTHS] [JSON …]")?;
    let mut every = 1;
    if arguments.next_if(|argument| argument == "--every").is_some() {
        every = arguments.next().context("--every wants a number of months")?.parse()?;
    }
    let world = load(Path::new(&folder))?;
    println!("parameters | ROC-AUC | PR-AUC | log-loss | ECE | time | ROC-AUC by stretch");
    let mut experiments: Vec<String> = arguments.collect();
    if experiments.is_empty() {
        experiments.push("{}".to_owned());
    }
    experiments.iter().try_for_each(|name| experiment(&world, name, every))
}
