//! The summary that ends `delayd replay`, as one text: the caller prints it.
//! At most [`COLUMNS`] wide; without colour it is plain text for logs and pipes. The verdict and the forms of numbers
//! are the page's too.

use std::path::{Path, PathBuf};

use chrono::{DateTime, NaiveDate, Utc};
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table, Width};

use super::model::{PooledMetrics, Report};

/// The widest line.
const COLUMNS: u16 = 100;

/// Where the report's files lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportFiles {
    pub html: PathBuf,
    pub json: PathBuf,
    pub predictions: PathBuf,
}

/// The summary. `colour` where standard output is a terminal that shows it.
pub fn summary(report: &Report, files: &ReportFiles, colour: bool) -> String {
    let style = Style { colour };
    let verdict = verdict(report);
    let parts = [
        style.bold(&verdict.headline),
        wrapped(&verdict.sentence),
        String::new(),
        metrics_table(report, style),
        String::new(),
        style.bold("Cycles"),
        cycles_table(report, style),
        String::new(),
        style.bold("Models"),
        models_table(report, style),
        String::new(),
        facts(report),
        String::new(),
        files_list(files),
    ];
    let text = parts.join("\n");
    let trimmed: Vec<&str> = text.lines().map(str::trim_end).collect();
    trimmed.join("\n") + "\n"
}

#[derive(Clone, Copy)]
struct Style {
    colour: bool,
}

impl Style {
    fn bold(self, text: &str) -> String {
        if self.colour { format!("\u{1b}[1m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn table(self, header: &[&str]) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY.row_separator(comfy_table::LineStyle::none()));
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(COLUMNS);
        if self.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(header.iter().map(|title| Cell::new(title).add_attribute(Attribute::Dim)));
        table
    }

    fn outcome(self, outcome: &str) -> Cell {
        let colour = match outcome {
            "deployed" => Color::Green,
            "kept_live" => Color::Blue,
            "rolled_back" | "cancelled" => Color::Yellow,
            _ => Color::Red,
        };
        Cell::new(words(outcome)).fg(colour)
    }
}

fn right(text: impl ToString) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

fn keep_whole(table: &mut Table, columns: &[usize]) {
    for index in columns {
        if let Some(column) = table.column_mut(*index) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
}

fn metrics_table(report: &Report, style: Style) -> String {
    let header = ["", "ROC-AUC", "PR-AUC", "log-loss", "ECE", "recall", "precision", "threshold", "flights"];
    let mut table = style.table(&header);
    let mut add = |name: &str, m: &PooledMetrics, lead: bool| {
        let mut cells = vec![Cell::new(name)];
        let own = m.threshold.map_or_else(|| "each own".to_owned(), |t| format!("{t:.3}"));
        let shown = [m.roc_auc, m.pr_auc, m.log_loss, m.ece, Some(m.recall), Some(m.precision)].map(metric);
        cells.extend(shown.into_iter().chain([own, count(m.rows)]).map(right));
        table.add_row(cells.into_iter().map(|c| if lead { c.add_attribute(Attribute::Bold) } else { c }));
    };
    add("loop", &report.live_loop, true);
    add("frozen", &report.frozen, false);
    add("lookup", &report.lookup, false);
    table.to_string()
}

fn cycles_table(report: &Report, style: Style) -> String {
    let mut table = style.table(&["cycle", "began", "reason", "outcome", "took"]);
    for cycle in &report.cycles {
        table.add_row(vec![
            Cell::new(cycle.id),
            Cell::new(minute(cycle.started_at)),
            Cell::new(&cycle.reason),
            style.outcome(&cycle.outcome),
            right(duration(cycle.total_secs)),
        ]);
    }
    keep_whole(&mut table, &[0, 1, 3, 4]);
    table.to_string()
}

fn models_table(report: &Report, style: Style) -> String {
    let mut table = style.table(&["model", "live from", "until", "trained on", "reason"]);
    for model in &report.models {
        table.add_row(vec![
            Cell::new(model.version),
            Cell::new(minute(model.live_from)),
            Cell::new(model.live_until.map_or_else(|| "still live".to_owned(), minute)),
            right(count(model.trained_rows)),
            Cell::new(&model.reason),
        ]);
    }
    keep_whole(&mut table, &[0, 1, 2]);
    if let Some(column) = table.column_mut(3) {
        column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(13)));
    }
    table.to_string()
}

fn facts(report: &Report) -> String {
    let alarms = report.drift.iter().filter(|alarm| alarm.drifted).count() as u64;
    wrapped(&format!(
        "{} predictions by {} requests ({} failed). {} drift alarms in {} evaluations, {} of them false. \
         {} to {} in {} of wall time, seed {}.",
        count(report.predictions),
        count(report.requests),
        count(report.request_errors),
        count(alarms),
        count(report.drift.len() as u64),
        count(report.false_alarms),
        day(report.simulated.from.date_naive()),
        day(report.simulated.until.date_naive()),
        duration(report.wall_secs),
        report.seed,
    ))
}

/// Paths are never broken, so that they can be copied.
fn files_list(files: &ReportFiles) -> String {
    let line = |what: &str, path: &Path| format!("{what:<12} {}", path.display());
    [line("page", &files.html), line("numbers", &files.json), line("predictions", &files.predictions)].join("\n")
}

fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let full = lines
            .last()
            .is_some_and(|l| !l.is_empty() && l.chars().count() + 1 + word.chars().count() > usize::from(COLUMNS));
        if full {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join("\n")
}

/// A headline and the sentence under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) headline: String,
    pub(super) sentence: String,
}

