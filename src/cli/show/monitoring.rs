//! `delayd drift` and `delayd audit`.

use super::super::commands::CliError;
use super::super::source::Source;
use super::words::{sentence, words};
use super::{Shown, UNREADABLE, at, drawn, keep, listed, number, one_more, read, state, table, word_of};
use delayd_core::ids::DriftReportId;
use delayd_judge::monitoring::drift::DriftReport;
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
        let found = read::<DriftReport>(&report.report);
        rows.add_row([
            report.id.to_string().into(),
            at(report.at).into(),
            report.model.to_string().into(),
            found.as_ref().map_or_else(|| "-".into(), |found| state(&word_of(&found.status))),
            sentence(found.as_ref().map_or(UNREADABLE, |found| &found.reason)).into(),
        ]);
    }
    let nothing = "no drift report yet; the first comes once a live model has answered enough flights";
    Shown::new(&reports, listed(rows, limit, more, nothing))
}

fn one_report(record: &DriftRecord) -> Result<Shown, CliError> {
    let report = read::<DriftReport>(&record.report);
    let mut rows = table(&["input", "importance", "PSI", "Jensen-Shannon", "windows exceeded", "drifted"]);
    for feature in report.iter().flat_map(|report| report.features.iter().chain([&report.score])) {
        rows.add_row([
            feature.input.as_str().into(),
            number(feature.importance, 3).into(),
            number(feature.distances.psi, 4).into(),
            number(feature.distances.jensen_shannon, 4).into(),
            feature.windows_exceeded.to_string().into(),
            if feature.drifted { state("drifted") } else { "".into() },
        ]);
    }
    let text = format!(
        "{} of {}, {} to {}: {}\n{}\n{}",
        record.id,
        record.model,
        at(record.window_from),
        at(record.window_until),
        report.as_ref().map_or_else(|| "-".to_owned(), |report| words(&word_of(&report.status))),
        report.as_ref().map_or(UNREADABLE, |report| &report.reason),
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
