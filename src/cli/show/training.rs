//! `delayd datasets` and `delayd runs`.

use super::super::commands::CliError;
use super::super::source::Source;
use super::words::words;
use super::{Shown, UNREADABLE, at, drawn, keep, listed, number, one_more, page, read, state, table};
use delayd_core::Document;
use delayd_core::ids::RunId;
use delayd_data::validation::ValidationReport;
use delayd_ledger::{Dataset, Run};
use delayd_training_job::report::{StartedFrom, TrainingRecord};
use delayd_training_job::tune::{TrialOutcome, TrialRecord};
use delayd_training_job::{EpochRecord, TuningReport};

pub(in crate::cli) async fn datasets(source: &Source, wanted: Option<String>, limit: u32) -> Result<Shown, CliError> {
    if let Some(prefix) = wanted {
        return one_dataset(&dataset_named(source, &prefix).await?);
    }
    let mut datasets = source.datasets(one_more(limit)).await?;
    let more = keep(&mut datasets, limit);
    let mut rows = table(&["dataset", "cycle", "from", "until", "rows", "quarantined", "made"]);
    for dataset in &datasets {
        rows.add_row([
            dataset.version.short().to_owned(),
            dataset.cycle.to_string(),
            at(dataset.from),
            at(dataset.until),
            dataset.rows.to_string(),
            read::<ValidationReport>(&dataset.validation)
                .map_or_else(|| "-".to_owned(), |report| report.quarantined.to_string()),
            at(dataset.created_at),
        ]);
    }
    Shown::new(&datasets, listed(rows, limit, more, "no dataset yet; a cycle freezes one once it has flights"))
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
    let text = format!(
        "{}\nmade for {} at {}, {} to {}, {} rows of {} objects{}",
        dataset.version,
        dataset.cycle,
        at(dataset.created_at),
        at(dataset.from),
        at(dataset.until),
        dataset.rows,
        dataset.sources.len(),
        validation_text(&dataset.validation),
    );
    Shown::new(dataset, text)
}

/// What validation found, in lines, each after a line break.
pub(super) fn validation_text(document: &Document) -> String {
    read(document).map_or_else(|| format!("\nvalidation: {UNREADABLE}"), |report| report_text(&report))
}

/// A validation report in lines, each after a line break.
pub(in crate::cli) fn report_text(report: &ValidationReport) -> String {
    let mut text = format!(
        "\naccepted {}, quarantined {}, exact duplicates {}, conflicting {}",
        report.accepted, report.quarantined, report.exact_duplicates, report.conflicting_duplicates,
    );
    if !report.violations.is_empty() {
        let mut rows = table(&["violation of the contract", "rows"]);
        for (name, count) in &report.violations {
            rows.add_row([name.clone(), count.to_string()]);
        }
        text.push_str(&format!("\n{}", drawn(rows)));
    }
    if !report.unused_columns.is_empty() {
        text.push_str(&format!("\ncolumns that nothing reads: {}", report.unused_columns.join(", ")));
    }
    for lost in &report.left_out {
        text.push_str(&format!("\nleft out: {}: {}", lost.key, lost.reason));
    }
    for failure in &report.failures {
        text.push_str(&format!("\npassed its bound: {failure}"));
    }
    if let Some(key) = &report.quarantine_key {
        text.push_str(&format!("\nrows that were set aside: {key}"));
    }
    text
}

pub(in crate::cli) async fn runs(source: &Source, run: Option<RunId>, limit: u32) -> Result<Shown, CliError> {
    if let Some(id) = run {
        return one_run(&source.run(id).await?);
    }
    let mut runs = source.runs(one_more(limit)).await?;
    let more = keep(&mut runs, limit);
    let mut rows = table(&["run", "cycle", "state", "device", "began", "trials", "computed s", "dataset"]);
    for run in &runs {
        rows.add_row([
            run.id.to_string().into(),
            run.cycle.to_string().into(),
            state(run.state.as_str()),
            run.device.as_str().into(),
            at(run.started_at).into(),
            search_of(run).map_or(0, |search| search.trials.len()).to_string().into(),
            computed_secs(run).into(),
            run.dataset.short().into(),
        ]);
    }
    let mut text = listed(rows, limit, more, "nothing was trained yet; a cycle trains once it has a dataset");
    if let Some(newest) = runs.first() {
        text.push_str(&format!(
            "\n`delayd runs {}` shows its learning curve, its trials and what it was made with",
            newest.id
        ));
    }
    Shown::new(&runs, text)
}

