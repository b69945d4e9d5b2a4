//! Answers of the reading commands: a document for programs, and a text for people.

mod cycles;
mod evaluation;
mod ingestion;
mod list;
mod look;
mod models;
mod monitoring;
mod standing;
mod status;
mod training;
mod words;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use super::commands::CliError;

pub(super) use cycles::{cycles, why};
pub(super) use ingestion::{objects, reference};
pub(super) use list::{drawn, keep, listed, one_more, page, state, table};
pub(super) use look::monitoring;
pub(super) use models::{deployments, lineage, models};
pub(super) use monitoring::{audit, drift};
pub(super) use status::status;
pub(super) use training::{dataset_named, datasets, report_text, runs};

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
