//! Answers of the reading commands: a document for programs, and a text for people.

mod cycles;
mod look;
mod models;
mod monitoring;
mod status;
mod training;

use std::io::IsTerminal;

use chrono::{DateTime, Utc};
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{Cell, Color, ContentArrangement, Table};
use serde::Serialize;
use serde_json::Value;

use super::commands::CliError;
use crate::ledger::Page;

pub(super) use cycles::{cycles, why};
pub(super) use look::monitoring;
pub(super) use models::{deployments, lineage, models};
pub(super) use monitoring::{audit, drift};
pub(super) use status::status;
pub(super) use training::{datasets, runs};

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

/// A word for a state, coloured on a terminal; the word alone says it too.
pub(super) fn state(word: &str) -> Cell {
    let cell = Cell::new(word);
    let color = match word {
        "done" | "deployed" | "ready" | "running" | "approved" | "live" | "passed" | "yes" | "delivered" | "stable"
        | "finished" => Color::Green,
        "failed" | "stuck" | "rolled_back" | "dead" | "hung" | "undo_failed" | "critical" | "drifted" | "no" => {
            Color::Red
        }
        "waiting_approval" | "restarting" | "starting" | "suspected" | "warning" | "pending" | "kept_live" => {
            Color::Yellow
        }
        _ => return cell,
    };
    if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) { cell } else { cell.fg(color) }
}

/// A moment to the minute, UTC.
pub(super) fn at(moment: DateTime<Utc>) -> String {
    moment.format("%Y-%m-%d %H:%M").to_string()
}

/// A text of a document, or nothing.
fn text_of<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A number of a document, with so many decimals, or a dash.
fn number_of(value: &Value, pointer: &str, decimals: usize) -> String {
    let found = value.pointer(pointer).and_then(Value::as_f64);
    found.map_or_else(|| "-".to_owned(), |number| format!("{number:.decimals$}"))
}

/// The entries of a document's list.
fn entries<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

pub(super) fn page(limit: u32) -> Page {
    Page { offset: 0, limit: u64::from(limit.max(1)) }
}
