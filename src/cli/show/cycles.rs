//! `delayd cycles` and `delayd why`.

use serde_json::Value;

use super::super::commands::CliError;
use super::super::source::Source;
use super::training::report_text;
use super::{Shown, at, page, state, table, text_of};
use crate::http::CycleDocument;
use crate::ids::{CycleId, DecisionId};
use crate::ledger::Cycle;

pub(super) fn outcome(cycle: &Cycle) -> String {
    cycle.outcome.map_or_else(|| cycle.state.to_string(), |outcome| outcome.to_string())
}

pub(in crate::cli) async fn cycles(source: &Source, cycle: Option<CycleId>, limit: u32) -> Result<Shown, CliError> {
    if let Some(id) = cycle {
        return one_cycle(source, id).await;
    }
    let cycles = source.cycles(page(limit)).await?;
    let mut rows = table(&["cycle", "started", "reason", "outcome", "detail"]);
    for cycle in &cycles {
        rows.add_row([
            cycle.id.to_string().into(),
            at(cycle.started_at).into(),
            cycle.reason.to_string().into(),
            state(&outcome(cycle)),
            // The whole of it, with a failed build's last lines, stands under the cycle itself.
            cycle.detail.lines().next().unwrap_or_default().into(),
        ]);
    }
    Shown::new(&cycles, rows.to_string())
}

async fn one_cycle(source: &Source, id: CycleId) -> Result<Shown, CliError> {
    let document = source.cycle(id).await?;
    let CycleDocument { cycle, steps, decisions, verifications, refused_dataset, .. } = &document;
    let mut rows = table(&["step", "state", "seconds", "attempt", "what came of it"]);
    for step in steps {
        let seconds = step.wall_ms.map_or_else(String::new, |ms| format!("{:.2}", ms as f64 / 1000.0));
        let told = step.error.clone().unwrap_or_else(|| step.progress.clone());
        rows.add_row([
            step.name.as_str().into(),
            state(step.state.as_str()),
            seconds.into(),
            step.attempt.to_string().into(),
            told.into(),
        ]);
    }
    let asked: Vec<String> =
        decisions.iter().map(|decision| format!("{} ({}: {})", decision.id, decision.kind, decision.outcome)).collect();
    let verified: Vec<String> = verifications
        .iter()
        .map(|found| {
            format!("{} ({})", if found.passed { "passed" } else { "failed" }, text_of(&found.report, "/reason"))
        })
        .collect();
    let mut text = format!("{} {}: {}\n{}\n{rows}", cycle.id, outcome(cycle), cycle.reason, cycle.detail);
    for (what, said) in [("decisions", asked), ("verified", verified)] {
        if !said.is_empty() {
            text.push_str(&format!("\n{what}: {}", said.join(", ")));
        }
    }
    if let Some(refused) = refused_dataset {
        text.push_str(&format!("\nits dataset of {} rows was refused", refused.rows));
        text.push_str(&report_text(&refused.validation));
    }
    Shown::new(&document, text)
}

pub(in crate::cli) async fn why(source: &Source, decision: Option<DecisionId>) -> Result<Shown, CliError> {
    let Some(id) = decision else {
        let decisions = source.decisions(page(50)).await?;
        let mut rows = table(&["decision", "at", "about", "outcome", "reason"]);
        for decision in &decisions {
            rows.add_row([
                decision.id.to_string(),
                decision.at.format("%Y-%m-%d %H:%M").to_string(),
                decision.kind.clone(),
                decision.outcome.clone(),
                decision.reason.clone(),
            ]);
        }
        return Shown::new(&decisions, rows.to_string());
    };
    let found = source.decision(id).await?;
    let mut text = format!(
        "{id}, {} ({}): {}\n\n{}\n",
        found.at.format("%Y-%m-%d %H:%M"),
        found.kind,
        found.outcome,
        found.reason
    );
    if let Some(alternatives) = found.alternatives.as_array() {
        let mut rows = table(&["alternative", "taken", "why"]);
        for other in alternatives {
            let name = other.get("trigger").or_else(|| other.get("name")).and_then(Value::as_str).unwrap_or_default();
            let taken = if other.get("taken").and_then(Value::as_bool).unwrap_or(false) { "yes" } else { "no" };
            rows.add_row([name, taken, other.get("why").and_then(Value::as_str).unwrap_or_default()]);
        }
        text.push_str(&format!("\nalternatives\n{rows}\n"));
    }
    if let Some(tests) = found.tests.as_array() {
        let mut rows = table(&["test", "passed", "why"]);
        for test in tests {
            let passed = if test.get("passed").and_then(Value::as_bool).unwrap_or(false) { "yes" } else { "no" };
            let of = |key: &str| test.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            rows.add_row([of("check"), passed.to_owned(), of("reason")]);
        }
        text.push_str(&format!("\ntests\n{rows}\n"));
    }
    text.push_str("\nevery input is stored: `--json` shows it");
    Shown::new(&found, text)
}
