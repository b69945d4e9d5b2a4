//! `delayd log` and `delayd build-log`: the daemon's files, asked of the daemon or read
//! where they lie.

use std::path::Path;

use serde_json::json;

use super::commands::CliError;
use super::show::{Shown, page};
use super::source::Source;
use crate::config::Settings;
use crate::telemetry::cycle_log_path;
use delayd_core::ids::CycleId;
use delayd_outside::packaging::source::build_log_path;

/// What a cycle logged.
pub(super) async fn cycle_log(
    source: &Source,
    settings: &Settings,
    cycle: Option<CycleId>,
    lines: Option<u32>,
) -> Result<Shown, CliError> {
    let newest = || async { Ok::<_, CliError>(source.cycles(page(1)).await?.first().map(|cycle| cycle.id)) };
    let cycle = match cycle {
        Some(cycle) => cycle,
        None => newest().await?.ok_or_else(|| CliError::NotFound("there is no cycle yet".to_owned()))?,
    };
    let text = match source {
        Source::Daemon(remote) => {
            let query = lines.map_or_else(String::new, |lines| format!("?lines={lines}"));
            remote.text(&format!("cycles/{cycle}/log{query}")).await?
        }
        Source::Ledger(_) => {
            let why = "it was removed, or not kept, or the cycle is of another state directory";
            last(&read(&cycle_log_path(&settings.daemon.state_dir, cycle), cycle, "log", why)?, lines)
        }
    };
    shown(cycle, &text)
}

/// The log of a cycle's build of the service.
pub(super) async fn build_log(source: &Source, settings: &Settings, cycle: Option<CycleId>) -> Result<Shown, CliError> {
    let state_dir = &settings.daemon.state_dir;
    let none = || CliError::NotFound("no cycle has a build log: the service at hand was packaged".to_owned());
    let text = match (source, cycle) {
        (Source::Daemon(remote), Some(cycle)) => {
            remote.text(&format!("cycles/{cycle}/build-log")).await.map(|text| (cycle, text))
        }
        (Source::Daemon(remote), None) => newest_of(source, remote).await?.ok_or_else(none),
        (Source::Ledger(_), cycle) => {
            let cycle = cycle.or_else(|| newest_here(state_dir)).ok_or_else(none)?;
            let why = "the service at hand was packaged, or the log was removed";
            read(&build_log_path(state_dir, cycle), cycle, "build log", why).map(|text| (cycle, text))
        }
    };
    let (cycle, text) = text?;
    shown(cycle, &text)
}

/// The last cycle of which the daemon has a build log.
async fn newest_of(source: &Source, remote: &super::remote::Remote) -> Result<Option<(CycleId, String)>, CliError> {
    for cycle in source.cycles(page(50)).await? {
        match remote.text(&format!("cycles/{}/build-log", cycle.id)).await {
            Ok(text) => return Ok(Some((cycle.id, text))),
            Err(CliError::NotFound(_)) => {}
            Err(other) => return Err(other),
        }
    }
    Ok(None)
}

/// The last cycle that has a build log in this state directory.
fn newest_here(state_dir: &Path) -> Option<CycleId> {
    let folders = std::fs::read_dir(state_dir.join("builds")).ok()?;
    let cycles = folders.flatten().filter_map(|folder| folder.file_name().to_str()?.parse::<CycleId>().ok());
    cycles.filter(|cycle| build_log_path(state_dir, *cycle).is_file()).max_by_key(|cycle| cycle.0)
}

fn read(path: &Path, cycle: CycleId, what: &str, why: &str) -> Result<String, CliError> {
    let bytes = std::fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            CliError::NotFound(format!("{cycle} has no {what} at {}: {why}", path.display()))
        }
        _ => CliError::Failed(format!("{}: {error}", path.display())),
    })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn last(text: &str, lines: Option<u32>) -> String {
    let Some(lines) = lines else { return text.to_owned() };
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines as usize)..].join("\n")
}

fn shown(cycle: CycleId, text: &str) -> Result<Shown, CliError> {
    let text = text.trim_end().to_owned();
    Shown::new(&json!({ "cycle": cycle, "log": text }), text.clone())
}
