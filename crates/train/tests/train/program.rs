//! `delayd-train` as a process: what it says before it has any work. Its work is tested in `tests/trainer_worker.rs`.
//!
//! These tests also have Cargo build the program wherever the whole workspace is tested.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Key of a document that is in no store.
const DOCUMENT: &str = "training-jobs/run_7/training-0123456789ab/job.json";

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_delayd-train"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DELAYD_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// Runs the program with a line on its standard input, which then ends.
fn given(line: &str) -> Output {
    let mut command = program();
    command.args(["--settings-from-stdin", "--job", DOCUMENT]).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A program that refused at once has closed it.
    let _ = child.stdin.take().unwrap().write_all(line.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The line that says what was wrong.
fn reason(output: &Output) -> String {
    let text = text(&output.stderr);
    let line = text.lines().find(|line| line.starts_with("delayd-train: "));
    line.unwrap_or_else(|| panic!("no reason in {text}")).to_owned()
}

fn settings(folder: &Path) -> String {
    format!("{}\n", serde_json::json!({ "object_store": { "folder": folder } }))
}

#[test]
fn it_says_what_it_would_train_on_and_which_build_it_is() {
    let probed = program().arg("--probe").output().unwrap();
    let said = text(&probed.stdout);
    assert!(probed.status.success(), "{}", text(&probed.stderr));
    assert!((said.starts_with("cpu") || said.starts_with("cuda")) && said.contains("libtorch"), "{said}");
    let version = text(&program().arg("--version").output().unwrap().stdout);
    assert!(version.starts_with(&format!("delayd-train {}", env!("CARGO_PKG_VERSION"))), "{version}");
}

#[test]
fn without_a_document_it_says_what_it_needs() {
    let output = program().output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--job"), "{}", text(&output.stderr));
}

#[test]
fn a_document_that_is_not_there_is_named() {
    let store = tempfile::tempdir().unwrap();
    let output = given(&settings(store.path()));
    assert_eq!(output.status.code(), Some(4), "{}", reason(&output));
    assert!(reason(&output).contains(DOCUMENT), "{}", reason(&output));
}

#[test]
fn settings_that_cannot_be_read_are_refused_and_not_repeated() {
    let line =
        "{\"object_store\": {\"kind\": \"s3\", \"s3\": {\"secret_access_key\": 4711, \"bucket\": \"m4rk3d\"}}}\n";
    let output = given(line);
    assert_eq!(output.status.code(), Some(2));
    let told = [output.stdout.as_slice(), &output.stderr].map(text).concat();
    assert!(reason(&output).contains("standard input"), "{told}");
    assert!(!told.contains("4711") && !told.contains("m4rk3d"), "{told}");
}

#[test]
fn what_the_daemon_gives_counts_whatever_the_environment_that_a_worker_inherits_names() {
    let store = tempfile::tempdir().unwrap();
    let mut command = program();
    command.args(["--settings-from-stdin", "--job", DOCUMENT]).stdin(Stdio::piped());
    command.env("DELAYD_CONFIG", "/nowhere/delayd.toml").env("DELAYD_STATE", "/nowhere/state");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(settings(store.path()).as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", reason(&output));
    assert!(reason(&output).contains(store.path().to_str().unwrap()), "{}", reason(&output));
}
