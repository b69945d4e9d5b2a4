//! `delayd backup` and `delayd restore`, as an administrator uses them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use delayd_testkit::site;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use chrono::DateTime;
use delayd_ledger::{CycleOutcome, CycleReason, Ledger, Page};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use site::{command, ended};
use tempfile::TempDir;

struct State {
    folder: TempDir,
}

impl State {
    fn with_cycles(count: i64) -> Self {
        let state = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(state.path()).unwrap();
        state.add_cycles(count);
        state
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn ledger(&self) -> PathBuf {
        self.path().join("ledger.sqlite")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn add_cycles(&self, count: i64) {
        let ledger = Ledger::open(&self.ledger()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            for second in 0..count {
                let at = DateTime::from_timestamp(second, 0).unwrap();
                let cycle = ledger.begin_cycle(CycleReason::Scheduled, at).await.unwrap();
                ledger.finish_cycle(cycle.id, CycleOutcome::KeptLive, "no better", at).await.unwrap();
            }
        });
    }

    fn cycles(&self, ledger: &Path) -> usize {
        let ledger = Ledger::open_read_only(ledger).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(ledger.cycles(Page { offset: 0, limit: 100 })).unwrap().len()
    }

    /// Exit status and answer of a command.
    fn ask(&self, arguments: &[&str]) -> (i32, String) {
        let state = self.path();
        let mut all = vec!["--state", state.to_str().unwrap(), "--json"];
        all.extend(arguments);
        let output = command(&all).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    }

    fn backup(&self, name: &str) -> PathBuf {
        let file = self.file(name);
        let (status, told) = self.ask(&["backup", file.to_str().unwrap()]);
        assert_eq!(status, 0, "{told}");
        file
    }
}

#[test]
fn a_restored_backup_is_the_ledger_again_and_what_was_there_is_kept() {
    let state = State::with_cycles(2);
    let file = state.backup("ledger.backup");
    state.add_cycles(3);
    let (status, told) = state.ask(&["restore", file.to_str().unwrap()]);
    assert_eq!(status, 0, "{told}");
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["backup"]["newest_cycle"], "cycle_2");
    assert_eq!(state.cycles(&state.ledger()), 2);
    let aside = PathBuf::from(told["set_aside"].as_str().unwrap());
    assert_eq!(state.cycles(&aside), 5, "nothing of the replaced one is lost");
    assert_eq!(state.cycles(&file), 2, "the backup can be used again");
    state.add_cycles(1);
    assert_eq!(state.cycles(&state.ledger()), 3, "and the loop goes on from there");
}

#[test]
fn a_backup_is_taken_from_a_running_daemon_and_a_restore_waits_for_its_end() {
    let state = State::with_cycles(1);
    let config = state.file("delayd.toml");
    fs::write(&config, "[http]\nlisten = \"127.0.0.1:0\"\n").unwrap();
    let folder = state.path();
    let mut daemon = command(&["--config", config.to_str().unwrap(), "--state", folder.to_str().unwrap(), "run"]);
    let mut daemon = daemon.env("DELAYD_SERVE_BIN", "/bin/true").stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while fs::read_to_string(folder.join("ledger.sqlite.lock")).unwrap().trim() != daemon.id().to_string() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the daemon does not open its ledger");
        std::thread::sleep(Duration::from_millis(20));
    }
    let file = state.backup("while-running");
    let (status, told) = state.ask(&["restore", file.to_str().unwrap()]);
    assert_eq!(status, 5, "{told}");
    assert!(told.contains(&format!("process {}", daemon.id())), "{told}");
    kill(Pid::from_raw(i32::try_from(daemon.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert!(ended(&mut daemon, Duration::from_secs(60)).expect("it stops").success());
    let (status, told) = state.ask(&["restore", file.to_str().unwrap()]);
    assert_eq!(status, 0, "{told}");
}

#[test]
fn what_is_no_whole_backup_is_refused_and_the_ledger_is_not_touched() {
    let state = State::with_cycles(40);
    let before = fs::read(state.ledger()).unwrap();
    let damaged = state.backup("damaged");
    let (pages, middle) = (fs::metadata(&damaged).unwrap().len() / 4096, 4096 * 3);
    assert!(pages > 4);
    fs::File::options().write(true).open(&damaged).unwrap().write_all_at(&[0xff; 4096], middle).unwrap();
    let truncated = state.backup("truncated");
    fs::File::options().write(true).open(&truncated).unwrap().set_len((pages - 2) * 4096).unwrap();
    let foreign = state.file("foreign");
    rusqlite::Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    let orphaned = state.backup("orphaned");
    let orphan = "PRAGMA foreign_keys = off; INSERT INTO steps (cycle, position, name, state, attempt, started_at) \
                  VALUES (999, 0, 'train', 'running', 1, 0)";
    rusqlite::Connection::open(&orphaned).unwrap().execute_batch(orphan).unwrap();
    fs::write(state.file("empty"), "").unwrap();
    fs::write(state.file("text"), "no database at all, only a few words").unwrap();
    for (name, part) in [
        ("damaged", "is damaged"),
        ("truncated", "is damaged"),
        ("orphaned", "a row of steps names one of cycles that is not there"),
        ("foreign", "no ledger of delayd"),
        ("empty", "not an SQLite database"),
        ("text", "not an SQLite database"),
        ("nowhere", "there is no such file"),
    ] {
        let (status, told) = state.ask(&["restore", state.file(name).to_str().unwrap()]);
        assert!(status != 0 && told.contains(part), "{name}: {status} {told}");
    }
    let (status, told) = state.ask(&["restore", state.ledger().to_str().unwrap()]);
    assert!(status != 0 && told.contains("is the ledger itself"), "{status} {told}");
    assert_eq!(fs::read(state.ledger()).unwrap(), before);
    let left: Vec<_> = fs::read_dir(state.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("replaced")), "{left:?}");
}

#[test]
fn a_damaged_ledger_is_replaced_and_kept() {
    let state = State::with_cycles(40);
    let file = state.backup("good");
    fs::File::options().write(true).open(state.ledger()).unwrap().write_all_at(&[0xff; 4096], 4096 * 3).unwrap();
    let damaged = fs::read(state.ledger()).unwrap();
    assert!(Ledger::open(&state.ledger()).is_err());
    let (status, told) = state.ask(&["restore", file.to_str().unwrap()]);
    assert_eq!(status, 0, "{told}");
    assert_eq!(state.cycles(&state.ledger()), 40);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(fs::read(told["set_aside"].as_str().unwrap()).unwrap(), damaged);
}

#[test]
fn what_root_restores_belongs_to_whom_the_state_directory_belongs() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: what_root_restores_belongs_to_whom_the_state_directory_belongs: it needs root");
        return;
    }
    let state = State::with_cycles(1);
    let file = state.backup("ledger.backup");
    fs::remove_dir_all(state.path()).unwrap();
    fs::create_dir(state.path()).unwrap();
    std::os::unix::fs::chown(state.path(), Some(1234), Some(4321)).unwrap();
    let (status, told) = state.ask(&["restore", file.to_str().unwrap()]);
    assert_eq!(status, 0, "{told}");
    for entry in fs::read_dir(state.path()).unwrap() {
        let entry = entry.unwrap();
        let owner = entry.metadata().unwrap();
        assert_eq!((owner.uid(), owner.gid()), (1234, 4321), "{:?}", entry.file_name());
    }
}
