//! The whole loop as an operator has it: the `delayd` binary as a process, the real
//! inference service, real flights. What it needs is told in `site`.

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use delayd_testkit::site::{
    Day, Needs, OFTEN, QUICK, REPLAY_LIMIT, Running, Site, command, copy_days, ended, flights_text, needs, reduced,
    tail,
};
use delayd_testkit::tools::gzip;
use polars::prelude::{ParquetReader, SerReader};
use rusqlite::OptionalExtension;
use tempfile::TempDir;

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
fn a_cycle_that_was_killed_in_training_continues_once_after_a_start() {
    killed_during("a_cycle_that_was_killed_in_training_continues_once_after_a_start", "train");
}

#[test]
fn a_cycle_that_was_killed_in_packaging_continues_once_after_a_start() {
    killed_during("a_cycle_that_was_killed_in_packaging_continues_once_after_a_start", "package");
}

#[test]
fn a_cycle_that_was_killed_in_its_rollout_continues_once_after_a_start() {
    killed_during("a_cycle_that_was_killed_in_its_rollout_continues_once_after_a_start", "deploy");
}

/// The commit that this clone is at; `None` outside of one.
fn head_of_the_clone() -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let asked = std::process::Command::new("git").args(["rev-parse", "HEAD"]).current_dir(root).output().ok()?;
    let head = String::from_utf8(asked.stdout).unwrap().trim().to_owned();
    (root.join(".git").exists() && asked.status.success()).then_some(head)
}

#[test]
fn the_program_knows_the_commit_that_it_was_built_of() {
    let said = command(&["--version"]).stdout(std::process::Stdio::piped()).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let expected = option_env!("DELAYD_COMMIT").map(str::to_owned).or_else(head_of_the_clone);
    match expected.filter(|commit| !commit.is_empty()) {
        Some(commit) => assert!(said.contains(&commit), "{said:?} does not name {commit}"),
        None => assert!(!said.contains('('), "{said:?} names a commit, and there is no clone"),
    }
}

#[test]
fn what_a_model_was_made_with_and_why_is_recorded_and_shown() {
    let Some(needs) = needs("what_a_model_was_made_with_and_why_is_recorded_and_shown") else { return };
    let site = Site::with_history(&needs);
    let mut daemon = site.start();
    site.wait_for_the_cycle(&mut daemon);
    let ledger = site.ledger().unwrap();
    let json = |sql: &str| -> serde_json::Value {
        let text: String = ledger.query_row(sql, [], |row| row.get(0)).unwrap();
        serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text))
    };
    let record = json("SELECT record FROM runs");
    let gate = json("SELECT inputs FROM decisions WHERE kind = 'gate'");
    let reason = json("SELECT reason FROM models");
    let deployments = site.says(&["deployments"]);
    assert!(deployments.contains("serving"), "{deployments}");
    site.stop(daemon);

    if let Some(head) = head_of_the_clone() {
        let commit = record["commit"].as_str().unwrap_or_default();
        assert!(commit.starts_with(&head) || option_env!("DELAYD_COMMIT").is_some(), "{record}");
    }
    for library in ["tch", "libtorch"] {
        let version = record["libraries"][library].as_str().unwrap_or_default();
        assert!(version.starts_with(|c: char| c.is_ascii_digit()), "{library}: {version:?}");
    }
    assert!(record["train_rows"].as_u64().unwrap() > 0 && record["calibration"].is_object(), "{record}");
    for batch in 0..3 {
        let measured = &gate["latency"]["challenger"]["batches"][batch]["per_batch"];
        for quantile in ["p50_us", "p95_us", "p99_us"] {
            assert!(measured[quantile].as_f64().unwrap() > 0.0, "{quantile} of batch {batch}: {gate}");
        }
    }
    assert!(reason.as_str().unwrap().contains("no live model"), "{reason}");

    let run = site.says(&["runs", "run_1"]);
    assert!(run.contains(record["commit"].as_str().unwrap_or("unknown")) && run.contains("libtorch"), "{run}");
    let model = site.says(&["models", "model_v1"]);
    for told in ["95 % interval", "lookup table", "missing weather", "by slice", "p99 µs", "no live model"] {
        assert!(model.contains(told), "`{told}` is not in\n{model}");
    }
    // Without a daemon nobody asks the cluster: what was approved is known, what serves is not.
    let deployments = site.says(&["deployments"]);
    assert!(deployments.contains("approved") && !deployments.contains("serving"), "{deployments}");
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

#[test]
fn a_cycle_completes_after_the_logs_it_learns_from_were_overwritten_and_deleted() {
    let Some(needs) = needs("a_cycle_completes_after_the_logs_it_learns_from…") else { return };
    let site = Site::with_history(&needs);
    let mut daemon = site.start();
    site.wait_for_the_cycle(&mut daemon);
    let more = site.place.path().join("more.csv");
    copy_days(flights_text(&needs.data).unwrap(), &more, (2, 4), (2, 4), |_, _, _| ());
    site.put("flights/more.csv", &fs::read(&more).unwrap());
    let count = |query: &str| site.count(query);
    let taken = "SELECT count(*) FROM objects WHERE status = 'ingested'";
    site.wait(&mut daemon, "the second log was taken in", || (count(taken) == 2).then_some(()));
    fs::remove_file(site.state().join("store/flights/more.csv")).unwrap();
    site.put("flights/2013-01.csv", b"dear sir or madam\n");
    let refused = "SELECT count(*) FROM objects WHERE status = 'rejected'";
    site.wait(&mut daemon, "the garbage was looked at", || (count(refused) == 1).then_some(()));

    site.says(&["retrain", "--why", "the logs are gone"]);
    let (outcome, detail) = site.wait(&mut daemon, "the second cycle is finished", || {
        let finished = "SELECT outcome, detail FROM cycles WHERE id = 2 AND state = 'finished'";
        let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?));
        site.ledger()?.query_row(finished, [], row).optional().unwrap_or(None)
    });
    assert!(outcome == "deployed" || outcome == "kept_live", "{outcome}: {detail}");
    let sources = "SELECT count(*) FROM dataset_objects WHERE dataset = (SELECT dataset FROM runs WHERE cycle = 2)";
    assert_eq!(count(sources), 2, "both logs are in it");
    let listed = site.says(&["objects", "--status", "rejected"]);
    assert!(listed.contains("flights/2013-01.csv") && listed.contains("rejected"), "{listed}");
    let version: String =
        site.ledger().unwrap().query_row("SELECT dataset FROM runs WHERE cycle = 2", [], |row| row.get(0)).unwrap();
    assert!(site.says(&["datasets", &version, "--verify"]).contains("is what it was"));
    assert!(site.says(&["datasets", &version, "--rebuild"]).contains("was made again"));
    assert!(site.says(&["reference"]).contains("reference/versions/airports/"));
    assert!(site.says(&["validate", more.to_str().unwrap()]).contains("would be taken"));
    drop(daemon);
}
