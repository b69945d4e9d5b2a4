//! `delayd status`.

use super::super::commands::CliError;
use super::super::source::Source;
use super::cycles::outcome;
use super::words::{sentence, words};
use super::{Shown, at, drawn, state, table, word_of};
use crate::config::Settings;
use crate::http::CycleDocument;
use crate::status::StatusDocument;
use delayd_ledger::{Alias, CycleOutcome, CycleState, StepState};

pub(in crate::cli) async fn status(source: &Source, settings: &Settings) -> Result<Shown, CliError> {
    let status = source.status(settings).await?;
    let last = match &status.cycle {
        Some(cycle) => Some(source.cycle(cycle.id).await?),
        None => None,
    };
    Shown::new(&status, text(&status, last.as_ref()))
}

fn text(status: &StatusDocument, last: Option<&CycleDocument>) -> String {
    let mut lines = Vec::new();
    match (&status.service_url, &status.replay) {
        (Some(url), replay) => {
            lines.push(format!("delayd {} is running; the service answers at {url}", status.version));
            if let Some(replay) = replay {
                lines.push(format!("{replay}: the daemon's clock says {}", at(status.now)));
            }
        }
        (None, Some(replay)) => lines.push(format!("no daemon is running; the ledger of a {replay} says:")),
        (None, None) => lines.push("no daemon is running; the ledger says:".to_owned()),
    }
    for alias in &status.aliases {
        lines.push(format!("{:<10} {} since {}", alias.alias.to_string(), alias.model, at(alias.moved_at)));
    }
    if let Some(last) = last {
        lines.push(of_last_cycle(last, status));
    }
    let findings = status.attention.iter().filter(|finding| finding.kind != "daemon_stopped");
    lines.extend(findings.map(|finding| format!("{}: {}", finding.severity, sentence(&finding.text))));
    if status.running && status.attention.is_empty() {
        lines.push("nothing needs your attention".to_owned());
    }
    if status.running {
        lines.push(replicas(status));
        lines.push(actors(status));
    }
    lines.join("\n")
}

fn replicas(status: &StatusDocument) -> String {
    if status.replicas.is_empty() {
        return "no replica runs".to_owned();
    }
    let mut replicas = table(&["replica", "model", "state", "restarts", "memory", "why"]);
    for replica in &status.replicas {
        let memory =
            replica.memory_bytes.map_or_else(|| "-".to_owned(), |bytes| format!("{:.1} MB", bytes as f64 / 1e6));
        replicas.add_row([
            replica.name.as_str().into(),
            replica.model.to_string().into(),
            state(&word_of(&replica.state)),
            replica.restarts.to_string().into(),
            memory.into(),
            replica.reason.as_deref().unwrap_or_default().into(),
        ]);
    }
    drawn(replicas)
}

fn actors(status: &StatusDocument) -> String {
    let mut actors = table(&["actor", "state", "restarts", "waiting", "works on", "last failure"]);
    for actor in &status.actors {
        actors.add_row([
            actor.name.as_str().into(),
            state(&word_of(&actor.state)),
            actor.restarts.to_string().into(),
            actor.waiting_senders.to_string().into(),
            actor.current_work.as_deref().unwrap_or_default().into(),
            actor.last_failure.as_deref().unwrap_or_default().into(),
        ]);
    }
    drawn(actors)
}

