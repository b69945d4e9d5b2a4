//! Every secret of the configuration, as a running daemon has it: none of them may
//! reach a log, an error, the ledger, a command line or the status endpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use delayd_testkit::site;
use delayd_testkit::site::{NEVER, QUICK, Running, Site, command, ended, needs, tail};
use delayd_testkit::tools::{self, free_port};
use serde_json::Value;
use tempfile::TempDir;

/// Part of every secret below, and of nothing else.
const MARK: &str = "m4rk3d-s3cr3t";

/// A configuration whose every secret is written out, and whose every outside
/// system is a closed port.
fn configuration(http_port: u16, away: u16) -> String {
    format!(
        r#"
[http]
listen = "127.0.0.1:{http_port}"
[[http.tokens]]
name = "ops"
role = "operator"
token = "{MARK}-http-token"

[daemon]
step_retry_secs = 0.05
outage_patience_secs = 2

[object_store]
kind = "s3"
[object_store.s3]
bucket = "flights"
region = "us-east-1"
endpoint = "http://127.0.0.1:{away}"
path_style = true
access_key_id = "AKIDEXAMPLE"
secret_access_key = "{MARK}-key"
session_token = "{MARK}-session"
attempts = 1

[weather]
kind = "open_meteo"
[weather.open_meteo]
archive_url = "http://127.0.0.1:{away}"
forecast_url = "http://127.0.0.1:{away}"
api_key = "{MARK}-weather"
attempts = 1

[ingestion]
interval_secs = 1
airports_url = "http://127.0.0.1:{away}/{MARK}-airports.csv"
holidays_url = "http://127.0.0.1:{away}/{MARK}-holidays.ics"
[ingestion.fetch]
attempts = 1

[registry]
kind = "oci"
[registry.oci]
host = "127.0.0.1:{away}"
plain_http = true
username = "delayd"
password = "{MARK}-registry"
[registry.oci.upload]
attempts = 1

[registry.ecr]
access_key_id = "AKIDEXAMPLE"
secret_access_key = "{MARK}-ecr"
session_token = "{MARK}-ecr-session"

[packaging.source]
token = "{MARK}-git"

[monitoring]
interval_secs = 1

[notification]
channels = ["log", "slack", "mail", "webhook"]
interval_secs = 1
group_window_secs = 0
[notification.slack]
webhook_url = "http://127.0.0.1:{away}/services/{MARK}-slack"
[notification.mail]
server = "127.0.0.1"
port = {away}
tls = "none"
username = "delayd"
password = "{MARK}-mail"
from = "delayd@example.org"
to = ["ops@example.org"]
[notification.webhook]
url = "http://127.0.0.1:{away}/{MARK}-hook"
bearer_token = "{MARK}-bearer"
signing_key = "{MARK}-signing"
"#
    )
}

fn assert_unmarked(what: &str, bytes: &[u8]) {
    let at = bytes.windows(MARK.len()).position(|window| window == MARK.as_bytes());
    if let Some(at) = at {
        let around = &bytes[at.saturating_sub(150)..bytes.len().min(at + 60)];
        panic!("a secret stands in {what}: …{}…", String::from_utf8_lossy(around));
    }
}