/// Says "better" or "worse" only where the whole interval does.
pub(super) fn verdict(report: &Report) -> Verdict {
    let Some(ci) = report.ci else {
        return Verdict {
            headline: "There is too little data to say what the loop was worth".into(),
            sentence: "Too few flights have an outcome: ROC-AUC needs delayed flights and punctual ones.".into(),
        };
    };
    let gain = signed(ci.difference);
    let headline = match (ci.low > 0.0, ci.high < 0.0) {
        (true, _) => format!("The loop was worth {} of ROC-AUC", metric(Some(ci.difference))),
        (_, true) => format!("The loop cost {} of ROC-AUC", metric(Some(-ci.difference))),
        _ => "The loop made no difference that can be told from chance".to_owned(),
    };
    let sentence = format!(
        "Over {} flights the live service ranked delays with a ROC-AUC of {}; its first model, never replaced, \
         would have reached {}: a difference of {gain} ({:.0} % interval {} to {}).",
        count(report.live_loop.rows),
        metric(report.live_loop.roc_auc),
        metric(report.frozen.roc_auc),
        ci.confidence * 100.0,
        signed(ci.low),
        signed(ci.high),
    );
    Verdict { headline, sentence }
}

/// `336776` as `336,776`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Three decimals, an en dash where there is nothing.
pub(super) fn metric(value: Option<f64>) -> String {
    value.filter(|value| value.is_finite()).map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"))
}

/// Three decimals with their sign, the minus a true one.
pub(super) fn signed(value: f64) -> String {
    let rounded = format!("{:.3}", value.abs());
    match (rounded == "0.000", value < 0.0) {
        (true, _) => rounded,
        (false, true) => format!("\u{2212}{rounded}"),
        (false, false) => format!("+{rounded}"),
    }
}

/// A share as percent, one decimal.
pub(super) fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "–".to_owned(), |share| format!("{:.1}\u{a0}%", share * 100.0))
}

/// Seconds in the two units that matter: `48 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`.
pub(super) fn duration(secs: f64) -> String {
    if secs < 10.0 {
        return format!("{:.1} s", secs.max(0.0));
    }
    let whole = secs.round() as u64;
    let two = |big: u64, unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{big} {unit}"),
        _ => format!("{big} {unit} {small} {small_unit}"),
    };
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => two(whole / 60, "min", whole % 60, "s"),
        3600..86_400 => two(whole / 3600, "h", whole % 3600 / 60, "min"),
        _ => two(whole / 86_400, "d", whole % 86_400 / 3600, "h"),
    }
}