/// What the run's epochs and trials took: a replay's clock stands still while it trains.
fn computed_secs(run: &Run) -> String {
    let epochs = epochs(run).into_iter().map(|epoch| epoch.seconds);
    let trials = search_of(run).into_iter().flat_map(|search| search.trials).map(|trial| trial.seconds);
    let spent: Vec<f64> = epochs.chain(trials).collect();
    if spent.is_empty() { "-".to_owned() } else { format!("{:.1}", spent.iter().sum::<f64>()) }
}

fn epochs(run: &Run) -> Vec<EpochRecord> {
    read::<Option<Vec<_>>>(&run.epochs).flatten().unwrap_or_default()
}

/// None where there was no search.
fn search_of(run: &Run) -> Option<TuningReport> {
    read::<Option<_>>(&run.trials).flatten()
}

fn one_run(run: &Run) -> Result<Shown, CliError> {
    let mut text = format!(
        "{} of {}: {} on {}, seed {}\ndataset  {}\n",
        run.id,
        run.cycle,
        words(run.state.as_str()),
        if run.device.is_empty() { "a device not known yet" } else { &run.device },
        run.seed,
        run.dataset
    );
    text.push_str(&match read::<Option<TrainingRecord>>(&run.record) {
        Some(made) => made.map_or_else(String::new, |made| record(&made)),
        None => format!("its record: {UNREADABLE}\n"),
    });
    let mut curve = table(&["member", "epoch", "training loss", "validation log-loss", "validation ROC-AUC", "rows/s"]);
    for epoch in epochs(run) {
        curve.add_row([
            epoch.member.to_string(),
            epoch.epoch.to_string(),
            number(epoch.train_loss, 4),
            number(epoch.validation_log_loss, 4),
            number(epoch.validation_roc_auc, 4),
            number(epoch.rows_per_second, 0),
        ]);
    }
    text.push_str(&if curve.is_empty() { "no epoch has ended yet".to_owned() } else { drawn(curve) });
    text.push_str(&search(run));
    Shown::new(run, text)
}

/// The training record: what the model was made of and with.
fn record(record: &TrainingRecord) -> String {
    let libraries: Vec<String> = record.libraries.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let started = match &record.started_from {
        StartedFrom::Scratch(why) => format!("random weights: {why}"),
        StartedFrom::EarlierWeights => "earlier weights".to_owned(),
    };
    format!(
        "trained by delayd {}, commit {}, with {}\nweights  {}, begun from {started}\n\
         rows     {} from {} ({} delayed), validated on {} from {} to {}\n\
         output   probability = sigmoid({:.4} x logit {:+.4}), delayed from {:.4}\n",
        record.version,
        record.commit.as_deref().unwrap_or("unknown"),
        libraries.join(", "),
        record.weights,
        record.train_rows,
        record.train_from.date_naive(),
        record.train_positives,
        record.tail_rows,
        record.tail_from.date_naive(),
        record.tail_until.date_naive(),
        record.calibration.slope,
        record.calibration.intercept,
        record.threshold.value,
    )
}