/// The whole answer, head and body.
fn whole(port: u16, path: &str) -> Option<String> {
    tools::exchange(("127.0.0.1", port), &format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n"))
}

fn files_under(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files.extend(files_under(&entry.path())),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
    files
}

#[test]
fn no_secret_leaves_the_configuration() {
    let place = TempDir::new().unwrap();
    let (port, away) = (free_port(), free_port());
    let config = place.path().join("delayd.toml");
    fs::write(&config, configuration(port, away)).unwrap();
    let state = place.path().join("state");
    let service = place.path().join("delayd-serve");
    fs::write(&service, "").unwrap();
    let run = |arguments: &[&str]| {
        let mut command = command(arguments);
        command.env("DELAYD_CONFIG", &config).env("DELAYD_STATE", &state).env("DELAYD_SERVE_BIN", &service);
        command
    };

    // The settings as printed, and every check failing.
    let printed = run(&["config"]).output().unwrap();
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    assert_unmarked("`delayd config`", &printed.stdout);
    assert!(String::from_utf8_lossy(&printed.stdout).contains("***"));
    for arguments in [&["check"][..], &["check", "--json"], &["-vv", "check"]] {
        let checked = run(arguments).output().unwrap();
        assert!(!checked.status.success(), "everything is away, and the check is content");
        assert_unmarked("what `delayd check` prints", &checked.stdout);
        assert_unmarked("what `delayd check` complains of", &checked.stderr);
    }

    // A daemon that can reach nothing, at its most talkative.
    let log = place.path().join("daemon.log");
    let mut daemon = Running::start(run(&["-vv", "run"]), &state, &log);
    let alerts = loop {
        if let Some(alerts) = whole(port, "/api/v1/alerts").filter(|alerts| alerts.contains("keeps failing")) {
            break alerts;
        }
        assert!(ended(&mut daemon.child, Duration::from_millis(300)).is_none(), "the daemon ended:\n{}", tail(&log));
    };
    assert_unmarked("the alerts", alerts.as_bytes());
    // A cycle has a log of its own, and meets every system that is away.
    let asked = run(&["retrain", "--why", "to see what its log tells"]).output().unwrap();
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    let cycle_log = state.join("logs/cycle_1.log");
    while !fs::read_to_string(&cycle_log).is_ok_and(|text| text.contains("cycle finished")) {
        assert!(ended(&mut daemon.child, Duration::from_millis(300)).is_none(), "the daemon ended:\n{}", tail(&log));
    }
    // Deliveries fail too: wait until each channel has tried, and no longer than they need.
    let (began, channels) = (Instant::now(), ["slack", "mail", "webhook"]);
    let tried = || {
        let logged = fs::read_to_string(&log).unwrap_or_default();
        let of = |channel| logged.lines().any(|line| line.contains("not delivered") && line.contains(channel));
        channels.into_iter().all(of)
    };
    while !tried() && began.elapsed() < Duration::from_secs(5) {
        assert!(ended(&mut daemon.child, Duration::from_millis(300)).is_none(), "the daemon ended:\n{}", tail(&log));
    }
    for path in [
        "/api/v1/status",
        "/api/v1/alerts",
        "/api/v1/reference",
        "/api/v1/decisions",
        "/metrics",
        "/metrics/targets",
        "/api/v1/cycles/cycle_1/log",
        "/readyz",
    ] {
        let answer = whole(port, path).unwrap_or_else(|| panic!("{path} was not answered:\n{}", tail(&log)));
        assert_unmarked(path, answer.as_bytes());
    }
    let pid = daemon.child.id();
    assert_unmarked("the command line", &fs::read(format!("/proc/{pid}/cmdline")).unwrap());
    let logged = fs::read(&log).unwrap();
    assert!(String::from_utf8_lossy(&logged).contains("DEBUG"), "the log is not talkative");
    assert_unmarked("the log", &logged);
    drop(daemon);
    let files = files_under(&state);
    for kept in ["ledger.sqlite", "logs/cycle_1.log"] {
        assert!(files.iter().any(|file| file.ends_with(kept)), "no {kept} in {files:?}");
    }
    for file in files {
        assert_unmarked(&file.display().to_string(), &fs::read(&file).unwrap());
    }
}

// ----------------------------------------------------------------
// The log of a cycle as an operator has it: one trace id on every line of every
// stage, on whichever thread it was written, in the logs of the training worker and
// the replicas too, in the cycle's own file and over the API.

const STEPS: [&str; 10] =
    ["ingest", "dataset", "train", "gate", "register", "package", "push", "deploy", "verify", "approve"];

#[test]
fn every_line_of_a_cycle_carries_its_trace_wherever_it_was_written() {
    let Some(needs) = needs("every_line_of_a_cycle_carries_its_trace_wherever_it_was_written") else { return };
    let site = Site::with_history(&needs);
    let port = free_port();
    let config = format!("{QUICK}{NEVER}").replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    fs::write(site.config(), config).unwrap();
    let mut daemon = site.start();
    site.wait_for_the_cycle(&mut daemon);
    site.wait(&mut daemon, "the end is logged", || {
        fs::read_to_string(daemon_log(&site)).ok()?.contains("cycle finished").then_some(())
    });

    let (status, cycle) = tools::get(("127.0.0.1", port), "/api/v1/cycles/cycle_1").unwrap();
    assert_eq!(status, 200, "{cycle}");
    let cycle: Value = serde_json::from_str(&cycle).unwrap();
    let trace = cycle["trace_id"].as_str().unwrap().to_owned();
    assert!(trace.len() == 32 && trace.bytes().all(|byte| byte.is_ascii_hexdigit()), "{trace}");

    let log = fs::read_to_string(daemon_log(&site)).unwrap();
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
    let within: Vec<&Value> = lines.iter().filter(|line| line["cycle.id"] == "cycle_1").collect();
    for line in &within {
        assert_eq!(line["trace.id"], trace.as_str(), "{line}");
    }
    let steps: BTreeSet<&str> = within.iter().filter_map(|line| line["step"].as_str()).collect();
    assert_eq!(steps, STEPS.into_iter().collect(), "steps with lines");
    // Lines from stages behind a mailbox.
    let from = |step: &str, text: &str| {
        let told = |line: &&&Value| line["step"] == step && line["message"].as_str().unwrap().contains(text);
        assert!(within.iter().any(|line| told(&line)), "no line `{text}` of step `{step}`");
    };
    from("train", "step started");
    from("train", "step done");
    from("deploy", "step done");
    // What timers do beside the cycle belongs to no trace.
    assert!(lines.iter().any(|line| line.get("trace.id").is_none()), "every line has a trace");

    the_training_worker_names_it(&site, &trace);
    the_replicas_name_it(&site, &trace);
    the_cycle_has_its_own_log(&site, port, &trace);
    let (from_daemon, whole) = (the_command_shows(&site, &["cycle_1", "-n", "3"]), the_command_shows(&site, &[]));
    site.stop(daemon);
    // Without a daemon the file itself is read, and the answer is the same.
    assert_eq!(the_command_shows(&site, &["cycle_1", "-n", "3"]), from_daemon);
    assert_eq!(from_daemon.lines().count(), 3, "{from_daemon}");
    assert!(whole.starts_with("# cycle_1, trace ") && whole.ends_with(&from_daemon), "{whole}");
}

fn the_command_shows(site: &Site, arguments: &[&str]) -> String {
    let (config, state) = (site.config(), site.state());
    let mut all = vec!["--config", config.to_str().unwrap(), "--state", state.to_str().unwrap(), "log"];
    all.extend(arguments);
    let output = site::command(&all).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn daemon_log(site: &Site) -> std::path::PathBuf {
    site.place.path().join("daemon.log")
}

fn the_training_worker_names_it(site: &Site, trace: &str) {
    let log = site.state().join("runs/run_1/training.log");
    let text = fs::read_to_string(&log).unwrap_or_else(|error| panic!("{}: {error}", log.display()));
    let begins = text.lines().find(|line| line.contains("the work begins")).unwrap_or_else(|| panic!("{text}"));
    assert!(begins.contains(trace) && begins.contains("cycle_1"), "{begins}");
}

fn the_replicas_name_it(site: &Site, trace: &str) {
    let logs = site.state().join("cluster/logs");
    let text: String =
        fs::read_dir(&logs).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap()).collect();
    let asked = text.lines().filter(|line| line.contains(trace) && line.contains("/predict")).count();
    assert!(asked > 20, "{asked} requests with the cycle's trace in {}", logs.display());
}

fn the_cycle_has_its_own_log(site: &Site, port: u16, trace: &str) {
    let path = site.state().join("logs/cycle_1.log");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with(&format!("# cycle_1, trace {trace}\n")), "{text}");
    for step in STEPS {
        assert!(text.contains(&format!(" {step}: step done")), "no end of `{step}` in {text}");
    }
    let (status, whole) = tools::get(("127.0.0.1", port), "/api/v1/cycles/cycle_1/log").unwrap();
    assert_eq!((status, whole.as_str()), (200, text.as_str()));
    let (_, end) = tools::get(("127.0.0.1", port), "/api/v1/cycles/cycle_1/log?lines=3").unwrap();
    assert_eq!(end.lines().count(), 3);
    assert!(text.ends_with(&end) && end.contains("cycle finished"), "{end}");
    let (status, problem) = tools::get(("127.0.0.1", port), "/api/v1/cycles/cycle_9/log").unwrap();
    assert_eq!(status, 404);
    assert!(problem.contains("cycle_9 has no log: it is not in the ledger"), "{problem}");
}

