//! `delayd objects` and `delayd reference`.

use super::super::commands::CliError;
use super::super::source::Source;
use super::{Shown, UNREADABLE, at, keep, listed, one_more, page, read, state, table};
use delayd_data::airports::AirportChanges;
use delayd_data::reference::ReferenceChanges;
use delayd_data::weather_coverage::WeatherCoverage;
use delayd_ledger::{IngestedObject, ObjectStatus, ReferenceVersion};

pub(in crate::cli) async fn objects(
    source: &Source,
    status: Option<ObjectStatus>,
    limit: u32,
) -> Result<Shown, CliError> {
    let mut objects = source.objects(status, one_more(limit)).await?;
    let more = keep(&mut objects, limit);
    let mut rows =
        table(&["object", "status", "at", "accepted", "quarantined", "duplicate", "why, and what is left of it"]);
    for object in &objects {
        rows.add_row([
            object.key.as_str().into(),
            state(object.status.as_str()),
            at(object.ingested_at).into(),
            object.rows_accepted.to_string().into(),
            object.rows_quarantined.to_string().into(),
            object.rows_duplicate.to_string().into(),
            remarks(object).into(),
        ]);
    }
    Shown::new(
        &objects,
        listed(rows, limit, more, "no flight log was looked at yet; put some under ingestion.flights_prefix"),
    )
}

fn remarks(object: &IngestedObject) -> String {
    let resolved = object.resolved_at.map(|moment| format!("put right at {}", at(moment)));
    let rows = object.quarantine_key.as_ref().map(|key| format!("rows in {key}"));
    let unused = Some(object.unused_columns.join(", ")).filter(|columns| !columns.is_empty());
    let unused = unused.map(|columns| format!("nothing reads {columns}"));
    let parts = [resolved, object.error.clone(), rows, unused];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

pub(in crate::cli) async fn reference(source: &Source, limit: u32) -> Result<Shown, CliError> {
    let document = source.reference(page(limit)).await?;
    let mut current = table(&["counts now", "entries", "since", "from", "copy"]);
    for ReferenceVersion { version, .. } in &document.current {
        current.add_row([
            version.kind.to_string(),
            version.entries.to_string(),
            at(version.noticed_at),
            version.origin.to_string(),
            version.object_key.clone(),
        ]);
    }
    let mut changes = table(&["noticed", "kind", "what changed"]);
    for ReferenceVersion { version, .. } in &document.versions {
        changes.add_row([at(version.noticed_at), version.kind.to_string(), changed(read(&version.changes))]);
    }
    let mut weather = table(&["dataset", "assembled", "weather", "airports without any, failures"]);
    for known in &document.weather {
        let coverage = read::<WeatherCoverage>(&known.coverage).unwrap_or_default();
        let told = [coverage.without_any, coverage.failures].concat();
        weather.add_row([
            known.dataset.short().to_owned(),
            at(known.at),
            format!("{:.1} %", 100.0 * known.share),
            told.join("; "),
        ]);
    }
    let text = if document.current.is_empty() {
        "no reference data was read yet".to_owned()
    } else {
        format!("{current}\n{changes}\n{weather}")
    };
    Shown::new(&document, text)
}

/// What a new version brought, in words.
fn changed(changes: Option<ReferenceChanges>) -> String {
    let names = |all: &[String]| {
        if all.len() > 8 { format!("{} and {} more", all[..8].join(", "), all.len() - 8) } else { all.join(", ") }
    };
    let lists = match changes {
        None => return UNREADABLE.to_owned(),
        Some(ReferenceChanges::First) => return "the first one".to_owned(),
        Some(ReferenceChanges::Unknown { why }) => return format!("cannot be told: {why}"),
        Some(ReferenceChanges::Airports(AirportChanges { opened, closed, moved })) => {
            let moved = moved.into_iter().map(|airport| airport.code).collect();
            vec![("opened", opened), ("closed", closed), ("moved", moved)]
        }
        Some(ReferenceChanges::Days { added, removed }) => {
            let text = |days: Vec<chrono::NaiveDate>| days.iter().map(ToString::to_string).collect();
            vec![("added", text(added)), ("removed", text(removed))]
        }
    };
    let told = lists.iter().filter(|(_, all)| !all.is_empty()).map(|(list, all)| format!("{list}: {}", names(all)));
    let told: Vec<String> = told.collect();
    if told.is_empty() { "nothing that counts".to_owned() } else { told.join("; ") }
}
