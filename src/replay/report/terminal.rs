//! The summary that ends `delayd replay`, as one text: the caller prints it.
//! At most [`COLUMNS`] wide; without colour it is plain text for logs and pipes.

use std::path::{Path, PathBuf};

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table, Width};

use super::format::{count, day, duration, metric, minute, words};
use super::model::{PooledMetrics, Report};
use super::verdict::verdict;

/// The widest line.
const COLUMNS: u16 = 100;

/// Where the report's files lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportFiles {
    /// `report.html`.
    pub html: PathBuf,
    /// `report.json`.
    pub json: PathBuf,
    /// `predictions.parquet`.
    pub predictions: PathBuf,
}

/// The summary. `colour` where standard output is a terminal that shows it.
#[must_use]
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
    let mut table = style.table(&["model", "live from", "until", "learnt from", "reason"]);
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

/// Paths are never broken: somebody wants to copy them.
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
    fn the_summary_tells_the_whole_replay() {
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
        assert!(text.contains("Nothing can be said"), "{text}");
    }
}
