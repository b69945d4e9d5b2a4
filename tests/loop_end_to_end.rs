//! The whole loop as an operator has it: the `delayd` binary as a process, the real
//! inference service, real flights.
//!
//! Needs the service binary (`DELAYD_SERVE_BIN`, or `service/delayd-serve` beside
//! `delayd`) and nycflights13 (`DELAYD_DATA`, or `.data/nycflights13`). Without them
//! the tests say SKIPPED and pass; the one about wrong inputs needs neither.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use polars::prelude::{ParquetReader, SerReader};
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Small networks, no search, verdicts that do not hang on the wall clock: these
/// tests are about the loop, not about how good the model is.
const QUICK: &str = r#"
[daemon]
http_listen = "127.0.0.1:0"
step_retry_secs = 0.1

[ingestion]
interval_secs = 1

[monitoring]
interval_secs = 1

[holdout]
seasonal_percent = 10

[training]
hidden = 16
blocks = 1
max_epochs = 1
warm_start_max_epochs = 1
torch_threads = 1
validation_tail = { days = 7.0 }
reference_days = 28.0

[tuning.search]
trials = 0

[gate]
replicates = 50
min_roc_auc_gain = -1.0
min_log_loss_gain = -10.0
max_roc_auc_loss = 1.0
max_log_loss_rise = 10.0
max_pr_auc_loss = 1.0
max_recall_loss = 1.0
max_recall_loss_at_equal_alerts = 1.0
max_accuracy_loss = 1.0
min_roc_auc_over_lookup = -1.0
max_latency_ratio = 1000000.0
negligible_latency_us = 1000000000.0
max_robustness_loss = 1.0
max_recent_roc_auc_loss = 1.0
max_fade = 2.0

[verification]
p95_limit_ms = 10000.0
p95_baseline_ratio = 1000.0
score_psi = 1000.0

[cluster]
replicas = 1
drain_linger_secs = 1
"#;

/// Retrains every few days, so that a replay of a fortnight has some.
const OFTEN: &str = r"
[retrain]
max_model_age_days = 6
minimum_new_examples = 500

[retrain.governor]
cooldown_days = 4
urgent_cooldown_days = 4
retrains_per_30_days = 20
";

/// The flights are of 2013 and the daemon's clock is not: age alone must not ask
/// for a cycle.
const NEVER: &str = r"
[retrain]
max_model_age_days = 100000
";

const REPLAY_LIMIT: Duration = Duration::from_secs(900);
const CYCLE_LIMIT: Duration = Duration::from_secs(300);

// ---------------------------------------------------------------- what is needed

/// The service binary and the data.
struct Needs {
    service: PathBuf,
    data: PathBuf,
}

fn delayd() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_delayd"))
}

/// What the tests need, or `None` after saying loudly what is missing.
fn needs(test: &str) -> Option<Needs> {
    let beside = delayd().parent().unwrap();
    let service =
        std::env::var_os("DELAYD_SERVE_BIN").map_or_else(|| beside.join("service/delayd-serve"), PathBuf::from);
    let in_tree = Path::new(env!("CARGO_MANIFEST_DIR")).join(".data/nycflights13");
    let data = std::env::var_os("DELAYD_DATA").map_or(in_tree, PathBuf::from);
    if !service.is_file() {
        eprintln!(
            "SKIPPED: {test}: no service binary at {}; build it, or name it in DELAYD_SERVE_BIN",
            service.display()
        );
        return None;
    }
    if !["flights.csv", "flights.csv.zip"].iter().any(|name| data.join(name).is_file()) {
        eprintln!(
            "SKIPPED: {test}: no flights.csv or flights.csv.zip in {}; name the folder in DELAYD_DATA",
            data.display()
        );
        return None;
    }
    Some(Needs { service: service.canonicalize().unwrap(), data })
}

fn flights_text(data: &Path) -> Option<Box<dyn Read>> {
    if let Ok(plain) = File::open(data.join("flights.csv")) {
        return Some(Box::new(plain));
    }
    let mut archive = zip::ZipArchive::new(File::open(data.join("flights.csv.zip")).ok()?).ok()?;
    let mut text = Vec::new();
    archive.by_index(0).ok()?.read_to_end(&mut text).ok()?;
    Some(Box::new(std::io::Cursor::new(text)))
}

/// Month and day.
type Day = (u32, u32);

