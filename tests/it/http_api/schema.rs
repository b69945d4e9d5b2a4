//! The API against its own OpenAPI document: schemathesis asks whatever the document
//! allows, and what it forbids, and checks every answer.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;

use super::site::{Needs, Running, Site, needs};
use super::text;

/// What is checked of every answer. What a question holds beside the document's forms may be ignored.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";

/// schemathesis, where `scripts/setup/python_tools` installed it.
fn schemathesis() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))?;
    let program = cache.join("delayd/schemathesis/bin/schemathesis");
    program.is_file().then_some(program)
}

/// A daemon whose loop has gone round once, so that there is a record of every sort, and its address.
fn with_records(needs: &Needs) -> (Site, Running, String) {
    let site = Site::with_history(needs);
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = std::fs::read_to_string(site.config()).unwrap();
    let http = format!("listen = \"{address}\"\nrequests_per_second = 100000\nrequest_burst = 100000");
    std::fs::write(site.config(), text.replace("listen = \"127.0.0.1:0\"", &http)).unwrap();
    let mut running = site.start();
    site.wait_for_the_cycle(&mut running);
    (site, running, format!("http://{address}"))
}

#[test]
fn no_question_makes_the_server_fail_and_no_answer_is_undocumented() {
    let Some(program) = schemathesis() else {
        eprintln!("SKIPPED: schemathesis is missing (`scripts/setup/python_tools`)");
        return;
    };
    let Some(needs) = needs("the API against its document") else { return };
    let (site, _running, url) = with_records(&needs);
    let output = Command::new(program)
        .current_dir(site.place.path())
        .args(["run", &format!("{url}/api/v1/openapi.json"), "--url", &url])
        .args(["--max-examples", "15", "--seed", "1", "--no-color", "--continue-on-failure", "--warnings", "off"])
        // An event stream never ends; its own tests read it.
        .args(["--exclude-path", "/api/v1/events"])
        .args(["--phases", "examples,coverage,fuzzing"])
        .args(["--checks", CHECKS])
        .env("HYPOTHESIS_STORAGE_DIRECTORY", site.place.path().join("hypothesis"))
        .output()
        .unwrap();
    let told = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{told}");
    assert!(told.contains("Tested: 3"), "nothing was asked: {told}");
}
