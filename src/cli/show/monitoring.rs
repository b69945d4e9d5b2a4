//! `delayd drift` and `delayd audit`.

use super::super::commands::CliError;
use super::super::source::Source;
use super::words::{sentence, words};
use super::{Shown, at, drawn, entries, keep, listed, number_of, one_more, state, table, text_of};
use delayd_core::ids::DriftReportId;
use delayd_ledger::DriftRecord;

pub(in crate::cli) async fn drift(
    source: &Source,
    report: Option<DriftReportId>,
    limit: u32,
) -> Result<Shown, CliError> {
    if let Some(id) = report {
        return one_report(&source.drift_report(id).await?);
    }
    let mut reports = source.drift_reports(one_more(limit)).await?;
    let more = keep(&mut reports, limit);
    let mut rows = table(&["report", "at", "model", "verdict", "why"]);
    for report in &reports {
        rows.add_row([
            report.id.to_string().into(),
            at(report.at).into(),
            report.model.to_string().into(),
            state(text_of(&report.report, "/status")),
            sentence(text_of(&report.report, "/reason")).into(),
        ]);
    }
    let nothing = "no drift report yet; the first comes once a live model has answered enough flights";
    Shown::new(&reports, listed(rows, limit, more, nothing))
}

fn one_report(record: &DriftRecord) -> Result<Shown, CliError> {
    let report = &record.report;
    let mut rows = table(&["input", "importance", "PSI", "Jensen-Shannon", "windows exceeded", "drifted"]);
    for feature in entries(report, "/features").chain(report.pointer("/score")) {
        let drifted = feature.pointer("/drifted").and_then(serde_json::Value::as_bool).unwrap_or(false);
        rows.add_row([
            text_of(feature, "/input").into(),
            number_of(feature, "/importance", 3).into(),
            number_of(feature, "/distances/psi", 4).into(),
            number_of(feature, "/distances/jensen_shannon", 4).into(),
            number_of(feature, "/windows_exceeded", 0).into(),
            if drifted { state("drifted") } else { "".into() },
        ]);
    }
    let text = format!(
        "{} of {}, {} to {}: {}\n{}\n{}",
        record.id,
        record.model,
        at(record.window_from),
        at(record.window_until),
        words(text_of(report, "/status")),
        text_of(report, "/reason"),
        drawn(rows),
    );
    Shown::new(record, text)
}

pub(in crate::cli) async fn audit(source: &Source, limit: u32) -> Result<Shown, CliError> {
    let mut records = source.audit(one_more(limit)).await?;
    let more = keep(&mut records, limit);
    let mut rows = table(&["at", "who", "what", "to what", "why", "what came of it"]);
    for record in &records {
        let entry = &record.entry;
        rows.add_row([&at(entry.at), &entry.actor, &entry.action, &entry.subject, &entry.detail, &record.outcome]);
    }
    let nothing = "nobody asked anything of the daemon yet; commands such as `delayd retrain` are noted here";
    Shown::new(&records, listed(rows, limit, more, nothing))
}