/// Copies the rows of some days; `change` may alter each, told its day and number.
fn copy_days(
    from: impl Read,
    to: &Path,
    first: Day,
    last: Day,
    mut change: impl FnMut(&mut Flight, Day, usize),
) -> usize {
    let mut reader = csv::Reader::from_reader(from);
    let header = reader.headers().unwrap().clone();
    let column = |name: &str| header.iter().position(|found| found == name).unwrap();
    let (month, day) = (column("month"), column("day"));
    let mut writer = csv::Writer::from_path(to).unwrap();
    writer.write_record(&header).unwrap();
    let mut copied = 0;
    for record in reader.records() {
        let record = record.unwrap();
        let today: Day = (record[month].parse().unwrap(), record[day].parse().unwrap());
        if today < first || today > last {
            continue;
        }
        let mut flight = Flight { header: &header, cells: record.iter().map(str::to_owned).collect() };
        change(&mut flight, today, copied);
        writer.write_record(&flight.cells).unwrap();
        copied += 1;
    }
    writer.flush().unwrap();
    copied
}

/// One line of the file.
struct Flight<'a> {
    header: &'a csv::StringRecord,
    cells: Vec<String>,
}

impl Flight<'_> {
    fn cell(&mut self, name: &str) -> &mut String {
        let position = self.header.iter().position(|found| found == name).unwrap_or_else(|| panic!("no column {name}"));
        &mut self.cells[position]
    }

    fn set(&mut self, name: &str, value: impl ToString) {
        *self.cell(name) = value.to_string();
    }

    /// Another fate: one in five is cancelled, one in five is punctual, the others
    /// come one and a half to five and a half hours late.
    fn fate(&mut self, number: usize) {
        if number.is_multiple_of(5) {
            for name in ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time", "tailnum"] {
                self.set(name, "NA");
            }
            return;
        }
        let delay = if number % 5 == 1 { 0 } else { 90 + (number * 37 % 240) as i64 };
        let (departure, arrival) = (self.cell("sched_dep_time").clone(), self.cell("sched_arr_time").clone());
        self.set("dep_time", clock_after(&departure, delay));
        self.set("dep_delay", delay);
        self.set("arr_time", clock_after(&arrival, delay));
        self.set("arr_delay", delay);
        if self.cell("air_time").as_str() == "NA" {
            self.set("air_time", 60);
        }
        self.set("tailnum", "N00000");
    }
}

/// `2350` and 20 minutes make `10`.
fn clock_after(hhmm: &str, minutes: i64) -> i64 {
    let hhmm: i64 = hhmm.parse().unwrap();
    let later = (hhmm / 100 * 60 + hhmm % 100 + minutes).rem_euclid(24 * 60);
    if later == 0 { 2400 } else { later / 60 * 100 + later % 60 }
}

/// A folder with some days of the recorded year.
fn reduced(data: &Path, folder: &Path, first: Day, last: Day, change: impl FnMut(&mut Flight, Day, usize)) {
    fs::create_dir_all(folder).unwrap();
    let flights = copy_days(flights_text(data).unwrap(), &folder.join("flights.csv"), first, last, change);
    assert!(flights > 5_000, "only {flights} flights from {first:?} to {last:?} in {}", data.display());
    let weather = File::open(data.join("weather.csv")).unwrap();
    copy_days(weather, &folder.join("weather.csv"), first, last, |_, _, _| ());
    fs::copy(data.join("airports.csv"), folder.join("airports.csv")).unwrap();
}

// ---------------------------------------------------------------- processes

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(delayd());
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("DELAYD_") && text != "DELAYD_SERVE_BIN" {
            command.env_remove(&name);
        }
    }
    command
}

