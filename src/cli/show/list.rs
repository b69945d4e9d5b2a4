//! How lists are laid out: tables that split no word, what stands where a list is
//! empty, and how one sees that there is more.

use std::io::IsTerminal;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{Cell, Color, ColumnConstraint, ContentArrangement, Table, Width};

use super::words::words;
use delayd_ledger::Page;

/// Width of tables where there is no terminal to ask.
const COLUMNS: u16 = 120;
/// Entries that a list may have, the one more that tells of more left out.
const LONGEST_LIST: u32 = 999;
/// A longer word than this may be split: a table of such would fit no screen.
const LONGEST_WHOLE_WORD: usize = 20;

/// An empty table under its header.
pub(in crate::cli) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY.row_separator(comfy_table::LineStyle::none()));
    if !std::io::stdout().is_terminal() {
        table.set_width(COLUMNS);
    }
    table.set_content_arrangement(ContentArrangement::Dynamic).set_header(header.to_vec());
    table
}

/// The table as text, each column wide enough for its longest word: a name or a moment
/// that is broken in two can be neither read nor copied.
pub(in crate::cli) fn drawn(mut table: Table) -> String {
    let mut widths: Vec<usize> = Vec::new();
    let rows: Vec<Vec<String>> = table
        .header()
        .into_iter()
        .chain(table.row_iter())
        .map(|row| row.cell_iter().map(Cell::content).collect())
        .collect();
    for row in rows {
        for (index, content) in row.iter().enumerate() {
            let longest = content.split_whitespace().map(|word| word.chars().count()).max().unwrap_or(0);
            if widths.len() <= index {
                widths.resize(index + 1, 0);
            }
            if let Some(width) = widths.get_mut(index) {
                *width = (*width).max(longest.min(LONGEST_WHOLE_WORD));
            }
        }
    }
    for (column, width) in table.column_iter_mut().zip(widths) {
        // The air between columns is part of their width; a narrow terminal has little to spare.
        column.set_padding((0, 1));
        let width = u16::try_from(width + 1).unwrap_or(u16::MAX);
        column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(width)));
    }
    table.to_string()
}

/// A word for a state, coloured on a terminal; the word alone says it too.
pub(in crate::cli) fn state(word: &str) -> Cell {
    let cell = Cell::new(words(word));
    let color = match word {
        "done" | "deployed" | "ingested" | "ready" | "running" | "approved" | "live" | "passed" | "yes"
        | "delivered" | "stable" | "finished" | "serving" | "succeeded" => Color::Green,
        "failed" | "stuck" | "rolled_back" | "dead" | "hung" | "undo_failed" | "critical" | "drifted" | "no" => {
            Color::Red
        }
        "waiting_approval" | "restarting" | "starting" | "suspected" | "warning" | "pending" | "kept_live" => {
            Color::Yellow
        }
        _ => return cell,
    };
    if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) { cell } else { cell.fg(color) }
}

/// The newest entries, as many.
pub(in crate::cli) fn page(limit: u32) -> Page {
    Page { offset: 0, limit: u64::from(limit.max(1)) }
}

/// The page that tells whether there are more than `limit`: one entry more.
pub(in crate::cli) fn one_more(limit: u32) -> Page {
    page(limit.saturating_add(1))
}

/// Keeps `limit` entries of what [`one_more`] gave; answers whether there were more.
pub(in crate::cli) fn keep<T>(entries: &mut Vec<T>, limit: u32) -> bool {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = entries.len() > limit;
    entries.truncate(limit);
    more
}

/// A list as text: `nothing` where it has no entry, and how to see more where there is more.
pub(in crate::cli) fn listed(rows: Table, limit: u32, more: bool, nothing: &str) -> String {
    if rows.is_empty() {
        return nothing.to_owned();
    }
    let mut text = drawn(rows);
    if more {
        text.push_str(&format!(
            "\n… there are more than these {limit}: --limit {}",
            limit.saturating_mul(5).min(LONGEST_LIST)
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: usize, limit: u32) -> String {
        let mut entries: Vec<usize> = (0..entries).collect();
        let more = keep(&mut entries, limit);
        let mut rows = table(&["number"]);
        entries.iter().for_each(|entry| {
            rows.add_row([entry.to_string()]);
        });
        listed(rows, limit, more, "none yet")
    }

    #[test]
    fn a_list_says_when_it_is_empty_and_when_there_is_more() {
        assert_eq!(list(0, 2), "none yet");
        assert!(!list(2, 2).contains("more"));
        let cut = list(3, 2);
        assert!(cut.ends_with("… there are more than these 2: --limit 10") && !cut.contains("2 \n"), "{cut}");
    }

    #[test]
    fn a_narrow_table_splits_no_digest_and_no_moment() {
        let mut rows = table(&["dataset", "made", "because of"]);
        rows.set_width(60);
        let long = "over 14 days the calibration error is 0.068 against 0.017 in validation, and so it went on";
        rows.add_row(["0123456789ab", "2013-04-25 06:00", long]);
        let text = drawn(rows);
        assert!(text.contains("0123456789ab") && text.contains("2013-04-25"), "{text}");
    }
}
