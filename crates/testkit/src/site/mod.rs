//! The daemon as an operator has it, for tests: the `delayd` binary as a process,
//! the real inference service, real flights. Each test file uses its own part.
//!
//! Needs the service binary (`DELAYD_SERVE_BIN`, or `delayd-serve` beside `delayd`), the training worker
//! (`DELAYD_TRAIN_BIN`, or `delayd-train` beside it) and nycflights13 (`DELAYD_DATA`, or `.data/nycflights13`). Without
//! them the tests say SKIPPED and pass.

mod daemon;

use std::fs;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

pub use daemon::{DatalessDaemon, Site, one_flight, put_history, text};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::programs::training_program;

/// Small networks, no search, verdicts that do not hang on the wall clock: these
/// tests are about the loop, not about how good the model is.
pub const QUICK: &str = r#"
[http]
listen = "127.0.0.1:0"
loopback_role = "operator"

[daemon]
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
pub const OFTEN: &str = r"
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
pub const NEVER: &str = r"
[retrain]
max_model_age_days = 100000
";

pub const REPLAY_LIMIT: Duration = Duration::from_secs(900);
pub const CYCLE_LIMIT: Duration = Duration::from_secs(300);

// ----------------------------------------------------------------
// Processes, and their ends.

/// What names the programs that a daemon starts.
const PROGRAMS: [&str; 2] = ["DELAYD_SERVE_BIN", "DELAYD_TRAIN_BIN"];

pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(delayd());
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("DELAYD_") && !PROGRAMS.contains(&text.as_ref()) {
            command.env_remove(&name);
        }
    }
    command
}

/// Waits for a process; `None` when it still runs after `limit`.
pub fn ended(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let began = Instant::now();
    while began.elapsed() < limit {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

pub fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

pub fn cluster_state(state: &Path) -> Value {
    let text = fs::read(state.join("cluster/cluster.json")).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or(Value::Null)
}

/// Ends the replicas that a state folder's cluster remembers, and no others: an id
/// that went to another program since is left alone.
pub fn end_replicas(state: &Path) {
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
pub struct Running {
    pub child: Child,
    pub state: PathBuf,
    pub log: PathBuf,
}

impl Running {
    pub fn start(mut command: Command, state: &Path, log: &Path) -> Self {
        let out = File::options().create(true).append(true).open(log).unwrap();
        let child = command.stdout(out.try_clone().unwrap()).stderr(out).spawn().unwrap();
        Self { child, state: state.to_owned(), log: log.to_owned() }
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Its exit status, once it has ended; it is given a minute.
    pub fn end(&mut self) -> ExitStatus {
        ended(&mut self.child, Duration::from_secs(60))
            .unwrap_or_else(|| panic!("it does not end:\n{}", tail(&self.log)))
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

// ----------------------------------------------------------------
// What the tests need, and days of the recorded year.

/// The programs that a daemon starts, and the data.
pub struct Needs {
    pub service: PathBuf,
    pub trainer: PathBuf,
    pub data: PathBuf,
}

pub fn delayd() -> &'static Path {
    crate::programs::delayd()
}

/// What the tests need, or `None` after saying loudly what is missing.
pub fn needs(test: &str) -> Option<Needs> {
    let beside = delayd().parent().unwrap();
    let service = std::env::var_os("DELAYD_SERVE_BIN").map_or_else(|| beside.join("delayd-serve"), PathBuf::from);
    let in_tree = crate::programs::root().join(".data/nycflights13");
    let data = std::env::var_os("DELAYD_DATA").map_or(in_tree, PathBuf::from);
    if !service.is_file() {
        eprintln!(
            "SKIPPED: {test}: no service binary at {}; build it, or name it in DELAYD_SERVE_BIN",
            service.display()
        );
        return None;
    }
    let trainer = training_program().map_err(|missing| eprintln!("SKIPPED: {test}: {missing}")).ok()?;
    if !["flights.csv", "flights.csv.zip"].iter().any(|name| data.join(name).is_file()) {
        eprintln!(
            "SKIPPED: {test}: no flights.csv or flights.csv.zip in {}; name the folder in DELAYD_DATA",
            data.display()
        );
        return None;
    }
    Some(Needs { service: service.canonicalize().unwrap(), trainer, data })
}

pub fn flights_text(data: &Path) -> Option<Box<dyn Read>> {
    if let Ok(plain) = File::open(data.join("flights.csv")) {
        return Some(Box::new(plain));
    }
    let mut archive = zip::ZipArchive::new(File::open(data.join("flights.csv.zip")).ok()?).ok()?;
    let mut text = Vec::new();
    archive.by_index(0).ok()?.read_to_end(&mut text).ok()?;
    Some(Box::new(std::io::Cursor::new(text)))
}

/// Month and day.
pub type Day = (u32, u32);

/// Copies the rows of some days; `change` may alter each, told its day and number.
pub fn copy_days(
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
pub struct Flight<'a> {
    pub header: &'a csv::StringRecord,
    pub cells: Vec<String>,
}

impl Flight<'_> {
    pub fn cell(&mut self, name: &str) -> &mut String {
        let position = self.header.iter().position(|found| found == name).unwrap_or_else(|| panic!("no column {name}"));
        &mut self.cells[position]
    }

    pub fn set(&mut self, name: &str, value: impl ToString) {
        *self.cell(name) = value.to_string();
    }

    /// Another fate: one in five is cancelled, one in five is punctual, the others
    /// come one and a half to five and a half hours late.
    pub fn fate(&mut self, number: usize) {
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
pub fn clock_after(hhmm: &str, minutes: i64) -> i64 {
    let hhmm: i64 = hhmm.parse().unwrap();
    let later = (hhmm / 100 * 60 + hhmm % 100 + minutes).rem_euclid(24 * 60);
    if later == 0 { 2400 } else { later / 60 * 100 + later % 60 }
}

/// A folder with some days of the recorded year.
pub fn reduced(data: &Path, folder: &Path, first: Day, last: Day, change: impl FnMut(&mut Flight, Day, usize)) {
    fs::create_dir_all(folder).unwrap();
    let flights = copy_days(flights_text(data).unwrap(), &folder.join("flights.csv"), first, last, change);
    assert!(flights > 5_000, "only {flights} flights from {first:?} to {last:?} in {}", data.display());
    let weather = File::open(data.join("weather.csv")).unwrap();
    copy_days(weather, &folder.join("weather.csv"), first, last, |_, _, _| ());
    fs::copy(data.join("airports.csv"), folder.join("airports.csv")).unwrap();
}
