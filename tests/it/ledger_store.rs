//! The ledger's file: locks, damage, disk full, crashes of closures, backups.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "helpers are shared by inclusion")]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use chrono::{DateTime, Utc};
use delayd_core::error::ErrorKind;
use delayd_ledger::{CycleReason, Ledger, LedgerError, Page, recover_copy, refuse};
use serde_json::json;

fn at(secs: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(secs, 0).unwrap()
}

fn set(ledger: &Ledger, value: u32) -> Result<(), LedgerError> {
    ledger.blocking().set_setting("number", value, at(0))
}

fn get(ledger: &Ledger) -> Option<u32> {
    ledger.blocking().setting("number").unwrap()
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
fn a_file_that_is_no_database_or_a_newer_one_is_refused_and_left_as_it_is() {
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
async fn a_refusal_a_panic_and_an_error_store_nothing_and_the_ledger_goes_on() {
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
