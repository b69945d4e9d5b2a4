//! The command line as the API's client.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use delayd_ledger::{CycleReason, CycleState, IngestedObject, ObjectStatus, ObjectsLooked};
use delayd_testkit::records;
use delayd_testkit::site::{command, ended, text};
use delayd_testkit::tools::gzip;
use serde_json::Value;
use tempfile::TempDir;

use crate::http_api::{OPERATOR, VIEWER, prepared, started};

#[test]
fn on_the_daemons_machine_the_socket_is_enough() {
    let daemon = started("");
    let said = daemon.says(&["pause", "--by", "alice", "--why", "maintenance"]);
    assert!(said.contains("no new cycles start"), "{said}");
    let status = daemon.says(&["status"]);
    for words in ["is running", "alice", "paused automatic cycles on", "maintenance"] {
        assert!(status.contains(words), "no {words:?} in {status}");
    }
    let audit: Value = serde_json::from_str(&daemon.says(&["--json", "audit"])).unwrap();
    assert!(audit[0]["actor"].as_str().unwrap().starts_with("alice ("), "{audit}");
    assert_eq!(audit[0]["detail"], "maintenance");
}

#[tokio::test]
async fn the_status_says_that_a_release_which_waits_for_approval_serves_already() {
    let mut daemon = prepared("");
    let ledger = daemon.ledger();
    let cycle = ledger.begin_cycle(CycleReason::Bootstrap, chrono::DateTime::UNIX_EPOCH).await.unwrap();
    ledger.set_cycle_state(cycle.id, CycleState::WaitingApproval).await.unwrap();
    drop(ledger);
    daemon.start();
    let status = daemon.says(&["status"]);
    let waits = "cycle_1 is waiting for approval: `delayd approve` or `delayd reject`; model_v1 already serves";
    assert!(status.contains(waits), "{status}");
    let refused = daemon.run(&["cancel", "--why", "too long"]);
    let told = text(&refused.stderr);
    assert!(
        refused.status.code() == Some(5) && told.contains("`delayd reject` takes model_v1 out of service"),
        "{told}"
    );
    let audit: Value = serde_json::from_str(&daemon.says(&["--json", "audit"])).unwrap();
    assert_eq!((&audit[0]["action"], &audit[0]["subject"]), (&"cancel".into(), &"cycle_1".into()), "{audit}");
    assert!(audit[0]["outcome"].as_str().unwrap().starts_with("refused: cycle_1 is waiting for approval"), "{audit}");
    assert!(daemon.says(&["audit"]).contains("what came of it"));
}

