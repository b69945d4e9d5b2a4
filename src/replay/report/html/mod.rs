//! `report.html`: one file with everything in it, for screens, phones, the dark and
//! paper. It holds no script and asks for nothing from outside; every chart has
//! its numbers in a table behind it.
//!
//! This module is the page; its parts are beside it. It computes no metric.

mod cycles;
mod drift;
mod over_time;
mod page;
mod reliability;
mod svg;

use std::io::Write;
use std::path::Path;

use super::model::Report;
use super::write::{ReportError, atomically};

/// Writes `report.html`.
///
/// # Errors
/// When the file cannot be written; an earlier one is then untouched.
pub fn write_html(report: &Report, path: &Path) -> Result<(), ReportError> {
    let html = render_html(report);
    atomically(path, |file| {
        file.write_all(html.as_bytes()).map_err(|source| ReportError::Io { path: path.to_owned(), source })
    })
}

/// The page as a text.
#[must_use]
pub fn render_html(report: &Report) -> String {
    page::render(report)
}

/// Text made safe for HTML's content and attributes.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

/// A chart, drawn for wide and narrow screens, and the table behind it.
struct Figure<'a> {
    title: &'a str,
    caption: &'a str,
    /// What the colours mean, as HTML.
    key: &'a str,
    /// Whether the table is open, and beside the chart where there is room.
    beside: bool,
    drawn: (String, String),
    table: Table,
}

impl Figure<'_> {
    fn html(self) -> String {
        let Self { title, caption, key, beside, drawn: (wide, narrow), table } = self;
        let (class, open) = if beside { (" class=\"beside\"", " open") } else { ("", "") };
        format!(
            "<figure{class}><figcaption><h3>{}</h3><p>{}</p></figcaption>{key}<div class=\"wide\">{wide}</div>\
             <div class=\"narrow\">{narrow}</div><details{open}><summary>The numbers</summary>{}</details></figure>",
            escaped(title),
            escaped(caption),
            table.html("No rows.")
        )
    }
}

/// An HTML table. A heading that begins with `#` makes its column one of numbers,
/// with `@` one of times.
struct Table {
    header: Vec<(String, &'static str)>,
    rows: Vec<Vec<String>>,
    /// Whether a row becomes a small list on a phone, instead of scrolling sideways.
    stacks: bool,
}

impl Table {
    fn new(header: &[&str]) -> Self {
        let column = |title: &&str| match (title.strip_prefix('#'), title.strip_prefix('@')) {
            (Some(title), _) => (title.to_owned(), " class=\"num\""),
            (_, Some(title)) => (title.to_owned(), " class=\"when\""),
            _ => ((*title).to_owned(), ""),
        };
        Self { header: header.iter().map(column).collect(), rows: Vec::new(), stacks: false }
    }

    fn stacking(self) -> Self {
        Self { stacks: true, ..self }
    }

    fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    fn html(&self, when_empty: &str) -> String {
        if self.rows.is_empty() {
            return format!("<p class=\"none\">{}</p>", escaped(when_empty));
        }
        let header: String = self
            .header
            .iter()
            .map(|(title, class)| format!("<th scope=\"col\"{class}>{}</th>", escaped(title)))
            .collect();
        let cell = |(text, (title, class)): (&String, &(String, &str))| {
            let label = if self.stacks { format!(" data-label=\"{}\"", escaped(title)) } else { String::new() };
            format!("<td{class}{label}>{}</td>", escaped(text))
        };
        let row =
            |cells: &Vec<String>| format!("<tr>{}</tr>", cells.iter().zip(&self.header).map(cell).collect::<String>());
        let rows: String = self.rows.iter().map(row).collect();
        format!(
            "<div class=\"scroll{}\" tabindex=\"0\"><table><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table></div>",
            if self.stacks { " stacks" } else { "" }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::report::fixture;

    /// `src=`, `url(`, `@import` or an address: anything a browser would fetch.
    fn asks_for(html: &str) -> Vec<String> {
        let own = html.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
        ["http://", "https://", "src=", "url(", "@import", "<script", "<link", "href=\"//"]
            .into_iter()
            .filter(|outside| own.contains(outside))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn the_page_asks_for_nothing_from_outside() {
        assert_eq!(asks_for(&render_html(&fixture::report())), Vec::<String>::new());
        assert_eq!(asks_for("<img src=\"https://x\">"), ["https://", "src="]);
    }

    #[test]
    fn what_the_ledger_says_cannot_break_the_page() {
        let mut report = fixture::report();
        report.cycles[0].reason = "<script>alert('x')</script>".into();
        report.cycles[0].outcome = "\"><script>".into();
        report.dataset.name = "\"><img src=x>".into();
        report.models[0].reason = "a & b".into();
        let html = render_html(&report);
        assert!(!html.contains("<script") && !html.contains("<img"));
        assert!(html.contains("a &amp; b"));
    }

    #[test]
    fn every_chart_is_described_and_has_its_table() {
        let html = render_html(&fixture::report());
        let times = |what: &str| html.matches(what).count();
        assert_eq!(times("<svg"), times("role=\"img\" aria-label="));
        assert_eq!(times("<svg"), 2 * times("<figure"), "each chart is drawn wide and narrow");
        assert_eq!(times("<figure"), times("<summary>The numbers</summary>"));
        assert_eq!(times("<figure"), 8);
    }

    #[test]
    fn the_page_says_what_the_report_says() {
        let report = fixture::report();
        let html = render_html(&report);
        let escaped_reasons = report.models.iter().map(|m| escaped(&m.reason));
        for text in escaped_reasons.chain(report.cycles.iter().map(|c| escaped(&c.detail))) {
            assert!(html.contains(&text), "missing: {text}");
        }
        for text in ["nan", "NaN", "inf\""] {
            assert!(!html.contains(&format!("\"{text}")), "a number that is none: {text}");
        }
    }

    #[test]
    fn a_replay_in_which_nothing_happened_has_a_page_too() {
        let html = render_html(&fixture::empty());
        for text in ["No flight with an outcome.", "Drift was never evaluated.", "No cycle ran.", "No model went live."]
        {
            assert!(html.contains(text), "missing: {text}");
        }
    }

    /// Writes the page where `DELAYD_REPORT_PREVIEW` says, for looking at it.
    #[test]
    fn the_page_is_written_as_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = std::env::var_os("DELAYD_REPORT_PREVIEW")
            .map_or_else(|| folder.path().join("report.html"), std::path::PathBuf::from);
        write_html(&fixture::report(), &path).unwrap();
        let size = std::fs::metadata(&path).unwrap().len();
        assert!((50_000..2_000_000).contains(&size), "{size} bytes");
    }
}
