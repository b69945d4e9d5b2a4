//! `delayd datasets` and `delayd runs`.

use serde_json::Value;

use super::super::commands::CliError;
use super::super::source::Source;
use super::{Shown, at, entries, number_of, page, state, table, text_of};
use crate::ids::RunId;
use crate::ledger::{Dataset, Run};

pub(in crate::cli) async fn datasets(source: &Source, wanted: Option<String>, limit: u32) -> Result<Shown, CliError> {
    let datasets = source.datasets(page(if wanted.is_some() { 1000 } else { limit })).await?;
    if let Some(prefix) = wanted {
        return one_dataset(&named(datasets, &prefix)?);
    }
    let mut rows = table(&["dataset", "cycle", "from", "until", "rows", "quarantined", "made"]);
    for dataset in &datasets {
        rows.add_row([
            dataset.version.short().to_owned(),
            dataset.cycle.to_string(),
            at(dataset.from),
            at(dataset.until),
            dataset.rows.to_string(),
            number_of(&dataset.validation, "/quarantined", 0),
            at(dataset.created_at),
        ]);
    }
    Shown::new(&datasets, rows.to_string())
}

/// The only dataset whose version begins so.
pub(in crate::cli) async fn dataset_named(source: &Source, prefix: &str) -> Result<Dataset, CliError> {
    named(source.datasets(page(1000)).await?, prefix)
}

fn named(datasets: Vec<Dataset>, prefix: &str) -> Result<Dataset, CliError> {
    let digits = prefix.strip_prefix("sha256:").unwrap_or(prefix);
    let mut found = datasets.into_iter().filter(|dataset| dataset.version.hex().starts_with(digits));
    let dataset = found.next().ok_or_else(|| CliError::NotFound(format!("no dataset begins with `{prefix}`")))?;
    match found.next() {
        None => Ok(dataset),
        Some(other) => {
            let (one, other) = (&dataset.version, &other.version);
            Err(CliError::Usage(format!("`{prefix}` is the beginning of {one} and {other}; give more of it")))
        }
    }
}

fn one_dataset(dataset: &Dataset) -> Result<Shown, CliError> {
    let report = &dataset.validation;
    let text = format!(
        "{}\nmade for {} at {}, {} to {}, {} rows of {} objects{}",
        dataset.version,
        dataset.cycle,
        at(dataset.created_at),
        at(dataset.from),
        at(dataset.until),
        dataset.rows,
        dataset.sources.len(),
        report_text(report),
    );
    Shown::new(dataset, text)
}

/// A validation report in lines, each after a line break.
pub(in crate::cli) fn report_text(report: &Value) -> String {
    let mut text = format!(
        "\naccepted {}, quarantined {}, exact duplicates {}, conflicting {}",
        number_of(report, "/accepted", 0),
        number_of(report, "/quarantined", 0),
        number_of(report, "/exact_duplicates", 0),
        number_of(report, "/conflicting_duplicates", 0),
    );
    if let Some(violations) = report.get("violations").and_then(Value::as_object).filter(|all| !all.is_empty()) {
        let mut rows = table(&["violation of the contract", "rows"]);
        for (name, count) in violations {
            rows.add_row([name.clone(), count.to_string()]);
        }
        text.push_str(&format!("\n{rows}"));
    }
    let unused: Vec<&str> = entries(report, "/unused_columns").filter_map(Value::as_str).collect();
    if !unused.is_empty() {
        text.push_str(&format!("\ncolumns that nothing reads: {}", unused.join(", ")));
    }
    for lost in entries(report, "/left_out") {
        text.push_str(&format!("\nleft out: {}: {}", text_of(lost, "/key"), text_of(lost, "/reason")));
    }
    for failure in entries(report, "/failures") {
        text.push_str(&format!("\npassed its bound: {}", failure.as_str().unwrap_or_default()));
    }
    if let Some(key) = report.get("quarantine_key").and_then(Value::as_str) {
        text.push_str(&format!("\nrows that were set aside: {key}"));
    }
    text
}

pub(in crate::cli) async fn runs(source: &Source, run: Option<RunId>, limit: u32) -> Result<Shown, CliError> {
    if let Some(id) = run {
        return one_run(&source.run(id).await?);
    }
    let runs = source.runs(page(limit)).await?;
    let mut rows = table(&["run", "cycle", "state", "device", "began", "seconds", "dataset"]);
    for run in &runs {
        rows.add_row([
            run.id.to_string().into(),
            run.cycle.to_string().into(),
            state(run.state.as_str()),
            run.device.as_str().into(),
            at(run.started_at).into(),
            seconds(run).into(),
            run.dataset.short().into(),
        ]);
    }
    Shown::new(&runs, rows.to_string())
}

fn seconds(run: &Run) -> String {
    let Some(finished) = run.finished_at else { return "-".to_owned() };
    format!("{:.1}", (finished - run.started_at).as_seconds_f64())
}

fn one_run(run: &Run) -> Result<Shown, CliError> {
    let mut text = format!(
        "{} of {}: {} on {}, seed {}\ndataset  {}\n",
        run.id, run.cycle, run.state, run.device, run.seed, run.dataset
    );
    let mut curve = table(&["member", "epoch", "training loss", "validation log-loss", "validation ROC-AUC", "rows/s"]);
    for epoch in run.epochs.as_array().into_iter().flatten() {
        curve.add_row([
            number_of(epoch, "/member", 0),
            number_of(epoch, "/epoch", 0),
            number_of(epoch, "/train_loss", 4),
            number_of(epoch, "/validation_log_loss", 4),
            number_of(epoch, "/validation_roc_auc", 4),
            number_of(epoch, "/rows_per_second", 0),
        ]);
    }
    text.push_str(&curve.to_string());
    let trials: Vec<&Value> = run.trials.as_array().into_iter().flatten().collect();
    if !trials.is_empty() {
        let mut rows = table(&["trial", "round", "epochs", "ended", "validation log-loss", "seconds"]);
        for trial in trials {
            rows.add_row([
                number_of(trial, "/trial", 0).into(),
                number_of(trial, "/round", 0).into(),
                number_of(trial, "/epochs", 0).into(),
                state(text_of(trial, "/outcome/ended")),
                number_of(trial, "/outcome/validation_log_loss", 4).into(),
                number_of(trial, "/seconds", 1).into(),
            ]);
        }
        text.push_str(&format!("\n{rows}"));
    }
    Shown::new(run, text)
}
