//! `delayd` says what is wrong with its configuration, its data and its ledger:
//! one line, with the place in it, and nothing stored is changed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use delayd_testkit::site;

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use site::{command, ended};
use tempfile::TempDir;

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

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
