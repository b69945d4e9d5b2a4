//! Where a model or a release stands now: its own record says only what became of it then.

use super::cycles::outcome;
use super::words::{sentence, words};
use crate::http::CycleDocument;
use delayd_core::ids::{DeploymentId, ModelVersion};
use delayd_ledger::{
    Alias, AliasRecord, Cycle, CycleOutcome, CycleState, Deployment, DeploymentState, Model, StepState,
};

/// The release that serves: of those approved, the newest.
pub(super) fn serving(newest_first: &[Deployment]) -> Option<DeploymentId> {
    newest_first.iter().find(|deployment| deployment.state == DeploymentState::Approved).map(|found| found.id)
}

/// `serving` for the release that serves, `superseded` for those approved before it.
pub(super) fn of_deployment(deployment: &Deployment, serving: Option<DeploymentId>) -> &'static str {
    match deployment.state {
        DeploymentState::Approved if serving == Some(deployment.id) => "serving",
        DeploymentState::Approved => "superseded",
        other => other.as_str(),
    }
}

/// The names that point at a model; without any, what became of it.
pub(super) fn of_model(
    model: &Model,
    aliases: &[AliasRecord],
    cycles: &[Cycle],
    newest_first: &[Deployment],
) -> String {
    let names: Vec<String> =
        aliases.iter().filter(|alias| alias.model == model.version).map(|alias| alias.alias.to_string()).collect();
    if !names.is_empty() {
        return names.join(", ");
    }
    let released = newest_first.iter().find(|deployment| deployment.model == model.version);
    let ended = cycles.iter().find(|cycle| cycle.id == model.cycle).and_then(|cycle| cycle.outcome);
    match (released.map(|deployment| deployment.state), ended) {
        (Some(DeploymentState::RolledBack), _) => words(DeploymentState::RolledBack.as_str()),
        (_, Some(outcome)) if outcome != CycleOutcome::Deployed => words(&outcome.to_string()),
        (Some(DeploymentState::Approved), _) => "served before".to_owned(),
        _ => String::new(),
    }
}

/// How the last cycle ended, or the step it is at, in a sentence that agrees with what is live now.
pub(super) fn of_last_cycle(document: &CycleDocument, aliases: &[AliasRecord]) -> String {
    let cycle = &document.cycle;
    let live = aliases.iter().find(|alias| alias.alias == Alias::Live).map(|alias| alias.model);
    match (cycle.state, cycle.outcome) {
        (CycleState::Running, _) => {
            let at = document.steps.iter().rev().find(|step| step.state == StepState::Running);
            let progress = |text: &str| if text.is_empty() { String::new() } else { format!(": {text}") };
            match at.or(document.steps.last()) {
                Some(step) => format!("{} is at step {}{}", cycle.id, step.name, progress(&step.progress)),
                None => format!("{} is about to begin with its first step", cycle.id),
            }
        }
        (CycleState::WaitingApproval, _) => format!(
            "{} waits for an administrator: `delayd approve` or `delayd reject` decides on {}",
            cycle.id, cycle.model
        ),
        (CycleState::Finished, Some(CycleOutcome::Deployed)) if live != Some(cycle.model) => {
            let now = live.map_or_else(|| "no model".to_owned(), |live: ModelVersion| live.to_string());
            format!("last cycle {} deployed {}, which was rolled back since: {now} is live", cycle.id, cycle.model)
        }
        (CycleState::Finished, _) => {
            let detail = if cycle.detail.is_empty() { String::new() } else { format!(": {}", sentence(&cycle.detail)) };
            format!("last cycle {} ({}){detail}", cycle.id, words(&outcome(cycle)))
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};
    use serde_json::json;

    use super::*;

    fn at() -> DateTime<Utc> {
        "2013-04-25T06:00:00Z".parse().unwrap()
    }

    fn document(state: &str, outcome: Option<&str>, steps: serde_json::Value) -> CycleDocument {
        serde_json::from_value(json!({
            "cycle": {
                "id": "cycle_9", "reason": { "kind": "scheduled" }, "state": state, "outcome": outcome,
                "detail": if outcome.is_some() { "model_v6 is live" } else { "" }, "run": "run_9", "model": "model_v6",
                "deployment": "deployment_9", "started_at": at(), "finished_at": outcome.map(|_| at()),
            },
            "trace_id": "0123456789abcdef0123456789abcdef", "steps": steps, "decisions": [], "run": null,
            "verifications": [], "build": null,
        }))
        .unwrap()
    }

    fn live(model: &str) -> Vec<AliasRecord> {
        vec![AliasRecord { alias: Alias::Live, model: model.parse().unwrap(), moved_at: at() }]
    }

    #[test]
    fn the_last_cycle_agrees_with_what_is_live() {
        let finished = document("finished", Some("deployed"), json!([]));
        assert_eq!(of_last_cycle(&finished, &live("model_v6")), "last cycle cycle_9 (deployed): model_v6 is live");
        assert_eq!(
            of_last_cycle(&finished, &live("model_v1")),
            "last cycle cycle_9 deployed model_v6, which was rolled back since: model_v1 is live"
        );
        let steps = json!([{
            "cycle": "cycle_9", "position": 30, "name": "train", "state": "running", "attempt": 1, "progress": "epoch 3",
            "output": null, "error": null, "started_at": at(), "finished_at": null, "wall_ms": null,
        }]);
        let running = document("running", None, steps);
        assert_eq!(of_last_cycle(&running, &live("model_v5")), "cycle_9 is at step train: epoch 3");
        let begun = document("running", None, json!([]));
        assert!(!of_last_cycle(&begun, &[]).ends_with(": "));
    }

    fn deployment(id: u64, state: &str) -> Deployment {
        serde_json::from_value(json!({
            "id": format!("deployment_{id}"), "cycle": null, "model": format!("model_v{id}"), "state": state,
            "release": {
                "deployment": format!("deployment_{id}"), "model": format!("model_v{id}"),
                "bundle": delayd_core::ids::Digest::of(b"bundle"), "image": "delay-ml@sha256:0", "bundle_dir": "bundles/0",
                "replicas": 2,
            },
            "previous": null, "created_at": at(), "changed_at": at(),
        }))
        .unwrap()
    }

    #[test]
    fn of_the_approved_releases_one_serves_and_what_was_taken_back_says_so() {
        let newest_first = [deployment(3, "rolled_back"), deployment(2, "approved"), deployment(1, "approved")];
        let serving = serving(&newest_first);
        let standings: Vec<&str> = newest_first.iter().map(|one| of_deployment(one, serving)).collect();
        assert_eq!(standings, ["rolled_back", "serving", "superseded"]);

        let model = |version: u64| Model {
            version: ModelVersion(version),
            bundle: delayd_core::ids::Digest::of(b"bundle"),
            bundle_key: String::new(),
            dataset: delayd_core::ids::Digest::of(b"rows"),
            run: "run_1".parse().unwrap(),
            cycle: "cycle_9".parse().unwrap(),
            reason: None,
            parent: None,
            metrics: json!({}).into(),
            registered_at: at(),
        };
        let (aliases, failed) = (live("model_v2"), document("finished", Some("failed"), json!([])).cycle);
        let standing = |version, cycles: &[Cycle]| of_model(&model(version), &aliases, cycles, &newest_first);
        assert_eq!(standing(3, &[]), "rolled back");
        assert_eq!(standing(2, &[]), "live");
        assert_eq!(standing(1, &[]), "served before");
        assert_eq!(standing(4, &[failed]), "failed");
    }
}