fn search(run: &Run) -> String {
    let Some(search) = search_of(run).filter(|search| !search.trials.is_empty()) else { return String::new() };
    let last = search.trials.iter().map(|trial| trial.round).max();
    let header =
        ["trial", "round", "epochs", "ended", "log-loss", "ROC-AUC", "learning rate", "hidden", "blocks", "seconds"];
    let mut rows = table(&header);
    for TrialRecord { trial, round, epochs, parameters, outcome, seconds } in search.trials {
        let mark = match trial {
            _ if trial == search.best_trial && Some(round) == last => " (best)",
            0 => " (in use)",
            _ => "",
        };
        let (ended, log_loss, roc_auc) = match outcome {
            TrialOutcome::Finished { validation_log_loss, validation_roc_auc } => {
                ("finished", Some(validation_log_loss), validation_roc_auc)
            }
            TrialOutcome::Failed { .. } => ("failed", None, None),
            TrialOutcome::OutOfTime => ("out_of_time", None, None),
        };
        rows.add_row([
            format!("{trial}{mark}").into(),
            (round + 1).to_string().into(),
            epochs.to_string().into(),
            state(ended),
            number(log_loss, 4).into(),
            number(roc_auc, 4).into(),
            number(parameters.learning_rate, 5).into(),
            parameters.hidden.to_string().into(),
            parameters.blocks.to_string().into(),
            number(seconds, 1).into(),
        ]);
    }
    let cut = if search.out_of_time { " (the time was up before its end)" } else { "" };
    format!("\n\nsearch{cut}\n{}", drawn(rows))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use delayd_ledger::RunState;
    use delayd_training_job::TrainingParameters;

    fn run() -> Run {
        let trial = |trial: u64, round: u64, loss: f64| {
            json!({ "trial": trial, "round": round, "epochs": 3, "seconds": 1.5,
                    "parameters": TrainingParameters { learning_rate: 0.002, hidden: 16, blocks: 1, ..TrainingParameters::default() },
                    "outcome": { "ended": "finished", "validation_log_loss": loss, "validation_roc_auc": 0.7 } })
        };
        let at: chrono::DateTime<chrono::Utc> = "2013-04-25T06:00:00Z".parse().unwrap();
        Run {
            id: "run_4".parse().unwrap(),
            cycle: "cycle_4".parse().unwrap(),
            dataset: delayd_core::ids::Digest::of(b"rows"),
            parameters: json!({}).into(),
            seed: 7,
            device: "cpu".to_owned(),
            state: RunState::Succeeded,
            epochs: json!([{ "member": 0, "epoch": 1, "train_loss": 0.5, "validation_log_loss": 0.5,
                            "validation_roc_auc": 0.7, "learning_rate": 0.002, "seconds": 2.0, "rows_per_second": 9.0 }])
            .into(),
            trials: json!({ "trials": [trial(0, 0, 0.51), trial(3, 0, 0.49), trial(3, 1, 0.48)], "best_trial": 3,
                            "out_of_time": false })
            .into(),
            metrics: json!({}).into(),
            record: json!({ "parameters": TrainingParameters::default(), "dataset": null, "commit": "0123abc-dirty",
                            "version": "0.1.0", "libraries": { "libtorch": "2.11.0" }, "device": "cpu",
                            "architecture": { "cardinalities": [], "embedding_widths": [], "numeric_width": 3, "hidden": 16,
                                              "blocks": 1, "members": 1 }, "weights": 900,
                            "started_from": { "scratch": "there was no earlier model" },
                            "train_rows": 90, "train_positives": 20, "tail_rows": 9, "train_from": at, "tail_from": at,
                            "tail_until": at, "positive_weight": 1.0, "best_epochs": [1],
                            "calibration": { "slope": 1.0, "intercept": 0.0 },
                            "threshold": { "value": 0.5, "precision": 0.5, "recall": 0.5, "f1": 0.5, "alert_share": 0.2 } })
            .into(),
            started_at: at,
            finished_at: Some(at),
        }
    }

    #[test]
    fn a_run_shows_its_trials_its_commit_and_what_it_computed() {
        let run = run();
        let text = one_run(&run).unwrap().render(false).unwrap();
        for told in ["3 (best)", "0 (in use)", "0.4800", "commit 0123abc-dirty", "libtorch 2.11.0", "no earlier model"]
        {
            assert!(text.contains(told), "{told} is missing in\n{text}");
        }
        assert_eq!(text.matches("(best)").count(), 1, "the winner of the last round only:\n{text}");
        assert_eq!(computed_secs(&run), "6.5");
    }

    #[test]
    fn a_run_without_a_search_and_a_record_says_no_more_than_it_knows() {
        let run = Run { trials: Document::default(), record: Document::default(), epochs: json!([]).into(), ..run() };
        let text = one_run(&run).unwrap().render(false).unwrap();
        assert!(
            text.contains("no epoch has ended yet") && !text.contains("search") && !text.contains("commit"),
            "{text}"
        );
        assert_eq!(computed_secs(&run), "-");
    }
}
