//! The log of a cycle as an operator has it: one trace id on every line of every
//! stage, on whichever thread it was written, in the logs of the training worker and
//! the replicas too, in the cycle's own file and over the API.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use delayd_testkit::site;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use site::{NEVER, QUICK, Running, Site, command, needs, tail};

const STEPS: [&str; 10] =
    ["ingest", "dataset", "train", "gate", "register", "package", "push", "deploy", "verify", "approve"];

fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
}

#[test]
fn every_line_of_a_cycle_carries_its_trace_wherever_it_was_written() {
    let Some(needs) = needs("every_line_of_a_cycle_carries_its_trace_wherever_it_was_written") else { return };
    let site = Site::with_history(&needs);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!("{QUICK}{NEVER}").replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    fs::write(site.config(), config).unwrap();
    let mut daemon = site.start();
    site.wait_for_the_cycle(&mut daemon);
    site.wait(&mut daemon, "the end is logged", || {
        fs::read_to_string(daemon_log(&site)).ok()?.contains("cycle finished").then_some(())
    });

    let (status, cycle) = get(port, "/api/v1/cycles/cycle_1").unwrap();
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
    let (status, whole) = get(port, "/api/v1/cycles/cycle_1/log").unwrap();
    assert_eq!((status, whole.as_str()), (200, text.as_str()));
    let (_, end) = get(port, "/api/v1/cycles/cycle_1/log?lines=3").unwrap();
    assert_eq!(end.lines().count(), 3);
    assert!(text.ends_with(&end) && end.contains("cycle finished"), "{end}");
    let (status, problem) = get(port, "/api/v1/cycles/cycle_9/log").unwrap();
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
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
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
