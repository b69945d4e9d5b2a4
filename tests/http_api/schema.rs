//! The API against its own OpenAPI document: schemathesis asks whatever the document
//! allows, and what it forbids, and checks every answer.

use std::path::PathBuf;
use std::process::Command;

use super::{Daemon, OPERATOR, text};

/// schemathesis, where `scripts/setup/python_tools` installed it.
fn schemathesis() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))?;
    let program = cache.join("delayd/schemathesis/bin/schemathesis");
    program.is_file().then_some(program)
}

/// A daemon whose ledger has something of everything that needs no loop.
fn with_records() -> Daemon {
    let daemon = Daemon::started("requests_per_second = 100000\nrequest_burst = 100000");
    daemon.says(&["pause", "--why", "asked about"]);
    daemon.says(&["silence", "drift/", "--for", "1h", "--why", "asked about"]);
    daemon
}

#[test]
fn no_question_makes_the_server_fail_and_no_answer_is_undocumented() {
    let Some(program) = schemathesis() else {
        eprintln!("SKIPPED: schemathesis is missing (`scripts/setup/python_tools`)");
        return;
    };
    let daemon = with_records();
    let document = daemon.place.path().join("openapi.json");
    std::fs::write(&document, daemon.says(&["openapi"])).unwrap();
    let output = Command::new(program)
        .current_dir(daemon.place.path())
        .arg("run")
        .arg(&document)
        .args(["--url", &daemon.url(""), "--header", &format!("Authorization: Bearer {OPERATOR}")])
        .args(["--max-examples", "15", "--seed", "1", "--no-color", "--continue-on-failure"])
        // An event stream never ends; its own tests read it.
        .args(["--exclude-path", "/api/v1/events"])
        .args(["--phases", "examples,coverage,fuzzing"])
        // What it sends beside the document's forms may be accepted: unknown headers, a body where none is read.
        .args([
            "--checks",
            "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        ])
        .env("HYPOTHESIS_STORAGE_DIRECTORY", daemon.place.path().join("hypothesis"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains("No issues found"), "{}", text(&output.stdout));
}
