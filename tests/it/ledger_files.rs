//! The ledger's file: locks, damage, disk full, crashes of closures, backups.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use delayd_core::error::ErrorKind;
use delayd_ledger::{CycleOutcome, CycleReason, Ledger, LedgerError, Page, recover_copy, refuse};
use delayd_testkit::site::{command, ended};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

fn at(secs: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(secs, 0).unwrap()
}

fn set(ledger: &Ledger, value: u32) -> Result<(), LedgerError> {
    ledger.blocking().write("setting", move |t| t.set_setting("number", value, at(0)))
}

fn get(ledger: &Ledger) -> Option<u32> {
    ledger.blocking().read("getting", |c| c.setting("number")).unwrap()
}

fn filled(path: &Path) {
    let ledger = Ledger::open(path).unwrap();
    ledger
        .blocking()
        .write("filling", |t| {
            for n in 0..3000 {
                t.record_audit(&delayd_ledger::AuditEntry {
                    at: at(n),
                    actor: "ann".into(),
                    action: "pause".into(),
                    subject: format!("cycle_{n}"),
                    detail: "x".repeat(100),
                })?;
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_second_daemon_is_refused_with_the_first_ones_process_and_readers_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.db");
    let first = Ledger::open(&path).unwrap();
    set(&first, 1).unwrap();
    let error = Ledger::open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    let reader = Ledger::open_read_only(&path).unwrap();
    assert_eq!(get(&reader), Some(1));
    assert!(matches!(set(&reader, 2), Err(LedgerError::ReadOnly { .. })));
    let sneaky = reader.blocking().read("writing all the same", |c| c.execute("DELETE FROM settings", []));
    assert_eq!(sneaky.unwrap_err().kind(), ErrorKind::Denied);
    drop(first);
    assert_eq!(get(&Ledger::open(&path).unwrap()), Some(1), "the lock goes with the last handle");
    assert!(matches!(Ledger::open_read_only(&dir.path().join("none.db")), Err(LedgerError::Missing { .. })));
}

#[test]
fn a_file_that_is_not_a_database_or_a_newer_one_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text.db");
    fs::write(&text, "these are my holiday notes, not a database").unwrap();
    let error = Ledger::open(&text).unwrap_err();
    assert!(matches!(error, LedgerError::NotADatabase { .. }), "{error}");
    assert_eq!(fs::read_to_string(&text).unwrap(), "these are my holiday notes, not a database");

    let newer = dir.path().join("newer.db");
    drop(Ledger::open(&newer).unwrap());
    rusqlite::Connection::open(&newer).unwrap().pragma_update(None, "user_version", 999).unwrap();
    let error = Ledger::open(&newer).unwrap_err();
    assert!(error.to_string().contains("schema version 999"), "{error}");
}

#[test]
fn a_damaged_file_is_refused_untouched_and_what_can_be_read_of_it_is_copied() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.db");
    filled(&path);
    // A page of the audit's rows, in the middle of the file.
    let length = fs::metadata(&path).unwrap().len();
    let page = length / 4096 / 2;
    fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[0xA5; 4096], page * 4096).unwrap();
    let before = fs::read(&path).unwrap();
    for error in [Ledger::open(&path).unwrap_err(), Ledger::open_read_only(&path).unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(
            error.to_string().contains("delayd restore FILE") && error.to_string().contains("delayd recover FILE"),
            "{error}"
        );
    }
    let copy = dir.path().join("copy.db");
    let report = recover_copy(&path, &copy).unwrap();
    assert!(!report.is_complete());
    let audit = report.tables.iter().find(|table| table.name == "audit").unwrap();
    assert!(audit.damage.is_some() && audit.rows > 2800 && audit.rows < 3000, "{audit:?}");
    assert_eq!(fs::read(&path).unwrap(), before, "the damaged file is left as it is");
    assert!(recover_copy(&path, &copy).is_err(), "a copy never overwrites");
    Ledger::open(&copy).unwrap();
}

#[test]
fn a_full_disk_is_exhausted_and_leaves_the_ledger_usable() {
    let ledger = Ledger::in_memory().unwrap();
    let full = ledger.blocking().write("filling the disk", |t| {
        let pages: i64 = t.query_row("PRAGMA page_count", [], |row| row.get(0))?;
        t.query_row(&format!("PRAGMA max_page_count = {}", pages + 2), [], |_| Ok(()))?;
        t.set_setting("number", "x".repeat(100_000), at(0))
    });
    assert_eq!(full.unwrap_err().kind(), ErrorKind::Exhausted);
    set(&ledger, 5).unwrap();
    assert_eq!(get(&ledger), Some(5));
}

#[tokio::test]
async fn a_refusal_a_panic_and_an_error_store_nothing_and_the_ledger_continues() {
    let ledger = Ledger::in_memory().unwrap();
    set(&ledger, 1).unwrap();
    let refused: Result<(), _> = ledger
        .write("refusing", |t| {
            t.set_setting("number", 2, at(0))?;
            Err(refuse(ErrorKind::Invalid, "not today"))
        })
        .await;
    assert_eq!(refused.unwrap_err().to_string(), "ledger: refusing: not today");
    let panicked: Result<(), _> = ledger
        .write("panicking", |t| {
            t.set_setting("number", 3, at(0))?;
            panic!("a fault of ours")
        })
        .await;
    let panicked = panicked.unwrap_err();
    assert!(panicked.to_string().contains("a fault of ours"), "{panicked}");
    assert_eq!(get(&ledger), Some(1));
    set(&ledger, 4).unwrap();
    assert_eq!(get(&ledger), Some(4));
}

#[tokio::test]
async fn a_backup_is_whole_while_the_ledger_is_in_use_and_never_overwrites() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&dir.path().join("ledger.db")).unwrap();
    let cycle = ledger.begin_cycle(CycleReason::Bootstrap, at(5)).await.unwrap();
    let backup = dir.path().join("backup.db");
    ledger.backup_to(&backup).await.unwrap();
    assert_eq!(ledger.backup_to(&backup).await.unwrap_err().kind(), ErrorKind::Conflict);
    ledger.step_started(cycle.id, 0, "ingest", at(6)).await.unwrap();
    ledger.step_done(cycle.id, 0, json!({"rows": 1}).into(), at(7), 10).await.unwrap();
    let restored = Ledger::open(&backup).unwrap();
    assert_eq!(restored.cycles(Page::default()).await.unwrap(), vec![cycle.clone()]);
    assert!(restored.steps_of(cycle.id).await.unwrap().is_empty());
    let write = ledger.read("writing", |c| c.execute("DELETE FROM cycles", [])).await;
    assert_eq!(write.unwrap_err().kind(), ErrorKind::Denied, "after a backup the reader can still only read");
}

// ----------------------------------------------------------------
// `delayd backup` and `delayd restore`, as an administrator uses them.

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
fn what_is_not_a_whole_backup_is_refused_and_the_ledger_is_not_touched() {
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
