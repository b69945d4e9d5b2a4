//! `delayd datasets` and `delayd runs`.

use serde_json::Value;

use super::super::commands::CliError;
use super::super::source::Source;
use super::words::words;
use super::{Shown, at, drawn, entries, keep, listed, number_of, one_more, page, state, table, text_of};
use delayd_core::ids::RunId;
use delayd_ledger::{Dataset, Run};

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
            number_of(&dataset.validation, "/quarantined", 0),
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
        text.push_str(&format!("\n{}", drawn(rows)));
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
            trials(run).len().to_string().into(),
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
    let epochs = run.epochs.as_array().into_iter().flatten();
    let spent: Vec<f64> =
        epochs.chain(trials(run)).filter_map(|one| one.get("seconds").and_then(Value::as_f64)).collect();
    if spent.is_empty() { "-".to_owned() } else { format!("{:.1}", spent.iter().sum::<f64>()) }
}

/// The search's trials; none where there was no search.
fn trials(run: &Run) -> Vec<&Value> {
    entries(&run.trials, "/trials").collect()
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
    text.push_str(&record(&run.record));
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
    text.push_str(&if curve.is_empty() { "no epoch has ended yet".to_owned() } else { drawn(curve) });
    text.push_str(&search(run));
    Shown::new(run, text)
}

/// The training record: what the model was made of and with.
fn record(record: &Value) -> String {
    if !record.is_object() {
        return String::new();
    }
    let versions = record.get("libraries").and_then(Value::as_object).into_iter().flatten();
    let libraries: Vec<String> =
        versions.map(|(name, version)| format!("{name} {}", version.as_str().unwrap_or("unknown"))).collect();
    let day = |pointer| text_of(record, pointer).get(..10).unwrap_or_default().to_owned();
    let commit = record.get("commit").and_then(Value::as_str).unwrap_or("unknown");
    let started = match record.pointer("/started_from/scratch").and_then(Value::as_str) {
        Some(why) => format!("random weights: {why}"),
        None => words(text_of(record, "/started_from")),
    };
    format!(
        "trained by delayd {}, commit {commit}, with {}\nweights  {}, begun from {started}\n\
         rows     {} from {} ({} delayed), validated on {} from {} to {}\n\
         output   probability = sigmoid({} x logit {:+.4}), delayed from {}\n",
        text_of(record, "/version"),
        libraries.join(", "),
        number_of(record, "/weights", 0),
        number_of(record, "/train_rows", 0),
        day("/train_from"),
        number_of(record, "/train_positives", 0),
        number_of(record, "/tail_rows", 0),
        day("/tail_from"),
        day("/tail_until"),
        number_of(record, "/calibration/slope", 4),
        record.pointer("/calibration/intercept").and_then(Value::as_f64).unwrap_or_default(),
        number_of(record, "/threshold/value", 4),
    )
}

fn search(run: &Run) -> String {
    let trials = trials(run);
    if trials.is_empty() {
        return String::new();
    }
    let best = run.trials.get("best_trial").and_then(Value::as_u64);
    let last = trials.iter().filter_map(|trial| trial.get("round").and_then(Value::as_u64)).max();
    let header =
        ["trial", "round", "epochs", "ended", "log-loss", "ROC-AUC", "learning rate", "hidden", "blocks", "seconds"];
    let mut rows = table(&header);
    for trial in trials {
        let (number, round) = (trial.get("trial").and_then(Value::as_u64), trial.get("round").and_then(Value::as_u64));
        let mark = match number {
            number if number == best && round == last => " (best)",
            Some(0) => " (in use)",
            _ => "",
        };
        rows.add_row([
            format!("{}{mark}", number_of(trial, "/trial", 0)).into(),
            round.map_or_else(|| "-".to_owned(), |round| (round + 1).to_string()).into(),
            number_of(trial, "/epochs", 0).into(),
            state(text_of(trial, "/outcome/ended")),
            number_of(trial, "/outcome/validation_log_loss", 4).into(),
            number_of(trial, "/outcome/validation_roc_auc", 4).into(),
            number_of(trial, "/parameters/learning_rate", 5).into(),
            number_of(trial, "/parameters/hidden", 0).into(),
            number_of(trial, "/parameters/blocks", 0).into(),
            number_of(trial, "/seconds", 1).into(),
        ]);
    }
    let cut = run.trials.get("out_of_time").and_then(Value::as_bool).unwrap_or(false);
    format!("\n\nsearch{}\n{}", if cut { " (the time was up before its end)" } else { "" }, drawn(rows))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use delayd_ledger::RunState;

    fn run() -> Run {
        let trial = |trial: u64, round: u64, loss: f64| {
            json!({ "trial": trial, "round": round, "epochs": 3, "seconds": 1.5,
                    "parameters": { "learning_rate": 0.002, "hidden": 16, "blocks": 1 },
                    "outcome": { "ended": "finished", "validation_log_loss": loss, "validation_roc_auc": 0.7 } })
        };
        let at = "2013-04-25T06:00:00Z".parse().unwrap();
        Run {
            id: "run_4".parse().unwrap(),
            cycle: "cycle_4".parse().unwrap(),
            dataset: delayd_core::ids::Digest::of(b"rows"),
            parameters: json!({}),
            seed: 7,
            device: "cpu".to_owned(),
            state: RunState::Succeeded,
            epochs: json!([{ "member": 0, "epoch": 1, "seconds": 2.0 }]),
            trials: json!({ "trials": [trial(0, 0, 0.51), trial(3, 0, 0.49), trial(3, 1, 0.48)], "best_trial": 3,
                            "out_of_time": false }),
            metrics: json!({}),
            record: json!({ "commit": "0123abc-dirty", "version": "0.1.0", "libraries": { "libtorch": "2.11.0" },
                            "weights": 900, "started_from": { "scratch": "there was no earlier model" } }),
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
        let run = Run { trials: Value::Null, record: Value::Null, epochs: json!([]), ..run() };
        let text = one_run(&run).unwrap().render(false).unwrap();
        assert!(
            text.contains("no epoch has ended yet") && !text.contains("search") && !text.contains("commit"),
            "{text}"
        );
        assert_eq!(computed_secs(&run), "-");
    }
}