/// `3 Mar 2013`.
pub(super) fn day(date: NaiveDate) -> String {
    date.format("%-d %b %Y").to_string()
}

/// `2013-03-03 14:00`, UTC.
pub(super) fn minute(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M").to_string()
}

/// An outcome as people say it, here as on the page and in `delayd cycles`: `kept_live` as `kept live model`.
pub(in crate::replay) fn words(name: &str) -> String {
    match name {
        "kept_live" => "kept live model".to_owned(),
        other => other.replace('_', " "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::report::fixture;

    fn files() -> ReportFiles {
        ReportFiles {
            html: "replay/report.html".into(),
            json: "replay/report.json".into(),
            predictions: "replay/predictions.parquet".into(),
        }
    }

    #[test]
    fn the_summary_shows_the_whole_replay() {
        insta::assert_snapshot!(summary(&fixture::report(), &files(), false));
    }

    #[test]
    fn the_summary_is_plain_and_fits_a_hundred_columns() {
        let text = summary(&fixture::report(), &files(), false);
        assert!(!text.contains('\u{1b}'));
        let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= 100, "{widest} columns wide");
    }

    #[test]
    fn colour_changes_how_the_summary_looks_and_nothing_else() {
        let coloured = summary(&fixture::report(), &files(), true);
        assert!(coloured.contains("\u{1b}["));
        let mut plain = String::new();
        let mut parts = coloured.split('\u{1b}');
        plain.push_str(parts.next().unwrap());
        parts.for_each(|part| plain.push_str(part.split_once('m').unwrap().1));
        let lines = |text: &str| text.lines().map(|l| l.trim_end().to_owned()).collect::<Vec<_>>();
        assert_eq!(lines(&plain), lines(&summary(&fixture::report(), &files(), false)));
    }

    #[test]
    fn a_replay_in_which_nothing_happened_has_a_summary_too() {
        let text = summary(&fixture::empty(), &files(), false);
        assert!(text.contains("There is too little data"), "{text}");
    }

    #[test]
    fn the_headline_claims_no_more_than_the_interval() {
        let table = [
            ((0.031, 0.027, 0.035), "The loop was worth 0.031 of ROC-AUC"),
            ((0.002, -0.001, 0.005), "The loop made no difference that can be told from chance"),
            ((-0.010, -0.015, -0.006), "The loop cost 0.010 of ROC-AUC"),
        ];
        for ((difference, low, high), expected) in table {
            let mut report = fixture::report();
            report.ci = report.ci.map(|ci| crate::replay::report::DifferenceInterval { difference, low, high, ..ci });
            assert_eq!(verdict(&report).headline, expected);
        }
        let mut report = fixture::report();
        report.ci = None;
        assert!(verdict(&report).headline.starts_with("There is too little data"));
    }

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!([0, 999, 1000, 336_776, 1_000_000].map(count), ["0", "999", "1,000", "336,776", "1,000,000"]);
        assert_eq!([0.0312, -0.0049, 0.0001].map(signed), ["+0.031", "\u{2212}0.005", "0.000"]);
        assert_eq!([metric(Some(0.75)), metric(None), metric(Some(f64::NAN))], ["0.750", "–", "–"]);
        assert_eq!(percent(Some(0.2345)), "23.4\u{a0}%");
    }

    #[test]
    fn durations_show_the_two_units_that_matter() {
        let shown = [0.04, 9.96, 48.2, 59.7, 200.0, 3600.0, 7500.0, 273_600.0].map(duration);
        assert_eq!(shown, ["0.0 s", "10.0 s", "48 s", "1 min", "3 min 20 s", "1 h", "2 h 5 min", "3 d 4 h"]);
    }
}