/// Waits for a process; `None` when it still runs after `limit`.
fn ended(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let began = Instant::now();
    while began.elapsed() < limit {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

fn cluster_state(state: &Path) -> Value {
    let text = fs::read(state.join("cluster/cluster.json")).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or(Value::Null)
}

/// Ends the replicas that a state folder's cluster remembers, and no others: an id
/// that went to another program since is left alone.
fn end_replicas(state: &Path) {
    let remembered = cluster_state(state);
    for replica in remembered["replicas"].as_array().into_iter().flatten() {
        let Some(pid) = replica["process"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()) else { continue };
        let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        if program.to_string_lossy().contains("delayd-serve") {
            // One that ended meanwhile is what was wanted.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// A process with its state folder: both its own end and its replicas' are seen to.
struct Running {
    child: Child,
    state: PathBuf,
    log: PathBuf,
}

impl Running {
    fn start(mut command: Command, state: &Path, log: &Path) -> Self {
        let out = File::options().create(true).append(true).open(log).unwrap();
        let child = command.stdout(out.try_clone().unwrap()).stderr(out).spawn().unwrap();
        Self { child, state: state.to_owned(), log: log.to_owned() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        end_replicas(&self.state);
    }
}

// ---------------------------------------------------------------- replays

/// One row of `predictions.parquet`, scores as their bits.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Prediction {
    flight: (String, u32, String, String, i64),
    prediction_time: DateTime<Utc>,
    score: u32,
    model: String,
    frozen_score: u32,
    lookup_score: u32,
}

fn predictions(out: &Path) -> Vec<Prediction> {
    let path = out.join("predictions.parquet");
    let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let frame = ParquetReader::new(file).finish().unwrap();
    let texts = |name: &str| -> Vec<String> {
        let column = frame.column(name).unwrap();
        let column = column.str().unwrap();
        (0..frame.height()).map(|row| column.get(row).unwrap().to_owned()).collect()
    };
    let moments = |name: &str| -> Vec<i64> {
        let column = frame.column(name).unwrap().to_physical_repr();
        let column = column.i64().unwrap();
        (0..frame.height()).map(|row| column.get(row).unwrap()).collect()
    };
    let scores = |name: &str| -> Vec<u32> {
        let column = frame.column(name).unwrap();
        let column = column.f32().unwrap();
        (0..frame.height()).map(|row| column.get(row).unwrap().to_bits()).collect()
    };
    let numbers: Vec<u32> = {
        let column = frame.column("flight_number").unwrap();
        let column = column.u32().unwrap();
        (0..frame.height()).map(|row| column.get(row).unwrap()).collect()
    };
    let (carrier, origin, dest, model) = (texts("carrier"), texts("origin"), texts("dest"), texts("model_version"));
    let (departure, prediction_time) = (moments("scheduled_departure"), moments("prediction_time"));
    let (score, frozen, lookup) = (scores("score"), scores("frozen_score"), scores("lookup_score"));
    (0..frame.height())
        .map(|row| Prediction {
            flight: (carrier[row].clone(), numbers[row], origin[row].clone(), dest[row].clone(), departure[row]),
            prediction_time: DateTime::from_timestamp_micros(prediction_time[row]).unwrap(),
            score: score[row],
            model: model[row].clone(),
            frozen_score: frozen[row],
            lookup_score: lookup[row],
        })
        .collect()
}

/// Runs `delayd replay` and answers its predictions.
fn replayed(needs: &Needs, place: &Path, name: &str, data: &Path, days: [&str; 3], seed: &str) -> Vec<Prediction> {
    let (state, out, log) =
        (place.join(format!("{name}-state")), place.join(format!("{name}-out")), place.join(format!("{name}.log")));
    let config = place.join(format!("{name}.toml"));
    fs::write(&config, format!("{QUICK}{OFTEN}")).unwrap();
    let mut command = command(&[]);
    command.arg("--config").arg(&config).arg("--state").arg(&state).arg("replay").arg("--data").arg(data);
    command.args(["--train-from", days[0], "--train-until", days[1], "--until", days[2], "--seed", seed]);
    command.arg("--out").arg(&out).env("DELAYD_SERVE_BIN", &needs.service);
    let mut running = Running::start(command, &state, &log);
    let status = ended(&mut running.child, REPLAY_LIMIT);
    assert!(status.is_some_and(|status| status.success()), "replay {name} ended with {status:?}:\n{}", tail(&log));
    let predictions = predictions(&out);
    let mut by_model: BTreeMap<&str, usize> = BTreeMap::new();
    for prediction in &predictions {
        *by_model.entry(&prediction.model).or_default() += 1;
    }
    eprintln!("replay {name}: {} predictions, {by_model:?}", predictions.len());
    assert!(predictions.len() > 1_000, "replay {name} made only {} predictions:\n{}", predictions.len(), tail(&log));
    predictions
}

/// The first day of the future that is changed.
const CHANGED_FROM: Day = (3, 8);

#[test]
fn no_prediction_changes_when_the_future_does() {
    let Some(needs) = needs("no_prediction_changes_when_the_future_does") else { return };
    let place = TempDir::new().unwrap();
    let (as_it_was, otherwise) = (place.path().join("as-it-was"), place.path().join("otherwise"));
    reduced(&needs.data, &as_it_was, (1, 15), (3, 14), |_, _, _| ());
    reduced(&needs.data, &otherwise, (1, 15), (3, 14), |flight, day, number| {
        if day >= CHANGED_FROM {
            flight.fate(number);
        }
    });
    let days = ["2013-01-15", "2013-03-01", "2013-03-13"];
    let first = replayed(&needs, place.path(), "as-it-was", &as_it_was, days, "7");
    let second = replayed(&needs, place.path(), "otherwise", &otherwise, days, "7");
    // Midnight in New York: nothing that was changed had happened by then.
    let cut: DateTime<Utc> = "2013-03-08T05:00:00Z".parse().unwrap();
    let split = |all: &[Prediction]| -> [BTreeMap<_, Prediction>; 2] {
        let part = |before: bool| {
            let rows = all.iter().filter(|row| (row.prediction_time < cut) == before);
            rows.map(|row| ((row.prediction_time, row.flight.clone()), row.clone())).collect()
        };
        [part(true), part(false)]
    };
    let ([before, after], [before_otherwise, after_otherwise]) = (split(&first), split(&second));
    assert!(before.len() > 1_000 && after.len() > 1_000, "{} before the cut, {} after", before.len(), after.len());
    assert_eq!(before.len(), before_otherwise.len(), "other flights were asked about before the future changed");
    let changed: Vec<_> = before.iter().filter(|(key, row)| before_otherwise.get(*key) != Some(*row)).collect();
    if let Some((key, row)) = changed.first() {
        panic!(
            "{} of {} predictions made before {cut} know the future; the first: {row:?} became {:?}",
            changed.len(),
            before.len(),
            before_otherwise.get(*key)
        );
    }
    // The test can fail: the change is seen as soon as it may be.
    let differ = after
        .iter()
        .filter(|(key, row)| after_otherwise.get(*key).is_some_and(|other| other.score != row.score))
        .count();
    eprintln!("{differ} of {} predictions after the cut differ", after.len());
    assert!(differ * 10 > after.len(), "only {differ} of {} predictions after the cut differ", after.len());
}

#[test]
fn the_same_seed_gives_the_same_predictions() {
    let Some(needs) = needs("the_same_seed_gives_the_same_predictions") else { return };
    let place = TempDir::new().unwrap();
    let data = place.path().join("data");
    reduced(&needs.data, &data, (1, 1), (2, 8), |_, _, _| ());
    let days = ["2013-01-01", "2013-02-03", "2013-02-07"];
    let first = replayed(&needs, place.path(), "first", &data, days, "7");
    let second = replayed(&needs, place.path(), "second", &data, days, "7");
    assert_eq!(first.len(), second.len());
    if let Some((one, other)) = first.iter().zip(&second).find(|(one, other)| one != other) {
        panic!("the same seed, and yet {one:?} became {other:?}");
    }
    // The test can fail: another seed makes another model.
    let other_seed = replayed(&needs, place.path(), "other-seed", &data, days, "8");
    let differ = first.iter().zip(&other_seed).filter(|(one, other)| one.score != other.score).count();
    assert!(differ * 2 > first.len(), "another seed changed only {differ} of {} scores", first.len());
}

// ---------------------------------------------------------------- the daemon

/// A daemon's folder, with the ways to look into it from outside.
struct Site {
    place: TempDir,
    service: PathBuf,
}

impl Site {
    /// A state folder whose store holds a month of flights.
    fn with_history(needs: &Needs) -> Self {
        let place = TempDir::new().unwrap();
        let site = Self { place, service: needs.service.clone() };
        let data = site.place.path().join("data");
        reduced(&needs.data, &data, (1, 1), (2, 3), |_, _, _| ());
        for (file, key) in [
            ("airports.csv", "reference/airports.csv"),
            ("weather.csv", "weather/weather.csv"),
            ("flights.csv", "flights/2013-01.csv"),
        ] {
            site.put(key, &fs::read(data.join(file)).unwrap());
        }
        fs::write(site.config(), format!("{QUICK}{NEVER}")).unwrap();
        site
    }

    fn state(&self) -> PathBuf {
        self.place.path().join("state")
    }

    fn config(&self) -> PathBuf {
        self.place.path().join("delayd.toml")
    }

    /// Puts an object into the store, whole at once.
    fn put(&self, key: &str, body: &[u8]) {
        let target = self.state().join("store").join(key);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        let beside = self.place.path().join("being-written");
        fs::write(&beside, body).unwrap();
        fs::rename(beside, target).unwrap();
    }

    fn start(&self) -> Running {
        let (config, state) = (self.config(), self.state());
        let mut command = command(&["--config", config.to_str().unwrap(), "--state", state.to_str().unwrap(), "run"]);
        command.env("DELAYD_SERVE_BIN", &self.service);
        Running::start(command, &state, &self.place.path().join("daemon.log"))
    }

    /// The ledger as it is now; `None` while there is none. A ledger that is only
    /// being made has no write-ahead log yet, and is left in peace.
    fn ledger(&self) -> Option<Connection> {
        if !self.state().join("ledger.sqlite-wal").exists() {
            return None;
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(self.state().join("ledger.sqlite"), flags).ok()?;
        connection.busy_timeout(Duration::from_secs(5)).ok()?;
        Some(connection)
    }

    /// State and attempt of a step of the only cycle.
    fn step(&self, ledger: &Connection, name: &str) -> Option<(String, i64)> {
        let row = ledger.query_row("SELECT state, attempt FROM steps WHERE name = ?1", [name], |row| {
            Ok((row.get(0)?, row.get(1)?))
        });
        // Before the first migration there is no table.
        row.optional().unwrap_or(None)
    }

    fn count(&self, query: &str) -> i64 {
        self.ledger().unwrap().query_row(query, [], |row| row.get(0)).unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    /// Looks again and again until there is an answer; a daemon that ended, or a
    /// deadline that passed, fails with the daemon's last words.
    fn wait<T>(&self, daemon: &mut Running, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            if let Some(status) = daemon.child.try_wait().unwrap() {
                panic!("the daemon ended ({status}) while waiting until {what}:\n{}", tail(&daemon.log));
            }
            assert!(
                began.elapsed() < CYCLE_LIMIT,
                "waited {CYCLE_LIMIT:?} in vain until {what}:\n{}",
                tail(&daemon.log)
            );
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    fn wait_for_the_cycle(&self, daemon: &mut Running) {
        let (outcome, detail) = self.wait(daemon, "the cycle is finished", || {
            let ledger = self.ledger()?;
            let finished = "SELECT outcome, detail FROM cycles WHERE state = 'finished'";
            let row = ledger.query_row(finished, [], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)));
            row.optional().unwrap_or(None)
        });
        assert_eq!(outcome, "deployed", "{detail}\n{}", tail(&daemon.log));
    }

    /// `POST /predict` about one flight; `None` when nobody answers.
    fn predict(&self) -> Option<(u16, String)> {
        let port = cluster_state(&self.state())["public_port"].as_u64().and_then(|port| u16::try_from(port).ok())?;
        let body = json!({ "flights": [{
            "carrier": "UA", "flight_number": 1545, "origin": "EWR", "dest": "IAH",
            "scheduled_departure": "2013-02-04T15:15:00Z", "scheduled_arrival": "2013-02-04T19:15:00Z",
            "distance_miles": 1400.0, "context": {},
        }] })
        .to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        let request = format!(
            "POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        Some((status, answer))
    }

    fn assert_it_answers(&self, daemon: &Running) {
        let (status, answer) =
            self.predict().unwrap_or_else(|| panic!("the service does not answer:\n{}", tail(&daemon.log)));
        assert_eq!(status, 200, "{answer}");
        assert!(answer.contains("model_v1") && answer.contains("score"), "{answer}");
    }

    /// The end that every cycle must have, killed or not: everything once.
    fn assert_one_model_is_live(&self, daemon: &mut Running) {
        assert_eq!(self.count("SELECT count(*) FROM cycles"), 1, "cycles");
        assert_eq!(self.count("SELECT count(*) FROM cycles WHERE outcome = 'deployed'"), 1, "deployed cycles");
        assert_eq!(self.count("SELECT count(*) FROM runs"), 1, "runs");
        assert_eq!(self.count("SELECT count(*) FROM models"), 1, "models");
        assert_eq!(self.count("SELECT count(*) FROM images"), 1, "images");
        assert_eq!(self.count("SELECT count(*) FROM deployments"), 1, "deployments");
        assert_eq!(self.count("SELECT count(*) FROM deployments WHERE state = 'approved'"), 1, "approved deployments");
        assert_eq!(self.count("SELECT count(*) FROM aliases WHERE alias = 'live'"), 1, "live aliases");
        assert_eq!(self.count("SELECT count(*) FROM steps"), 10, "steps");
        assert_eq!(self.count("SELECT count(*) FROM steps WHERE state = 'done'"), 10, "steps that are done");
        self.assert_it_answers(daemon);
        // As many replicas as are configured: none of a killed daemon is left over.
        self.wait(daemon, "exactly one replica is left, and serves", || {
            let remembered = cluster_state(&self.state());
            let replicas = remembered["replicas"].as_array()?;
            (replicas.len() == 1 && replicas[0]["phase"] == "serving").then_some(())
        });
    }

    /// Asks the daemon to stop; the live model must keep serving without it.
    fn stop(&self, mut daemon: Running) {
        kill(Pid::from_raw(i32::try_from(daemon.child.id()).unwrap()), Signal::SIGTERM).unwrap();
        let status = ended(&mut daemon.child, Duration::from_secs(30));
        assert!(
            status.is_some_and(|status| status.success()),
            "stopping ended with {status:?}:\n{}",
            tail(&daemon.log)
        );
        self.assert_it_answers(&daemon);
    }
}

/// Kills the daemon at the moment a step is first seen in the ledger, starts it
/// again, and expects the cycle to go on as if nothing had been.
fn killed_during(test: &str, step: &str) {
    let Some(needs) = needs(test) else { return };
    let site = Site::with_history(&needs);
    let mut daemon = site.start();
    let ledger = site.wait(&mut daemon, "there is a ledger", || site.ledger());
    let (seen, _) = site.wait(&mut daemon, &format!("step `{step}` has begun"), || site.step(&ledger, step));
    // SIGKILL: nothing can be put in order first.
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    drop(ledger);
    let left =
        site.step(&site.ledger().unwrap(), step).unwrap_or_else(|| panic!("step `{step}` vanished from the ledger"));
    eprintln!("killed when `{step}` was {seen}; it was left {left:?}");
    let done_before = site.count("SELECT count(*) FROM steps WHERE state = 'done'");

    // `daemon` is kept: dropping it would end the replicas, which outlive a daemon.
    let mut next = site.start();
    site.wait_for_the_cycle(&mut next);
    site.assert_one_model_is_live(&mut next);
    let (state, attempt) = site.step(&site.ledger().unwrap(), step).unwrap();
    assert_eq!(state, "done");
    if left.0 == "running" {
        assert!(attempt >= 2, "`{step}` was under way when the daemon was killed, and is still at attempt {attempt}");
    } else {
        eprintln!("`{step}` was too short to be killed in: it was {}", left.0);
    }
    // What was done before was not done again.
    let again = site.count("SELECT count(*) FROM steps WHERE attempt > 1");
    assert!(again <= 1, "{again} steps were done again, {done_before} were done before the kill");
    site.stop(next);
    drop(daemon);
}

#[test]
fn a_cycle_that_was_killed_in_training_goes_on_once_after_a_start() {
    killed_during("a_cycle_that_was_killed_in_training_goes_on_once_after_a_start", "train");
}

#[test]
fn a_cycle_that_was_killed_in_packaging_goes_on_once_after_a_start() {
    killed_during("a_cycle_that_was_killed_in_packaging_goes_on_once_after_a_start", "package");
}

#[test]
fn a_cycle_that_was_killed_in_its_rollout_goes_on_once_after_a_start() {
    killed_during("a_cycle_that_was_killed_in_its_rollout_goes_on_once_after_a_start", "deploy");
}

#[test]
fn the_live_model_keeps_serving_when_a_log_is_garbage() {
    let Some(needs) = needs("the_live_model_keeps_serving_when_a_log_is_garbage") else { return };
    let site = Site::with_history(&needs);
    let mut daemon = site.start();
    site.wait_for_the_cycle(&mut daemon);
    site.assert_one_model_is_live(&mut daemon);

    let good = site.place.path().join("good.csv");
    copy_days(flights_text(&needs.data).unwrap(), &good, (2, 4), (2, 4), |_, _, _| ());
    let good = fs::read(good).unwrap();
    let zipped = gzip(&good);
    let bad = ["flights/garbage.csv", "flights/truncated.csv.gz", "flights/empty.csv"];
    site.put(bad[0], b"dear sir or madam\n\x00\xff\xfe, please find attached\n");
    site.put(bad[1], &zipped[..zipped.len() / 2]);
    site.put(bad[2], b"");
    // The good one comes with them: bad neighbours do not keep it out.
    site.put("flights/good.csv", &good);

    let of = |key: &str| -> Option<(String, Option<String>)> {
        let ledger = site.ledger()?;
        let row = ledger.query_row("SELECT status, error FROM objects WHERE object_key = ?1", [key], |row| {
            Ok((row.get(0)?, row.get(1)?))
        });
        row.optional().unwrap_or(None)
    };
    for key in bad {
        let (status, error) = site.wait(&mut daemon, &format!("{key} was looked at"), || of(key));
        assert!(status == "rejected" || status == "failed", "{key} is {status}");
        let error = error.unwrap_or_default();
        eprintln!("{status}: {error}");
        assert!(error.contains(key), "the reason does not name {key}: `{error}`");
    }
    let (status, _) = site.wait(&mut daemon, "the good log was looked at", || of("flights/good.csv"));
    assert_eq!(status, "ingested");
    // Several more looks at the store: the same garbage is not taken for news.
    let objects = site.count("SELECT count(*) FROM objects");
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(site.count("SELECT count(*) FROM objects"), objects);
    site.assert_one_model_is_live(&mut daemon);
    site.stop(daemon);
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

// ---------------------------------------------------------------- wrong inputs

const AIRPORTS: &str = "faa,name,lat,lon,alt,tz,dst,tzone
EWR,Newark Liberty Intl,40.6925,-74.168667,18,-5,A,America/New_York
IAH,George Bush Intercontinental,29.984433,-95.341442,97,-6,A,America/Chicago
";
const WEATHER: &str =
    "origin,year,month,day,hour,temp,dewp,humid,wind_dir,wind_speed,wind_gust,precip,pressure,visib,time_hour
EWR,2013,1,1,1,39.02,26.06,59.37,270,10.35702,NA,0,1012,10,2013-01-01T06:00:00Z
";
const FLIGHTS: &str = "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,origin,dest,air_time,distance,hour,minute,time_hour
";
const FLIGHT: &str = "2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z
";

/// A folder to replay whose flights are this file.
fn folder(place: &Path, name: &str, file: &str, body: &[u8]) -> String {
    let folder = place.join(name);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("airports.csv"), AIRPORTS).unwrap();
    fs::write(folder.join("weather.csv"), WEATHER).unwrap();
    fs::write(folder.join(file), body).unwrap();
    folder.to_str().unwrap().to_owned()
}

/// Runs a command that must fail, and answers its exit status and its one line.
fn refused(what: &str, arguments: &[&str]) -> (i32, String) {
    let mut child = command(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let status = ended(&mut child, Duration::from_secs(60));
    if status.is_none() {
        child.kill().unwrap();
    }
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    let _ = child.wait();
    let status = status.unwrap_or_else(|| panic!("{what}: still running after a minute:\n{text}"));
    let code = status.code().unwrap_or_else(|| panic!("{what}: ended by a signal ({status}):\n{text}"));
    assert_ne!(code, 0, "{what}: it was taken:\n{text}");
    assert!(!text.contains("panicked"), "{what}: {text}");
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    assert_eq!(lines.len(), 1, "{what}: expected one line, found:\n{text}");
    assert!(lines[0].starts_with("delayd: "), "{what}: {text}");
    (code, lines[0].to_owned())
}

#[test]
fn a_daemon_says_what_is_wrong_with_its_input() {
    let place = TempDir::new().unwrap();
    let at = place.path();
    let file = |name: &str, text: &str| -> String {
        let path = at.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let state = |name: &str| at.join(name).to_str().unwrap().to_owned();
    let mut wrong: Vec<String> = Vec::new();
    let mut expect = |what: &str, line: &str, parts: &[&str]| {
        eprintln!("{what}: {line}");
        let missing: Vec<&&str> = parts.iter().filter(|part| !line.contains(**part)).collect();
        if !missing.is_empty() {
            wrong.push(format!("{what}: {missing:?} not in `{line}`"));
        }
    };

    // The configuration.
    let none = state("none");
    let config = |what: &str, text: &str, parts: &[&str], expect: &mut dyn FnMut(&str, &str, &[&str])| {
        let config = file(&format!("{}.toml", what.replace(' ', "-")), text);
        let (code, line) = refused(what, &["--config", config.as_str(), "--state", none.as_str(), "cycles"]);
        assert_eq!(code, 2, "{what}: {line}");
        expect(what, &line, parts);
    };
    config(
        "an unknown key",
        "[training]\nlearning_rat = 0.1\n",
        &["configuration", "learning_rat", "expected"],
        &mut expect,
    );
    config(
        "a wrong type",
        "[training]\nmax_epochs = \"many\"\n",
        &["configuration", "max_epochs", "many"],
        &mut expect,
    );
    let (code, line) = refused("no configuration file", &["--config", "/nowhere/delayd.toml", "cycles"]);
    assert_eq!(code, 2);
    expect("no configuration file", &line, &["/nowhere/delayd.toml", "cannot be read"]);

    // The data.
    let replay = |what: &str, data: &str, until: &str| {
        let (state, out) = (state(&format!("state of {what}")), state(&format!("out of {what}")));
        let dates = ["--train-from", "2013-01-01", "--train-until", until, "--until", "2013-03-15"];
        let mut arguments: Vec<&str> = vec!["--state", state.as_str(), "replay", "--data", data, "--out", out.as_str()];
        arguments.extend(dates);
        refused(what, &arguments).1
    };
    let missing = state("no-such-folder");
    expect("no data folder", &replay("no data folder", &missing, "2013-03-01"), &[missing.as_str(), "cannot be read"]);
    let empty = folder(at, "empty", "flights.csv", b"");
    expect(
        "an empty file",
        &replay("an empty file", &empty, "2013-03-01"),
        &["flights.csv", "empty", "Upload it again"],
    );
    let only_header = folder(at, "only-header", "flights.csv", FLIGHTS.as_bytes());
    expect("no flights", &replay("no flights", &only_header, "2013-03-01"), &["flights", "expected"]);
    let without = FLIGHTS.replace(",sched_dep_time", "").replace(",carrier", "");
    let without = folder(at, "without", "flights.csv", without.as_bytes());
    expect(
        "missing columns",
        &replay("missing columns", &without, "2013-03-01"),
        &["flights.csv: line 1", "missing column", "sched_dep_time", "carrier"],
    );
    let no_layout = folder(at, "no-layout", "flights.csv", b"from,to,when\na,b,c\n");
    expect(
        "other columns",
        &replay("other columns", &no_layout, "2013-03-01"),
        &["flights.csv: line 1", "from, to, when", "column_mapping"],
    );
    let whole = gzip(format!("{FLIGHTS}{}", FLIGHT.repeat(2_000)).as_bytes());
    let truncated = folder(at, "truncated", "flights.csv.gz", &whole[..whole.len() / 2]);
    expect(
        "a truncated gz",
        &replay("a truncated gz", &truncated, "2013-03-01"),
        &["flights.csv.gz", "cut off", "upload it again"],
    );
    let fine = folder(at, "fine", "flights.csv", format!("{FLIGHTS}{FLIGHT}").as_bytes());
    expect(
        "dates the wrong way round",
        &replay("dates the wrong way round", &fine, "2012-12-01"),
        &["--train-from before --train-until"],
    );

    // The ledger.
    let taken = at.join("taken");
    fs::create_dir_all(&taken).unwrap();
    let letter = "Dear sir or madam, this is no database.\n".repeat(200);
    fs::write(taken.join("ledger.sqlite"), &letter).unwrap();
    let taken = taken.to_str().unwrap().to_owned();
    let no_database = ["ledger.sqlite", "not an SQLite database", "move it away"];
    expect(
        "a letter as ledger, read",
        &refused("a letter as ledger, read", &["--state", taken.as_str(), "cycles"]).1,
        &no_database,
    );
    let any_port = file("any-port.toml", "[daemon]\nhttp_listen = \"127.0.0.1:0\"\n");
    let run = refused("a letter as ledger, run", &["--config", any_port.as_str(), "--state", taken.as_str(), "run"]).1;
    expect("a letter as ledger, run", &run, &no_database);
    let unchanged = fs::read_to_string(Path::new(&taken).join("ledger.sqlite")).unwrap();
    assert!(unchanged == letter, "the file that is no ledger was changed");
    let (code, line) = refused("no ledger", &["--state", none.as_str(), "cycles"]);
    assert_eq!(code, 4, "{line}");
    expect("no ledger", &line, &["there is no ledger at", "--state"]);

    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
