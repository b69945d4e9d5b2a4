//! Every secret of the configuration, as a running daemon has it: none of them may
//! reach a log, an error, the ledger, a command line or the status endpoint.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use delayd_testkit::site;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use site::{Running, command, ended, tail};
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

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn assert_unmarked(what: &str, bytes: &[u8]) {
    let at = bytes.windows(MARK.len()).position(|window| window == MARK.as_bytes());
    if let Some(at) = at {
        let around = &bytes[at.saturating_sub(150)..bytes.len().min(at + 60)];
        panic!("a secret stands in {what}: …{}…", String::from_utf8_lossy(around));
    }
}

fn get(port: u16, path: &str) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    Some(answer)
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
        if let Some(alerts) =
            get(port, "/api/v1/alerts").filter(|alerts| String::from_utf8_lossy(alerts).contains("keeps failing"))
        {
            break alerts;
        }
        assert!(ended(&mut daemon.child, Duration::from_millis(300)).is_none(), "the daemon ended:\n{}", tail(&log));
    };
    assert_unmarked("the alerts", &alerts);
    // A cycle has a log of its own, and meets every system that is away.
    let asked = run(&["retrain", "--why", "to see what its log tells"]).output().unwrap();
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    let cycle_log = state.join("logs/cycle_1.log");
    while !fs::read_to_string(&cycle_log).is_ok_and(|text| text.contains("cycle finished")) {
        assert!(ended(&mut daemon.child, Duration::from_millis(300)).is_none(), "the daemon ended:\n{}", tail(&log));
    }
    // Deliveries fail too: give them a look or two.
    assert!(ended(&mut daemon.child, Duration::from_secs(5)).is_none(), "the daemon ended:\n{}", tail(&log));
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
        let answer = get(port, path).unwrap_or_else(|| panic!("{path} was not answered:\n{}", tail(&log)));
        assert_unmarked(path, &answer);
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
