//! The build as a step of a cycle: a real daemon drives a cycle whose model is
//! registered already, and builds, packages and pushes its service.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use delayd_testkit::ci;
use delayd_testkit::contracts;

mod stage;
mod world;

use std::path::Path;

use ci::ServerProcess;
use ci::{ServiceRepository, is_alive, makes_a_binary, script_settings};
use contracts::flaky_proxy::{FlakyProxy, Mood};
use contracts::layouts;
use delayd::daemon::ledger_path;
use delayd::packaging::messages::ModelPackaged;
use delayd::saga::steps::BUILD;
use delayd_ledger::{CycleOutcome, CycleState, Ledger, StepState};
use world::{alerts, at, endpoint, finished, get, in_system, registered, resume, settings, start, step, until};

#[test]
fn a_failed_build_ends_the_cycle_cleanly_and_its_last_lines_are_in_the_alert() {
    in_system(async {
        let place = ci::private_folder();
        let script = "echo compiling\necho 'error: the encoder is not there' >&2\nexit 4\n";
        let (repository, commit) = ServiceRepository::script(&place.path().join("service"), script);
        let settings = settings(place.path(), script_settings(&repository.url()));
        let state = settings.daemon.state_dir.clone();
        std::fs::create_dir_all(&state).unwrap();
        let (cycle, ..) = registered(&Ledger::open(&ledger_path(&state)).unwrap(), &state).await;
        let daemon = start(settings);
        resume(&daemon).await;
        let ended = finished(&daemon, cycle.id).await;
        assert_eq!(ended.outcome, Some(CycleOutcome::Failed), "{}", ended.detail);
        for part in [&commit[..12], "exit status 4", "error: the encoder is not there", "build.log"] {
            assert!(ended.detail.contains(part), "{part} is not in {}", ended.detail);
        }
        let ledger = &daemon.env.ledger;
        let build = step(ledger, cycle.id, "build").await.unwrap();
        // Not tried again: it would fail the same way.
        assert_eq!((build.state, build.attempt, build.position), (StepState::Failed, 1, BUILD.position));
        assert!(build.error.unwrap().contains("the encoder is not there"));
        assert_eq!(step(ledger, cycle.id, "register").await.unwrap().state, StepState::Undone);
        assert!(step(ledger, cycle.id, "package").await.is_none());
        let told = alerts(&daemon).await;
        let (_, body) = told.iter().find(|(title, _)| title == "cycle_1 failed and was undone").unwrap();
        assert!(body.contains("error: the encoder is not there"), "{body}");

        let url = endpoint(&daemon);
        let (status, log) = get(&format!("{url}/cycles/cycle_1/build-log")).await;
        assert_eq!(status, 200);
        assert!(log.contains("$ nice -n 10 sh build.sh") && log.contains("the encoder is not there"), "{log}");
        let (_, last) = get(&format!("{url}/cycles/cycle_1/build-log?lines=1")).await;
        assert_eq!(last.lines().count(), 1, "{last}");
        let (status, problem) = get(&format!("{url}/cycles/cycle_7/build-log")).await;
        assert!(status == 404 && problem.contains("cycle_7 has no build log"), "{status} {problem}");
        let (status, problem) = get(&format!("{url}/image")).await;
        assert!(status == 404 && problem.contains("a pushed image"), "{status} {problem}");
    });
}

#[test]
fn a_cycle_waits_for_a_git_server_that_is_away_and_goes_on_when_it_is_back() {
    in_system(async {
        let place = ci::private_folder();
        ServiceRepository::script(&place.path().join("root/service"), &makes_a_binary("one"));
        let server = ServerProcess::git_daemon(&place.path().join("root"));
        let proxy = FlakyProxy::before(server.address).await;
        proxy.set(Mood::Down);
        let source = script_settings(&format!("git://{}/service", proxy.address()));
        let settings = settings(place.path(), source);
        let state = settings.daemon.state_dir.clone();
        std::fs::create_dir_all(&state).unwrap();
        let (cycle, ..) = registered(&Ledger::open(&ledger_path(&state)).unwrap(), &state).await;
        let daemon = start(settings);
        resume(&daemon).await;
        until("the outage is told", || async {
            alerts(&daemon).await.into_iter().find(|(title, _)| title == "cycle_1 waits at `build`")
        })
        .await;
        proxy.set(Mood::Pass);
        let build = until("the build is done", || async {
            step(&daemon.env.ledger, cycle.id, "build").await.filter(|step| step.state == StepState::Done)
        })
        .await;
        assert!(build.attempt > 2, "{build:?}");
        until("the end of the outage is told", || async {
            alerts(&daemon).await.into_iter().find(|(title, _)| title == "cycle_1 goes on after `build`")
        })
        .await;
        // What passes for a service here does not run, so the release is taken back, and the rest with it.
        let ended = finished(&daemon, cycle.id).await;
        assert_eq!(ended.outcome, Some(CycleOutcome::RolledBack), "{}", ended.detail);
        let of = |name: &'static str| step(&daemon.env.ledger, cycle.id, name);
        assert_eq!(of("push").await.unwrap().state, StepState::Undone);
        assert_eq!(daemon.env.ledger.standing_image(None).await.unwrap(), None);
        assert!(!state.join("image.json").exists(), "the withdrawn image is still exported");
    });
}