// ---------------------------------------------------------------- the journal

/// A mount namespace of our own, in which `/run/systemd/journal` is a folder of the
/// test's; `None` after saying loudly that this system gives none.
fn with_a_journal(test: &str, journal: &std::path::Path, delayd: &Command) -> Option<Command> {
    let mount = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && mount --bind \"$0\" /run/systemd/journal";
    let namespace = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", script]).arg(journal);
        command
    };
    if !namespace(mount).output().is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: {test}: no mount namespace can be had here (`unshare --map-root-user --mount`)");
        return None;
    }
    let mut command = namespace(&format!("{mount} && exec \"$@\""));
    command.arg(delayd.get_program()).args(delayd.get_args());
    for (name, value) in delayd.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    Some(command)
}

/// The fields of an entry in the journal's native protocol: `NAME=value`, or the name,
/// eight bytes of length and the value.
fn fields(mut entry: &[u8]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    while let Some(end) = entry.iter().position(|byte| *byte == b'\n') {
        let (line, rest) = (String::from_utf8_lossy(&entry[..end]).into_owned(), &entry[end + 1..]);
        match line.split_once('=') {
            Some((name, value)) => {
                fields.insert(name.to_owned(), value.to_owned());
                entry = rest;
            }
            None => {
                let length = usize::try_from(u64::from_le_bytes(rest[..8].try_into().unwrap())).unwrap();
                fields.insert(line, String::from_utf8_lossy(&rest[8..8 + length]).into_owned());
                entry = &rest[8 + length + 1..];
            }
        }
    }
    fields
}

