//! Answers of the reading commands: a document for programs, and a text for people.

use std::io::IsTerminal;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use serde_json::{Value, json};

use super::commands::CliError;
use crate::ids::{CycleId, DecisionId, ModelVersion};
use crate::ledger::{Alias, Cycle, Ledger, Page, Step};

/// Both forms of an answer.
pub(super) struct Shown {
    document: Value,
    text: String,
}

impl Shown {
    pub(super) fn new<T: Serialize>(document: &T, text: String) -> Result<Self, CliError> {
        let document = serde_json::to_value(document).map_err(|error| CliError::Failed(error.to_string()))?;
        Ok(Self { document, text })
    }

    pub(super) fn render(self, json: bool) -> Result<String, CliError> {
        if json {
            serde_json::to_string_pretty(&self.document).map_err(|error| CliError::Failed(error.to_string()))
        } else {
            Ok(self.text)
        }
    }
}

/// Width of tables where there is no terminal to ask.
const COLUMNS: u16 = 120;

pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY.row_separator(comfy_table::LineStyle::none()));
    if !std::io::stdout().is_terminal() {
        table.set_width(COLUMNS);
    }
    table.set_content_arrangement(ContentArrangement::Dynamic).set_header(header.to_vec());
    table
}

pub(super) fn page(limit: u32) -> Page {
    Page { offset: 0, limit: u64::from(limit.max(1)) }
}

fn outcome(cycle: &Cycle) -> String {
    cycle.outcome.map_or_else(|| cycle.state.to_string(), |outcome| outcome.to_string())
}

pub(super) async fn cycles(ledger: &Ledger, cycle: Option<CycleId>, limit: u32) -> Result<Shown, CliError> {
    if let Some(id) = cycle {
        return one_cycle(ledger, id).await;
    }
    let cycles = ledger.cycles(page(limit)).await?;
    let mut rows = table(&["cycle", "started", "reason", "outcome", "detail"]);
    for cycle in &cycles {
        rows.add_row([
            cycle.id.to_string(),
            cycle.started_at.format("%Y-%m-%d %H:%M").to_string(),
            cycle.reason.to_string(),
            outcome(cycle),
            // The whole of it, with a failed build's last lines, stands under the cycle itself.
            cycle.detail.lines().next().unwrap_or_default().to_owned(),
        ]);
    }
    Shown::new(&cycles, rows.to_string())
}

async fn one_cycle(ledger: &Ledger, id: CycleId) -> Result<Shown, CliError> {
    let cycle = ledger.cycle(id).await?.ok_or_else(|| CliError::NotFound(format!("{id} is not in the ledger")))?;
    let steps: Vec<Step> = ledger.steps_of(id).await?;
    let decisions = ledger.decisions_of(id).await?;
    let mut rows = table(&["step", "state", "seconds", "attempt", "what came of it"]);
    for step in &steps {
        let seconds = step.wall_ms.map_or_else(String::new, |ms| format!("{:.2}", ms as f64 / 1000.0));
        let told = step.error.clone().unwrap_or_else(|| step.progress.clone());
        rows.add_row([step.name.clone(), step.state.to_string(), seconds, step.attempt.to_string(), told]);
    }
    let asked: Vec<String> =
        decisions.iter().map(|decision| format!("{} ({}: {})", decision.id, decision.kind, decision.outcome)).collect();
    let text = format!(
        "{} {}: {}\n{}\n{rows}\ndecisions: {}",
        cycle.id,
        outcome(&cycle),
        cycle.reason,
        cycle.detail,
        asked.join(", ")
    );
    Shown::new(&json!({ "cycle": cycle, "steps": steps, "decisions": decisions }), text)
}

pub(super) async fn models(ledger: &Ledger, model: Option<ModelVersion>) -> Result<Shown, CliError> {
    let aliases = ledger.aliases().await?;
    let named = |version: ModelVersion| -> String {
        let own = aliases.iter().filter(|alias| alias.model == version).map(|alias| alias.alias.to_string());
        own.collect::<Vec<_>>().join(", ")
    };
    if let Some(version) = model {
        let model = ledger
            .model(version)
            .await?
            .ok_or_else(|| CliError::NotFound(format!("{version} is not in the ledger")))?;
        let metrics =
            serde_json::to_string_pretty(model.metrics.pointer("/evaluation/model").unwrap_or(&model.metrics));
        let metrics = metrics.map_err(|error| CliError::Failed(error.to_string()))?;
        let text = format!(
            "{version} {}\nbundle   {}\ndataset  {}\nrun      {}\ncycle    {}\nparent   {}\nmetrics on held-out rows:\n{metrics}",
            named(version),
            model.bundle,
            model.dataset,
            model.run,
            model.cycle,
            model.parent.map_or_else(|| "none".to_owned(), |parent| parent.to_string()),
        );
        return Shown::new(&model, text);
    }
    let models = ledger.models(page(1000)).await?;
    let mut rows = table(&["model", "alias", "registered", "ROC-AUC", "log-loss", "recall", "reason"]);
    for model in &models {
        let metric = |name: &str| {
            let found = model.metrics.pointer(&format!("/evaluation/model/{name}")).and_then(Value::as_f64);
            found.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"))
        };
        rows.add_row([
            model.version.to_string(),
            named(model.version),
            model.registered_at.format("%Y-%m-%d %H:%M").to_string(),
            metric("roc_auc"),
            metric("log_loss"),
            metric("recall"),
            ledger.cycle(model.cycle).await?.map_or_else(String::new, |cycle| cycle.reason.to_string()),
        ]);
    }
    Shown::new(&models, rows.to_string())
}

