//! `delayd check`: is everything there? It changes nothing.

use serde::Serialize;

use super::commands::CliError;
use crate::config::Settings;
use crate::daemon::{ledger_path, service_binary};
use crate::data::contract::Contract;
use crate::error::chain;
use crate::ledger::Ledger;
use crate::training::device;

#[derive(Serialize)]
struct Finding {
    what: &'static str,
    fine: bool,
    detail: String,
}

pub(super) async fn run(settings: &Settings, json: bool) -> Result<String, CliError> {
    let findings = vec![
        Finding { what: "configuration", fine: true, detail: "every value can be used".to_owned() },
        contract(settings),
        binary(settings),
        ledger(settings),
        store(settings),
        compute(settings),
    ];
    let failed = findings.iter().filter(|finding| !finding.fine).count();
    let text = if json {
        serde_json::to_string_pretty(&findings).map_err(|error| CliError::Failed(error.to_string()))?
    } else {
        let line = |finding: &Finding| {
            format!("{} {:<18} {}", if finding.fine { "ok  " } else { "FAIL" }, finding.what, finding.detail)
        };
        findings.iter().map(line).collect::<Vec<_>>().join("\n")
    };
    if failed == 0 {
        return Ok(text);
    }
    eprintln!("{text}");
    Err(CliError::Checks(failed))
}

fn finding<E: std::fmt::Display>(what: &'static str, result: Result<String, E>) -> Finding {
    match result {
        Ok(detail) => Finding { what, fine: true, detail },
        Err(error) => Finding { what, fine: false, detail: error.to_string() },
    }
}

fn contract(settings: &Settings) -> Finding {
    let path = &settings.ingestion.contract_path;
    if path.as_os_str().is_empty() {
        return finding(
            "data contract",
            Contract::built_in().map(|_| "built in".to_owned()).map_err(|error| chain(&error)),
        );
    }
    let read = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()));
    let parsed =
        read.and_then(|text| Contract::parse(&text).map_err(|error| format!("{}: {}", path.display(), chain(&error))));
    finding("data contract", parsed.map(|_| path.display().to_string()))
}

fn binary(settings: &Settings) -> Finding {
    finding(
        "inference service",
        service_binary(&settings.packaging.service_binary).map(|path| path.display().to_string()),
    )
}

fn ledger(settings: &Settings) -> Finding {
    let path = ledger_path(&settings.daemon.state_dir);
    if !path.exists() {
        return finding::<String>("ledger", Ok(format!("{} is made at the first start", path.display())));
    }
    finding("ledger", Ledger::open_read_only(&path).map(|_| path.display().to_string()).map_err(|error| chain(&error)))
}

fn store(settings: &Settings) -> Finding {
    let dir = &settings.ingestion.store_dir;
    let dir = if dir.as_os_str().is_empty() { settings.daemon.state_dir.join("store") } else { dir.clone() };
    if !dir.exists() {
        return finding::<String>("object store", Ok(format!("{} is made at the first start", dir.display())));
    }
    let airports = dir.join(&settings.ingestion.airports_key);
    let result = if airports.is_file() {
        Ok(dir.display().to_string())
    } else {
        Err(format!("{} is missing: airports are needed to read local times", airports.display()))
    };
    finding("object store", result)
}

fn compute(settings: &Settings) -> Finding {
    finding(
        "training device",
        device::choose(settings.training.device).map(|(_, name)| name).map_err(|error| chain(&error)),
    )
}
