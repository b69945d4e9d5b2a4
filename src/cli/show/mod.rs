//! Answers of the reading commands: a document for programs, and a text for people.

mod cycles;
mod evaluation;
mod ingestion;
mod list;
mod look;
mod models;
mod monitoring;
mod status;
mod training;
mod words;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use super::commands::CliError;
use delayd_core::document::{Document, Stored};

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

/// Said of a document that is not of this version.
const UNREADABLE: &str = "another version of delayd wrote it; `--json` shows it";

/// What a document holds. Nothing where an earlier or a newer delayd wrote one that this one cannot read; `--json` shows
/// every document as it is.
fn read<T: Stored>(document: &Document) -> Option<T> {
    document.read().ok()
}

/// A number with so many decimals, or a dash.
fn number(value: impl Into<Option<f64>>, decimals: usize) -> String {
    value.into().map_or_else(|| "-".to_owned(), |number| format!("{number:.decimals$}"))
}

/// The word as which a closed enum is written.
fn word_of<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => "-".to_owned(),
    }
}