#[test]
fn a_daemon_that_stops_ends_its_build_and_leaves_the_cycle_to_the_next_start() {
    in_system(async {
        let place = ci::private_folder();
        let pid_file = place.path().join("pid");
        let script = format!("sleep 600 &\necho $! > {}\nwait\n", pid_file.display());
        let (repository, _) = ServiceRepository::script(&place.path().join("service"), &script);
        let settings = settings(place.path(), script_settings(&repository.url()));
        let state = settings.daemon.state_dir.clone();
        std::fs::create_dir_all(&state).unwrap();
        let (cycle, ..) = registered(&Ledger::open(&ledger_path(&state)).unwrap(), &state).await;
        let daemon = start(settings.clone());
        resume(&daemon).await;
        let pid = until("the build runs", || async {
            std::fs::read_to_string(&pid_file).ok().map(|pid| pid.trim().to_owned()).filter(|pid| !pid.is_empty())
        })
        .await;
        let told = until("its progress is told", || async {
            step(&daemon.env.ledger, cycle.id, "build").await.filter(|step| step.progress.starts_with("building "))
        })
        .await;
        assert_eq!(told.state, StepState::Running);
        drop(daemon);
        assert!(!is_alive(&pid));
        let ledger = until("the ledger is free", || async { Ledger::open(&ledger_path(&state)).ok() }).await;
        let left = ledger.cycle(cycle.id).await.unwrap().unwrap();
        assert_eq!(left.state, CycleState::Running, "{}", left.detail);
        assert_eq!(step(&ledger, cycle.id, "build").await.unwrap().state, StepState::Running);
        assert_eq!(step(&ledger, cycle.id, "register").await.unwrap().state, StepState::Done);
        drop(ledger);
        // The next start does it again.
        std::fs::remove_file(&pid_file).unwrap();
        let next = start(settings);
        resume(&next).await;
        until("the build runs again", || async { pid_file.exists().then_some(()) }).await;
        let build = step(&next.env.ledger, cycle.id, "build").await.unwrap();
        assert_eq!(build.attempt, 2);
    });
}

/// The ledger of a daemon that numbered its steps 1 to 10 and knew no build.
fn older_ledger(path: &Path) {
    let newest = rusqlite::Connection::open(path).unwrap();
    let objects = ["rows_duplicate", "unused_columns", "quarantine_key", "resolved_at"];
    let dropped = objects.map(|column| format!("ALTER TABLE objects DROP COLUMN {column};")).concat();
    newest.execute_batch(&format!("DROP TABLE refused_datasets; {dropped}")).unwrap();
    newest
        .execute_batch(
            "UPDATE steps SET position = -position; UPDATE steps SET position = -position / 10;
             DROP TABLE builds; DROP TRIGGER image_withdrawn; ALTER TABLE images DROP COLUMN withdrawn_at;
             ALTER TABLE runs DROP COLUMN record; ALTER TABLE models RENAME COLUMN reason TO drift_reason;
             DROP TRIGGER deed_ended; ALTER TABLE audit DROP COLUMN outcome; ALTER TABLE cycles DROP COLUMN approved_by;
             ALTER TABLE cycles DROP COLUMN undoing; ALTER TABLE cycles DROP COLUMN cancel; PRAGMA user_version = 3;",
        )
        .unwrap();
}

#[test]
fn a_cycle_that_an_older_daemon_packaged_goes_on_without_a_build() {
    in_system(async {
        let place = ci::private_folder();
        // Nothing could be built from there.
        let source = script_settings(&place.path().join("nowhere").display().to_string());
        let settings = settings(place.path(), source);
        let state = settings.daemon.state_dir.clone();
        std::fs::create_dir_all(&state).unwrap();
        let ledger = Ledger::open(&ledger_path(&state)).unwrap();
        let (cycle, ..) = registered(&ledger, &state).await;
        let (image, layout) = layouts::image(place.path(), cycle.model.0);
        let packaged = ModelPackaged { layout, digest: image.manifest, size_bytes: image.size_bytes };
        ledger.step_started(cycle.id, 60, "package", at(7)).await.unwrap();
        ledger.step_done(cycle.id, 60, serde_json::to_value(packaged).unwrap(), at(8), 1).await.unwrap();
        drop(ledger);
        older_ledger(&ledger_path(&state));
        let positions = |name: &str| -> Vec<(u32, String)> {
            let connection = rusqlite::Connection::open(ledger_path(&state)).unwrap();
            let mut query =
                connection.prepare(&format!("SELECT position, name FROM {name} ORDER BY position")).unwrap();
            query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
        };
        let names = ["ingest", "dataset", "train", "gate", "register", "package"].map(str::to_owned);
        let older: Vec<(u32, String)> = (1..).zip(names).collect();
        assert_eq!(positions("steps"), older, "the ledger is not what the older daemon left");

        let daemon = start(settings);
        let newer: Vec<(u32, String)> = older.iter().map(|(position, name)| (position * 10, name.clone())).collect();
        assert_eq!(positions("steps"), newer);
        resume(&daemon).await;
        // The made-up service does not run: what counts is that its image was pushed, and nothing was built.
        let ended = finished(&daemon, cycle.id).await;
        assert_eq!(ended.outcome, Some(CycleOutcome::RolledBack), "{}", ended.detail);
        let steps = daemon.env.ledger.steps_of(cycle.id).await.unwrap();
        let names: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(names, ["ingest", "dataset", "train", "gate", "register", "package", "push", "deploy"]);
        assert!(steps.iter().all(|step| step.attempt == 1 || step.name == "deploy"), "{steps:?}");
    });
}
