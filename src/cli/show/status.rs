//! `delayd status`.

use serde_json::json;

use super::super::commands::CliError;
use super::super::source::Source;
use super::cycles::outcome;
use super::{Shown, at, page, state, table};
use crate::http::StatusDocument;
use crate::ledger::{Alias, Cycle, CycleState};

pub(in crate::cli) async fn status(source: &Source) -> Result<Shown, CliError> {
    match source.status().await? {
        Some(status) => running(&status),
        None => stored(source).await,
    }
}

/// What a running daemon says of itself.
fn running(status: &StatusDocument) -> Result<Shown, CliError> {
    let mut text = format!("delayd {} is running; the service answers at {}\n", status.version, status.service_url);
    if let Some(word) = &status.paused {
        let why = if word.reason.is_empty() { String::new() } else { format!(": {}", word.reason) };
        text.push_str(&format!("paused by {} since {}{why}; `delayd resume` ends it\n", word.by, at(word.at)));
    }
    for alias in &status.aliases {
        let name = alias.alias.to_string();
        text.push_str(&format!("{name:<10} {} since {}\n", alias.model, at(alias.moved_at)));
    }
    if let Some(found) = status.live_service.as_ref().filter(|found| !found.served) {
        text.push_str(&format!("WRONG: {}\n", found.text));
    }
    if let Some(cycle) = &status.cycle {
        text.push_str(&format!("{}\n", told(cycle)));
    }
    if let Some(why) = &status.replicas_unknown {
        text.push_str(&format!("the cluster cannot tell its replicas: {why}\n"));
    }
    let mut replicas = table(&["replica", "model", "state", "restarts", "memory", "why"]);
    for replica in &status.replicas {
        let memory =
            replica.memory_bytes.map_or_else(|| "-".to_owned(), |bytes| format!("{:.1} MB", bytes as f64 / 1e6));
        let word = serde_json::to_value(replica.state).ok();
        replicas.add_row([
            replica.name.as_str().into(),
            replica.model.to_string().into(),
            state(word.as_ref().and_then(|word| word.as_str()).unwrap_or("-")),
            replica.restarts.to_string().into(),
            memory.into(),
            replica.reason.as_deref().unwrap_or_default().into(),
        ]);
    }
    let mut actors = table(&["actor", "state", "restarts", "waiting", "works on", "last failure"]);
    for actor in &status.actors {
        let word = serde_json::to_value(actor.state).ok();
        actors.add_row([
            actor.name.as_str().into(),
            state(word.as_ref().and_then(|word| word.as_str()).unwrap_or("-")),
            actor.restarts.to_string().into(),
            actor.waiting_senders.to_string().into(),
            actor.current_work.as_deref().unwrap_or_default().into(),
            actor.last_failure.as_deref().unwrap_or_default().into(),
        ]);
    }
    text.push_str(&format!("{replicas}\n{actors}"));
    Shown::new(status, text)
}

/// The newest cycle, and what may be asked of it.
fn told(cycle: &Cycle) -> String {
    let id = cycle.id;
    match (cycle.state, &cycle.undoing, &cycle.cancel) {
        (CycleState::WaitingApproval, ..) => {
            format!("{id} waits for approval: `delayd approve` or `delayd reject`; {} already serves", cycle.model)
        }
        (CycleState::Running, Some(undoing), _) => format!("{id} is being undone: {}", undoing.why),
        (CycleState::Running, None, Some(request)) => format!("{id} is to stop: {request}"),
        (CycleState::Running, None, None) => format!("{id} is under way; `delayd cancel` stops it"),
        (CycleState::Finished, ..) => format!("last cycle {id} {}: {}", outcome(cycle), cycle.detail),
    }
}

/// What the ledger says when no daemon answers.
async fn stored(source: &Source) -> Result<Shown, CliError> {
    let aliases = source.aliases().await?;
    let cycle = source.cycles(page(1)).await?.into_iter().next();
    let live = aliases.iter().find(|alias| alias.alias == Alias::Live);
    let live = live.map_or_else(
        || "no model is live".to_owned(),
        |alias| format!("{} is live since {}", alias.model, at(alias.moved_at)),
    );
    let last = cycle.as_ref().map_or_else(|| "no cycle yet".to_owned(), told);
    let text = format!("no daemon answers; the ledger says:\n{live}\n{last}");
    Shown::new(&json!({ "running": false, "aliases": aliases, "cycle": cycle }), text)
}
