//! DelayNet's training as a library, and `delayd-train` as a program.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test fails by panicking")]

mod run;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use chrono::{DateTime, Duration, Utc};
use delayd_data::{Example, Outcome};
use delayd_features::{Airport, CategoryInput, FitOptions, FlightRow, HolidayCalendar, NumericInput};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

// ----------------------------------------------------------------
// A small made-up world of flights with a pattern that can be learnt.

pub(crate) const CARRIERS: [(&str, f32); 4] = [("AA", -0.5), ("B6", 0.4), ("DL", -0.9), ("UA", 0.0)];
const ORIGINS: [&str; 3] = ["EWR", "JFK", "LGA"];
const DESTS: [&str; 4] = ["BOS", "LAX", "MIA", "ORD"];

/// Flights over `days` days: the delay depends on the carrier, the overdue flights
/// at the origin and, bent, on the wind.
pub(crate) fn examples(rows: usize, days: i64, seed: u64) -> Vec<Example> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let start: DateTime<Utc> = "2013-03-01T05:00:00Z".parse().unwrap();
    let step = Duration::days(days) / rows as i32;
    (0..rows)
        .map(|n| {
            let departure = start + step * n as i32;
            let (carrier, bias) = CARRIERS[random.random_range(0..CARRIERS.len())];
            let origin = ORIGINS[random.random_range(0..ORIGINS.len())];
            let dest = DESTS[random.random_range(0..DESTS.len())];
            let mut row = FlightRow::scheduled(carrier, random.random_range(1..50), origin, dest, departure);
            row.scheduled_arrival = Some(departure + Duration::minutes(120 + random.random_range(0..200)));
            let overdue: f32 = random.random_range(0.0..20.0);
            let wind: f32 = random.random_range(0.0..60.0);
            row.set(NumericInput::OriginOverdue, overdue);
            row.set(NumericInput::WindSpeed, wind);
            row.set(NumericInput::Temperature, random.random_range(-5.0..30.0));
            if random.random::<f32>() < 0.9 {
                row.set(NumericInput::Visibility, random.random_range(1.0..16.0));
            }
            let logit = bias - 3.0 + 0.15 * overdue + 2.0 * f32::from(u8::from(wind > 40.0));
            let delayed = random.random::<f32>() < 1.0 / (1.0 + (-logit).exp());
            let outcome = Outcome {
                delayed,
                arrival_delay_minutes: if delayed { 30 } else { -5 },
                known_at: departure + Duration::hours(4),
            };
            Example { row, prediction_time: departure - Duration::hours(2), outcome: Some(outcome) }
        })
        .collect()
}

pub(crate) fn airports() -> BTreeMap<String, Airport> {
    let airport = |code: &&str| {
        let time_zone = if *code == "LAX" { "America/Los_Angeles" } else { "America/New_York" };
        let airport =
            Airport { latitude_deg: 40.0, longitude_deg: -74.0, elevation_ft: 10.0, time_zone: time_zone.to_owned() };
        ((*code).to_owned(), airport)
    };
    ORIGINS.iter().chain(&DESTS).map(airport).collect()
}

pub(crate) fn holidays() -> HolidayCalendar {
    HolidayCalendar::us_federal()
}

/// A few inputs, so that tests are quick.
pub(crate) fn fit_options() -> FitOptions {
    let numerics = [
        NumericInput::DepartureHour,
        NumericInput::OriginOverdue,
        NumericInput::WindSpeed,
        NumericInput::Temperature,
        NumericInput::Visibility,
        NumericInput::ScheduledDuration,
    ];
    FitOptions {
        categories: vec![CategoryInput::Carrier, CategoryInput::Origin, CategoryInput::Dest],
        numerics: numerics.iter().map(|input| input.name().to_owned()).collect(),
        ..FitOptions::default()
    }
}

// ----------------------------------------------------------------
// `delayd-train` as a process: what it says before it has any work. Its work is tested in `tests/it/trainer_contract.rs`.
//
// These tests also have Cargo build the program wherever the whole workspace is tested.

/// Key of a document that is in no store.
const DOCUMENT: &str = "training-jobs/run_7/training-0123456789ab/job.json";

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_delayd-train"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DELAYD_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// Runs the program with a line on its standard input, which then ends.
fn given(line: &str) -> Output {
    let mut command = program();
    command.args(["--settings-from-stdin", "--job", DOCUMENT]).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A program that refused at once has closed it.
    let _ = child.stdin.take().unwrap().write_all(line.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The line that says what was wrong.
fn reason(output: &Output) -> String {
    let text = text(&output.stderr);
    let line = text.lines().find(|line| line.starts_with("delayd-train: "));
    line.unwrap_or_else(|| panic!("no reason in {text}")).to_owned()
}

fn settings(folder: &Path) -> String {
    format!("{}\n", serde_json::json!({ "object_store": { "folder": folder } }))
}

#[test]
fn it_says_what_it_would_train_on_and_which_build_it_is() {
    let probed = program().arg("--probe").output().unwrap();
    let said = text(&probed.stdout);
    assert!(probed.status.success(), "{}", text(&probed.stderr));
    assert!((said.starts_with("cpu") || said.starts_with("cuda")) && said.contains("libtorch"), "{said}");
    let version = text(&program().arg("--version").output().unwrap().stdout);
    assert!(version.starts_with(&format!("delayd-train {}", env!("CARGO_PKG_VERSION"))), "{version}");
}

#[test]
fn without_a_document_it_says_what_it_needs() {
    let output = program().output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--job"), "{}", text(&output.stderr));
}

#[test]
fn a_document_that_is_not_there_is_named() {
    let store = tempfile::tempdir().unwrap();
    let output = given(&settings(store.path()));
    assert_eq!(output.status.code(), Some(4), "{}", reason(&output));
    assert!(reason(&output).contains(DOCUMENT), "{}", reason(&output));
}

#[test]
fn settings_that_cannot_be_read_are_refused_and_not_repeated() {
    let line =
        "{\"object_store\": {\"kind\": \"s3\", \"s3\": {\"secret_access_key\": 4711, \"bucket\": \"m4rk3d\"}}}\n";
    let output = given(line);
    assert_eq!(output.status.code(), Some(2));
    let told = [output.stdout.as_slice(), &output.stderr].map(text).concat();
    assert!(reason(&output).contains("standard input"), "{told}");
    assert!(!told.contains("4711") && !told.contains("m4rk3d"), "{told}");
}

#[test]
fn what_the_daemon_gives_counts_whatever_the_environment_that_a_worker_inherits_names() {
    let store = tempfile::tempdir().unwrap();
    let mut command = program();
    command.args(["--settings-from-stdin", "--job", DOCUMENT]).stdin(Stdio::piped());
    command.env("DELAYD_CONFIG", "/nowhere/delayd.toml").env("DELAYD_STATE", "/nowhere/state");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(settings(store.path()).as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", reason(&output));
    assert!(reason(&output).contains(store.path().to_str().unwrap()), "{}", reason(&output));
}