pub(super) async fn lineage(ledger: &Ledger, model: ModelVersion) -> Result<Shown, CliError> {
    let lineage = ledger.lineage(model).await?;
    let text = lineage.tree();
    Shown::new(&lineage, text)
}

pub(super) async fn why(ledger: &Ledger, decision: Option<DecisionId>) -> Result<Shown, CliError> {
    let Some(id) = decision else {
        let decisions = ledger.decisions(page(50)).await?;
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
    let found = ledger.why(id).await?.ok_or_else(|| CliError::NotFound(format!("{id} is not in the ledger")))?;
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

pub(super) async fn drift(ledger: &Ledger, limit: u32) -> Result<Shown, CliError> {
    let reports = ledger.drift_reports(page(limit)).await?;
    let mut rows = table(&["report", "at", "model", "verdict", "why"]);
    for report in &reports {
        let of = |key: &str| report.report.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        rows.add_row([
            report.id.to_string(),
            report.at.format("%Y-%m-%d %H:%M").to_string(),
            report.model.to_string(),
            of("status"),
            of("reason"),
        ]);
    }
    Shown::new(&reports, rows.to_string())
}

/// What a running daemon says of itself.
pub(super) fn live_status(status: &Value) -> Result<Shown, CliError> {
    let of = |pointer: &str| status.pointer(pointer).and_then(Value::as_str).unwrap_or("-").to_owned();
    let mut text = format!("delayd {} is running; the service answers at {}\n", of("/version"), of("/service_url"));
    for alias in status.get("aliases").and_then(Value::as_array).into_iter().flatten() {
        let of = |key: &str| alias.get(key).and_then(Value::as_str).unwrap_or("-").to_owned();
        text.push_str(&format!("{:<10} {} since {}\n", of("alias"), of("model"), of("moved_at")));
    }
    text.push_str(&format!("last cycle {} {}\n", of("/cycle/id"), of("/cycle/state")));
    let mut replicas = table(&["replica", "model", "state", "restarts", "memory"]);
    for replica in status.get("replicas").and_then(Value::as_array).into_iter().flatten() {
        let of = |key: &str| replica.get(key).and_then(Value::as_str).unwrap_or("-").to_owned();
        let memory = replica
            .get("memory_bytes")
            .and_then(Value::as_u64)
            .map_or_else(|| "-".to_owned(), |bytes| format!("{:.1} MB", bytes as f64 / 1e6));
        let restarts = replica.get("restarts").and_then(Value::as_u64).unwrap_or_default().to_string();
        replicas.add_row([of("name"), of("model"), of("state"), restarts, memory]);
    }
    let mut actors = table(&["actor", "state", "restarts", "works on"]);
    for actor in status.get("actors").and_then(Value::as_array).into_iter().flatten() {
        let of = |key: &str| actor.get(key).and_then(Value::as_str).unwrap_or("-").to_owned();
        let restarts = actor.get("restarts").and_then(Value::as_u64).unwrap_or_default().to_string();
        actors.add_row([of("name"), of("state"), restarts, of("current_work")]);
    }
    text.push_str(&format!("{replicas}\n{actors}"));
    Shown::new(status, text)
}

/// What the ledger says when no daemon answers.
pub(super) async fn stored_status(ledger: &Ledger) -> Result<Shown, CliError> {
    let aliases = ledger.aliases().await?;
    let cycle = ledger.cycles(page(1)).await?.into_iter().next();
    let live = aliases.iter().find(|alias| alias.alias == Alias::Live);
    let live = live.map_or_else(
        || "no model is live".to_owned(),
        |alias| format!("{} is live since {}", alias.model, alias.moved_at.format("%Y-%m-%d %H:%M")),
    );
    let last = cycle.as_ref().map_or_else(
        || "no cycle yet".to_owned(),
        |cycle| format!("last cycle {} {}: {}", cycle.id, outcome(cycle), cycle.detail),
    );
    let text = format!("no daemon answers; the ledger says:\n{live}\n{last}");
    Shown::new(&json!({ "running": false, "aliases": aliases, "cycle": cycle }), text)
}
