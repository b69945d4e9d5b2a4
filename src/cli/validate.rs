//! `delayd validate FILE...`: would these flight logs be taken in? Each is judged alone,
//! as the ingestion judges it; nothing is written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use delayd_features::Airport;
use serde::Serialize;

use super::commands::CliError;
use super::show::{Shown, report_text};
use super::sources_again::store_failed;
use crate::config::Settings;
use crate::open;
use delayd_core::clock::{Clock, SystemClock};
use delayd_core::error::chain;
use delayd_core::ids::Digest;
use delayd_core::ports::ObjectStore;
use delayd_data::airports::parse_airports;
use delayd_data::contract::Contract;
use delayd_data::formats::ParseLimits;
use delayd_data::parts::{JudgedSource, SourceJudge};
use delayd_data::validation::{QuarantinedRow, ValidationReport};
use delayd_data::{DataError, ObjectReader};

/// Rows that are shown of those that would be set aside.
const SHOWN_ROWS: usize = 5;

/// What would become of one file.
#[derive(Debug, Serialize)]
struct Judged {
    file: String,
    /// Whether its rows would be taken.
    taken: bool,
    /// Why it would be refused as a whole.
    refused: Vec<String>,
    /// How its columns were read.
    layout: Option<String>,
    /// What the contract says.
    report: Option<ValidationReport>,
    /// The first rows that would be set aside.
    set_aside: Vec<QuarantinedRow>,
}

pub(super) async fn run(
    settings: &Settings,
    files: &[PathBuf],
    airports: Option<&Path>,
    json: bool,
) -> Result<String, CliError> {
    let usage = |error: &DataError| CliError::Usage(chain(error));
    let contract = Contract::configured(&settings.ingestion.contract_path).map_err(|error| usage(&error))?;
    let limits = &settings.ingestion.limits;
    let airports = match airports {
        Some(path) => {
            let zones = &settings.ingestion.time_zones;
            let file = path.display().to_string();
            let parsed = read(path, limits)?.and_then(|body| parse_airports(&file, &body, zones, limits));
            parsed.map_err(|error| usage(&error))?.0
        }
        None => {
            let store = open::object_store(settings).map_err(|error| store_failed(&error))?;
            stored_airports(settings, store.as_ref()).await?
        }
    };
    let (mapping, reader) = (settings.ingestion.column_mapping.clone(), ObjectReader::within(*limits));
    let judge = SourceJudge::new(contract, airports, mapping, reader).map_err(|error| usage(&error))?;
    let now = SystemClock.now();
    let judged = files.iter().map(|path| judged(&judge, path, now)).collect::<Result<Vec<Judged>, CliError>>()?;
    let text = judged.iter().map(told).collect::<Vec<_>>().join("\n\n");
    let text = Shown::new(&judged, text)?.render(json)?;
    match judged.iter().filter(|file| !file.taken).count() {
        0 => Ok(text),
        refused => {
            eprintln!("{text}");
            Err(CliError::Logs(refused))
        }
    }
}

/// The airports that the configured store has.
pub(super) async fn stored_airports(
    settings: &Settings,
    store: &dyn ObjectStore,
) -> Result<BTreeMap<String, Airport>, CliError> {
    let ingestion = &settings.ingestion;
    let body = store.get(&ingestion.airports_key).await.map_err(|error| {
        let advice = "airports are needed to read local times; `delayd validate` takes a file with --airports";
        CliError::Usage(format!("{}; {advice}", chain(&error)))
    })?;
    let parsed = parse_airports(&ingestion.airports_key, &body, &ingestion.time_zones, &ingestion.limits);
    Ok(parsed.map_err(|error| CliError::Usage(chain(&error)))?.0)
}

/// A file's bytes. Inside: why it is too large to be read.
fn read(path: &Path, limits: &ParseLimits) -> Result<Result<Bytes, DataError>, CliError> {
    let file = path.display().to_string();
    let failed = |error: std::io::Error| CliError::Usage(format!("{}: {error}", path.display()));
    if let Err(error) = limits.check_stored(&file, std::fs::metadata(path).map_err(failed)?.len()) {
        return Ok(Err(error));
    }
    Ok(Ok(Bytes::from(std::fs::read(path).map_err(failed)?)))
}

fn judged(judge: &SourceJudge, path: &Path, now: DateTime<Utc>) -> Result<Judged, CliError> {
    let file = path.display().to_string();
    let read = read(path, &judge.reader().limits)?;
    Ok(match read.and_then(|body| judge.judge(&file, &Digest::of(&body), &body, now)) {
        Ok(JudgedSource { layout, mut validated, refused, .. }) => {
            validated.quarantined.truncate(SHOWN_ROWS);
            Judged {
                file,
                taken: refused.is_empty(),
                refused,
                layout: Some(layout),
                report: Some(validated.report),
                set_aside: validated.quarantined,
            }
        }
        Err(error) => {
            let refused = vec![chain(&error)];
            Judged { file, taken: false, refused, layout: None, report: None, set_aside: Vec::new() }
        }
    })
}

fn told(judged: &Judged) -> String {
    let verdict = if judged.taken { "would be taken" } else { "would be REFUSED" };
    let layout = judged.layout.as_ref().map_or_else(String::new, |layout| format!(", read as {layout}"));
    let mut text = format!("{}: {verdict}{layout}", judged.file);
    if let Some(report) = &judged.report {
        text.push_str(&report_text(report));
    } else {
        judged.refused.iter().for_each(|reason| text.push_str(&format!("\n{reason}")));
    }
    for row in &judged.set_aside {
        text.push_str(&format!("\nline {}: {}: {}", row.line, row.key, row.reasons.join("; ")));
    }
    text
}
