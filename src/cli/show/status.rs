//! `delayd status`.

use serde_json::json;

use super::super::commands::CliError;
use super::super::source::Source;
use super::{Shown, at, drawn, page, standing, state, table};
use crate::config::Settings;
use crate::http::{CycleDocument, StatusDocument};
use delayd_ledger::{Alias, AliasRecord, CycleState};

pub(in crate::cli) async fn status(source: &Source, settings: &Settings) -> Result<Shown, CliError> {
    match source.status().await? {
        Some(status) => {
            let last = match &status.cycle {
                Some(cycle) => Some(source.cycle(cycle.id).await?),
                None => None,
            };
            running(&status, last.as_ref())
        }
        None => stored(source, settings).await,
    }
}

/// What a running daemon says of itself.
fn running(status: &StatusDocument, last: Option<&CycleDocument>) -> Result<Shown, CliError> {
    let mut text = format!("delayd {} is running; the service answers at {}\n", status.version, status.service_url);
    if let Some(replay) = &status.replay {
        text.push_str(&format!("{replay}: the daemon's clock says {}\n", at(status.now)));
    }
    if let Some(word) = &status.paused {
        let why = if word.reason.is_empty() { String::new() } else { format!(": {}", word.reason) };
        text.push_str(&format!("paused by {} since {}{why}; `delayd resume` ends it\n", word.by, at(word.at)));
    }
    for alias in &status.aliases {
        let name = alias.alias.to_string();
        text.push_str(&format!("{name:<10} {} since {}\n", alias.model, at(alias.moved_at)));
    }
    if !status.aliases.iter().any(|alias| alias.alias == Alias::Live) {
        text.push_str(&format!("{}\n", none_live(&status.waits_for)));
    }
    if let Some(found) = status.live_service.as_ref().filter(|found| !found.served) {
        text.push_str(&format!("WRONG: {}\n", found.text));
    }
    if let Some(last) = last {
        text.push_str(&format!("{}\n", told(last, &status.aliases)));
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
    let replicas = if replicas.is_empty() { "no replica runs".to_owned() } else { drawn(replicas) };
    text.push_str(&format!("{replicas}\n{}", drawn(actors)));
    Shown::new(status, text)
}

/// That nothing is live, and what a first model waits for.
fn none_live(waits_for: &[String]) -> String {
    if waits_for.is_empty() {
        "no model is live".to_owned()
    } else {
        format!("no model is live: {}", waits_for.join("; "))
    }
}

/// The newest cycle, and what may be asked of it.
fn told(last: &CycleDocument, aliases: &[AliasRecord]) -> String {
    let cycle = &last.cycle;
    let id = cycle.id;
    match (cycle.state, &cycle.undoing, &cycle.cancel) {
        (CycleState::WaitingApproval, ..) => {
            format!("{id} waits for approval: `delayd approve` or `delayd reject`; {} already serves", cycle.model)
        }
        (CycleState::Running, Some(undoing), _) => format!("{id} is being undone: {}", undoing.why),
        (CycleState::Running, None, Some(request)) => format!("{id} is to stop: {request}"),
        (CycleState::Running, None, None) => {
            format!("{}; `delayd cancel` stops it", standing::of_last_cycle(last, aliases))
        }
        (CycleState::Finished, ..) => standing::of_last_cycle(last, aliases),
    }
}

/// What the ledger says when no daemon answers.
async fn stored(source: &Source, settings: &Settings) -> Result<Shown, CliError> {
    let aliases = source.aliases().await?;
    let cycle = source.cycles(page(1)).await?.into_iter().next();
    let live = aliases.iter().find(|alias| alias.alias == Alias::Live);
    let waits_for = source.waits_for(settings).await?;
    let live = live
        .map_or_else(|| none_live(&waits_for), |alias| format!("{} is live since {}", alias.model, at(alias.moved_at)));
    let last = match &cycle {
        Some(cycle) => told(&source.cycle(cycle.id).await?, &aliases),
        None => "no cycle yet".to_owned(),
    };
    let replay = source.replay().await?;
    let whose = replay.map_or_else(String::new, |replay| format!(" of a {replay}"));
    let text = format!("no daemon answers; the ledger{whose} says:\n{live}\n{last}");
    let answer =
        json!({ "running": false, "aliases": aliases, "waits_for": waits_for, "cycle": cycle, "replay": replay });
    Shown::new(&answer, text)
}