#[test]
fn from_elsewhere_a_token_opens_what_its_role_allows() {
    let daemon = started("");
    let token = |name: &str, value: &str| {
        let path = daemon.place.path().join(name);
        fs::write(&path, format!("{value}\n")).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (operator, viewer, wrong) = (token("operator", OPERATOR), token("viewer", VIEWER), token("wrong", "wrong"));
    let url = daemon.url("");
    let outcome = |arguments: &[&str]| {
        let mut all = vec!["--url", url.as_str()];
        all.extend(arguments);
        let output = daemon.run(&all);
        (output.status.code().unwrap(), text(&output.stderr))
    };
    assert_eq!(outcome(&["status"]).0, 0, "a loopback viewer");
    let (code, told) = outcome(&["pause"]);
    assert_eq!(code, 5, "{told}");
    assert!(told.contains("needs an operator"), "{told}");
    assert_eq!(outcome(&["pause", "--token-file", &viewer]).0, 5);
    let (code, told) = outcome(&["pause", "--token-file", &wrong]);
    assert!(code == 5 && told.contains("--token-file or DELAYD_TOKEN"), "{code}: {told}");
    let (code, told) = outcome(&["pause", "--token-file", &operator]);
    assert_eq!(code, 0, "{told}");
    let (code, told) = outcome(&["pause", "--token-file", "/nowhere/token"]);
    assert!(code == 2 && told.contains("/nowhere/token"), "{code}: {told}");
    let (code, told) = outcome(&["cycles", "cycle_9"]);
    assert!(code == 4 && told.contains("cycle_9 is not in the ledger"), "{code}: {told}");
    let mut by_variable = daemon.command(&["--url", url.as_str(), "resume"]);
    assert!(by_variable.env("DELAYD_TOKEN", OPERATOR).output().unwrap().status.success());
}

#[test]
fn without_a_daemon_reading_continues_and_asking_says_so() {
    let mut daemon = started("");
    daemon.says(&["pause", "--why", "before the end"]);
    let with_daemon: Value = serde_json::from_str(&daemon.says(&["audit", "--json"])).unwrap();
    // Killed: its socket stays behind.
    daemon.running = None;
    assert!(daemon.state().join("delayd.sock").exists());
    let from_ledger: Value = serde_json::from_str(&daemon.says(&["audit", "--json"])).unwrap();
    assert_eq!(with_daemon, from_ledger, "one answer, wherever it comes from");
    assert!(daemon.says(&["status"]).contains("no daemon is running"));
    let output = daemon.run(&["pause"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("start one with `delayd run`"), "{}", text(&output.stderr));
    let output = daemon.run(&["--url", "http://127.0.0.1:9", "status"]);
    assert_eq!(output.status.code(), Some(3), "a daemon that was named is not replaced by a ledger");
}

#[test]
fn commands_never_reach_the_daemon_of_another_state_directory() {
    let daemon = started("loopback_role = \"operator\"");
    let config = daemon.place.path().join("delayd.toml");
    let elsewhere = daemon.place.path().join("elsewhere");
    for asked in ["pause", "health", "events"] {
        let mut command =
            command(&["--config", config.to_str().unwrap(), "--state", elsewhere.to_str().unwrap(), asked]);
        let output = command.output().unwrap();
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{asked}: {told}");
        assert!(told.contains("there is no socket") && told.contains("elsewhere/delayd.sock"), "{asked}: {told}");
    }
    assert_eq!(daemon.says(&["audit", "--json"]).trim(), "[]", "the other daemon was asked");
}

#[test]
fn a_second_daemon_is_told_which_process_has_the_state() {
    let daemon = started("");
    let output = daemon.run(&["run"]);
    let told = text(&output.stderr);
    let first = daemon.running.as_ref().unwrap().child.id().to_string();
    assert!(!output.status.success() && told.contains("another daemon uses it") && told.contains(&first), "{told}");
}

#[test]
fn an_answer_is_shown_again_when_it_changed() {
    let daemon = started("");
    let mut command = daemon.command(&["audit", "--watch=1", "--json"]);
    let mut follower = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let out = std::io::BufReader::new(follower.stdout.take().unwrap());
    let mut lines = std::io::BufRead::lines(out);
    assert_eq!(lines.next().unwrap().unwrap(), "[]");
    daemon.says(&["pause", "--why", "seen"]);
    assert!(lines.any(|line| line.unwrap().contains("seen")));
    follower.kill().unwrap();
    follower.wait().unwrap();
    let output = daemon.run(&["pause", "--watch"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
}

#[test]
fn completions_manual_pages_and_the_apis_document_come_from_the_program() {
    let daemon = prepared("");
    for shell in ["bash", "zsh", "fish"] {
        let script = daemon.says(&["completions", shell]);
        assert!(script.contains("rollback") && script.contains("lineage"), "{shell}");
    }
    let dir = daemon.place.path().join("man");
    daemon.says(&["man", dir.to_str().unwrap()]);
    let page = fs::read_to_string(dir.join("delayd-rollback.1")).unwrap();
    assert!(page.contains(".TH") && page.contains("previous model"), "{page}");
    assert!(fs::read_to_string(dir.join("delayd.1")).unwrap().contains("Exit status"));
    let document: Value = serde_json::from_str(&daemon.says(&["openapi"])).unwrap();
    assert_eq!(document["info"]["title"], "delayd");
}

#[test]
fn an_empty_site_says_what_is_missing_before_and_after_the_start() {
    let mut daemon = prepared("");
    let output = daemon.run(&["check"]);
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    for (what, place) in [("airports", "store/reference/airports.csv"), ("flights", "store/flights/")] {
        let line = told.lines().find(|line| line.contains(place)).unwrap_or_else(|| panic!("{what}: {told}"));
        assert!(line.starts_with("FAIL") && line.contains(what), "{line}");
    }
    assert!(!daemon.state().join("store").exists(), "looking changes nothing");

    daemon.start();
    let status = daemon.says(&["status"]);
    let reasons = "No model is live: no airports yet: reference/airports.csv is not in the object store, or cannot be read; no \
                   flights yet: nothing was taken in from flights/ in the object store";
    assert!(status.contains(reasons), "{status}");
    let document: Value = serde_json::from_str(&daemon.says(&["--json", "status"])).unwrap();
    assert_eq!(document["waits_for"].as_array().unwrap().len(), 2, "{document}");
    daemon.running = None;
    assert!(daemon.says(&["status"]).contains(reasons), "the ledger says the same");
    assert!(daemon.says(&["reference"]).contains("no reference data was read yet"));
}

#[tokio::test]
async fn refused_logs_are_listed_with_why_and_where_their_rows_are() {
    let mut daemon = prepared("");
    let good = records::object("flights/good.csv", chrono::DateTime::UNIX_EPOCH);
    let bad = IngestedObject {
        status: ObjectStatus::Rejected,
        error: Some("too many rows break the contract".to_owned()),
        unused_columns: vec!["mood".into()],
        quarantine_key: Some("quarantine/a.csv".into()),
        ..records::object("flights/bad.csv", chrono::DateTime::UNIX_EPOCH)
    };
    let objects = vec![good, bad];
    let ledger = daemon.ledger();
    ledger.record_objects(ObjectsLooked { objects, ..ObjectsLooked::default() }).await.unwrap();
    drop(ledger);
    daemon.start();
    let answer = |query: &str| crate::http_api::client().get(daemon.url(&format!("/api/v1/objects{query}"))).send();
    let all: Value = answer("?limit=1").await.unwrap().json().await.unwrap();
    assert_eq!((all["items"].as_array().unwrap().len(), &all["next_offset"]), (1, &1.into()));
    let rejected: Value = answer("?status=rejected").await.unwrap().json().await.unwrap();
    assert_eq!(rejected["items"].as_array().unwrap().len(), 1);
    let found = &rejected["items"][0];
    assert_eq!((&found["key"], &found["quarantine_key"]), (&"flights/bad.csv".into(), &"quarantine/a.csv".into()));
    let rejected: Value = serde_json::from_str(&daemon.says(&["--json", "objects", "--status", "rejected"])).unwrap();
    assert_eq!(rejected[0], *found, "one answer, wherever it comes from");
    let told = daemon.says(&["objects"]);
    assert!(told.contains("too many rows") && told.contains("quarantine/a.csv") && told.contains("mood"), "{told}");
    assert_eq!(daemon.run(&["objects", "--status", "lost"]).status.code(), Some(2));
}

#[test]
fn a_log_is_judged_before_it_is_uploaded() {
    let daemon = prepared("");
    let write = |name: &str, body: &str| {
        let path = daemon.place.path().join(name);
        fs::write(&path, body).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let airports = write(
        "airports.csv",
        "faa,name,lat,lon,alt,tz,dst,tzone\nEWR,Newark,40.6925,-74.1687,18,-5,A,America/New_York\n\
         IAH,Houston,29.9844,-95.3414,97,-6,A,America/Chicago\n",
    );
    let header = "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,\
                  origin,dest,air_time,distance,hour,minute,time_hour";
    let good = write(
        "good.csv",
        &format!(
            "{header}\n2013,7,1,917,915,2,1130,1119,11,UA,1545,N14228,EWR,IAH,227,1400,9,15,2013-07-01T13:00:00Z\n"
        ),
    );
    let bad = write("bad.csv", "dear sir or madam\n");
    let said = daemon.says(&["validate", &good, "--airports", &airports]);
    assert!(said.contains("would be taken") && said.contains("accepted 1"), "{said}");
    let output = daemon.run(&["validate", &good, &bad, "--airports", &airports]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("bad.csv: would be REFUSED") && told.contains("no known layout"), "{told}");
    assert!(told.contains("1 of the flight logs would be refused"), "{told}");
    let output = daemon.run(&["validate", &good]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("--airports"), "{}", text(&output.stderr));
}

// ----------------------------------------------------------------
// `delayd` says what is wrong with its configuration, its data and its ledger:
// one line, with the place in it, and nothing stored is changed.

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
        &["configuration", "an-unknown-key.toml", "did you mean training.learning_rate"],
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
    let any_port = file("any-port.toml", "[http]\nlisten = \"127.0.0.1:0\"\n");
    let run = refused("a letter as ledger, run", &["--config", any_port.as_str(), "--state", taken.as_str(), "run"]).1;
    expect("a letter as ledger, run", &run, &no_database);
    let unchanged = fs::read_to_string(Path::new(&taken).join("ledger.sqlite")).unwrap();
    assert!(unchanged == letter, "the file that is no ledger was changed");
    let (code, line) = refused("no ledger", &["--state", none.as_str(), "cycles"]);
    assert_eq!(code, 4, "{line}");
    expect("no ledger", &line, &["there is no ledger at", "--state"]);

    // The arguments.
    let (code, line) = refused("no URL", &["--url", "notaurl", "status"]);
    assert_eq!(code, 2, "{line}");
    expect("no URL", &line, &["--url notaurl", "such as https://"]);
    let there = file("there.sqlite", "an earlier backup");
    let (code, line) = refused("a backup that is there", &["--state", taken.as_str(), "backup", there.as_str()]);
    assert_eq!(code, 2, "{line}");
    expect("a backup that is there", &line, &["there.sqlite", "exists already"]);

    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