#[test]
fn under_systemd_lines_are_entries_of_the_journal_with_fields_and_priorities() {
    const TEST: &str = "under_systemd_lines_are_entries_of_the_journal_with_fields_and_priorities";
    let place = tempfile::tempdir().unwrap();
    let (journal, state) = (place.path().join("journal"), place.path().join("state"));
    let (log, config) = (place.path().join("stderr.log"), place.path().join("delayd.toml"));
    let service = place.path().join("delayd-serve");
    fs::create_dir_all(&journal).unwrap();
    fs::write(&service, "").unwrap();
    let port = free_port();
    fs::write(&config, format!("{QUICK}{NEVER}").replace("127.0.0.1:0", &format!("127.0.0.1:{port}"))).unwrap();
    let socket = UnixDatagram::bind(journal.join("socket")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();

    let stderr = fs::File::create(&log).unwrap().metadata().unwrap();
    let delayd = |arguments: &[&str]| {
        let mut command = command(arguments);
        command.env("DELAYD_CONFIG", &config).env("DELAYD_STATE", &state).env("DELAYD_SERVE_BIN", &service);
        command.env("JOURNAL_STREAM", format!("{}:{}", stderr.dev(), stderr.ino()));
        command
    };
    let Some(run) = with_a_journal(TEST, &journal, &delayd(&["run"])) else { return };
    let mut daemon = Running::start(run, &state, &log);
    let mut entries: Vec<BTreeMap<String, String>> = Vec::new();
    let began = Instant::now();
    let mut asked = false;
    // An empty store: the cycle that is asked for fails soon.
    while !entries.iter().any(|entry| entry["MESSAGE"] == "cycle finished") {
        assert!(daemon.child.try_wait().unwrap().is_none(), "the daemon ended:\n{}", tail(&log));
        assert!(began.elapsed() < Duration::from_secs(120), "{entries:#?}\n{}", tail(&log));
        let mut entry = vec![0; 64 << 10];
        if let Ok(length) = socket.recv(&mut entry) {
            let found = fields(&entry[..length]);
            // An empty datagram asks whether anybody is there.
            entries.extend(found.contains_key("MESSAGE").then_some(found));
        }
        if !asked && entries.iter().any(|entry| entry["MESSAGE"] == "delayd is up") {
            let answer = delayd(&["retrain", "--why", "to see an entry"]).output().unwrap();
            asked = answer.status.success();
        }
    }
    let of = |message: &str| {
        let found = entries.iter().find(|entry| entry["MESSAGE"] == message);
        found.unwrap_or_else(|| panic!("no entry `{message}` in {entries:#?}"))
    };
    let up = of("delayd is up");
    assert_eq!((up["PRIORITY"].as_str(), up["SYSLOG_IDENTIFIER"].as_str()), ("6", "delayd"), "{up:#?}");
    assert!(up.contains_key("DELAYD_HTTP_URL") && !up.contains_key("DELAYD_CYCLE_ID"), "{up:#?}");
    let failed = of("step failed");
    assert_eq!(failed["PRIORITY"], "4", "{failed:#?}");
    assert_eq!((failed["DELAYD_CYCLE_ID"].as_str(), failed["DELAYD_STEP"].as_str()), ("cycle_1", "ingest"));
    assert_eq!(failed["DELAYD_TRACE_ID"], of("cycle finished")["DELAYD_TRACE_ID"]);
    assert_eq!(fs::read_to_string(&log).unwrap(), "", "lines on standard error beside the journal");
}