/// How the last cycle ended, or the step it is at, in a sentence that agrees with what is live now.
fn of_last_cycle(document: &CycleDocument, status: &StatusDocument) -> String {
    let cycle = &document.cycle;
    let (id, live) = (cycle.id, status.aliased(Alias::Live));
    match (cycle.state, &cycle.undoing, &cycle.cancel, cycle.outcome) {
        (CycleState::WaitingApproval, ..) => format!("{id} is waiting for approval of {}", cycle.model),
        (CycleState::Running, Some(undoing), ..) => format!("{id} is being undone: {}", undoing.why),
        (CycleState::Running, None, Some(request), _) => format!("{id} is stopping: {request}"),
        (CycleState::Running, None, None, _) => {
            let at = document.steps.iter().rev().find(|step| step.state == StepState::Running);
            let step = match at.or(document.steps.last()) {
                Some(step) if step.progress.is_empty() => format!("is at step {}", step.name),
                Some(step) => format!("is at step {}: {}", step.name, step.progress),
                None => "is about to begin".to_owned(),
            };
            format!("{id} {step}; `delayd cancel` stops it")
        }
        (CycleState::Finished, .., Some(CycleOutcome::Deployed)) if live != Some(cycle.model) => {
            let now = live.map_or_else(|| "no model".to_owned(), |live| live.to_string());
            format!("last cycle {id} deployed {}, which has been rolled back since: {now} is live", cycle.model)
        }
        (CycleState::Finished, ..) => {
            let detail = if cycle.detail.is_empty() { String::new() } else { format!(": {}", sentence(&cycle.detail)) };
            format!("last cycle {id} ({}){detail}", words(&outcome(cycle)))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const AT: &str = "2013-04-25T06:00:00Z";

    fn document(state: &str, outcome: Option<&str>, steps: serde_json::Value) -> CycleDocument {
        serde_json::from_value(json!({
            "cycle": {
                "id": "cycle_9", "reason": { "kind": "scheduled" }, "state": state, "outcome": outcome,
                "detail": if outcome.is_some() { "model_v6 is live" } else { "" }, "run": "run_9", "model": "model_v6",
                "deployment": "deployment_9", "started_at": AT, "finished_at": outcome.map(|_| AT),
            },
            "trace_id": "0123456789abcdef0123456789abcdef", "steps": steps, "decisions": [], "run": null,
            "verifications": [], "build": null,
        }))
        .unwrap()
    }

    fn live(model: &str) -> StatusDocument {
        serde_json::from_value(json!({
            "version": "0.1.0", "now": AT, "service_url": "http://127.0.0.1:8000",
            "aliases": [{ "alias": "live", "model": model, "moved_at": AT }],
            "cycle": null, "paused": null, "replicas": [], "replicas_unknown": null, "actors": [],
        }))
        .unwrap()
    }

    #[test]
    fn the_last_cycle_agrees_with_what_is_live() {
        let finished = document("finished", Some("deployed"), json!([]));
        assert_eq!(of_last_cycle(&finished, &live("model_v6")), "last cycle cycle_9 (deployed): model_v6 is live");
        assert_eq!(
            of_last_cycle(&finished, &live("model_v1")),
            "last cycle cycle_9 deployed model_v6, which has been rolled back since: model_v1 is live"
        );
        let steps = json!([{
            "cycle": "cycle_9", "position": 30, "name": "train", "state": "running", "attempt": 1, "progress": "epoch 3",
            "output": null, "error": null, "started_at": AT, "finished_at": null, "wall_ms": null,
        }]);
        let running = document("running", None, steps);
        let says = of_last_cycle(&running, &live("model_v5"));
        assert_eq!(says, "cycle_9 is at step train: epoch 3; `delayd cancel` stops it");
        let begun = document("running", None, json!([]));
        assert!(of_last_cycle(&begun, &live("model_v5")).starts_with("cycle_9 is about to begin;"));
    }

    #[test]
    fn a_daemon_that_runs_says_what_needs_attention_or_that_nothing_does() {
        let mut status = live("model_v5");
        assert!(text(&status, None).contains("nothing needs your attention"));
        status.attention = serde_json::from_value(json!([
            { "severity": "critical", "kind": "no_ready_replica", "text": "No replica of model_v5 is ready.", "page": null }
        ]))
        .unwrap();
        let told = text(&status, None);
        assert!(
            told.contains("critical: No replica of model_v5 is ready.") && !told.contains("nothing needs"),
            "{told}"
        );
    }
}
