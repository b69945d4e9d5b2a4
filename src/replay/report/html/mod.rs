//! `report.html`: one file with everything in it, for screens, phones, the dark and
//! paper. It asks for nothing from outside: the charts are drawn by the same modules as
//! those of the daemon's page, which are in the file as a script, from the report as
//! JSON. Words and summary tables can be read without it.
//!
//! This module is the file; its parts are beside it. It computes no metric.

mod bundle;
mod cycles;
mod drift;
#[cfg(test)]
mod in_a_browser;
mod markup;
mod page;

use std::io::Write;
use std::path::Path;

use super::model::Report;
use super::write::{ReportError, atomically};

/// Writes `report.html`.
///
/// # Errors
/// When the file cannot be written; an earlier one is then untouched.
pub fn write_html(report: &Report, path: &Path) -> Result<(), ReportError> {
    let html = page::render(report).map_err(|source| ReportError::Json { path: path.to_owned(), source })?;
    atomically(path, |file| {
        file.write_all(html.as_bytes()).map_err(|source| ReportError::Io { path: path.to_owned(), source })
    })
}

#[cfg(test)]
mod tests {
    use super::markup::escaped;
    use super::*;
    use crate::replay::report::fixture;

    fn rendered(report: &Report) -> String {
        page::render(report).unwrap()
    }

    /// The data within the page, as the script reads it.
    fn data(html: &str) -> serde_json::Value {
        let (_, rest) = html.split_once("id=\"report\">").unwrap();
        serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
    }

    /// `src=`, `url(`, `@import` or an address: anything a browser would fetch.
    fn asks_for(html: &str) -> Vec<String> {
        let own = html.replace("\"http://www.w3.org/2000/svg\"", "");
        ["http://", "https://", " src=", "url(\"", "@import", "import(", "fetch(", "<link", "href=\"//"]
            .into_iter()
            .filter(|outside| own.contains(outside))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn the_page_asks_for_nothing_from_outside() {
        assert_eq!(asks_for(&rendered(&fixture::report())), Vec::<String>::new());
        assert_eq!(asks_for("<img src=\"https://x\">"), ["https://", " src="]);
    }

    #[test]
    fn what_the_ledger_says_cannot_break_the_page() {
        let mut report = fixture::report();
        report.cycles[0].reason = "<script>alert('x')</script>".into();
        report.cycles[0].outcome = "\"><script>".into();
        report.cycles[0].detail = "</SCRIPT ><!-- <script>".into();
        report.dataset.name = "\"><img src=x>".into();
        report.models[0].reason = "a & b".into();
        let html = rendered(&report);
        assert_eq!(html.to_lowercase().matches("<script").count(), 2, "the data and the page's own");
        assert_eq!(html.to_lowercase().matches("</script").count(), 2);
        assert!(!html.contains("<img") && !html.contains("<!--"));
        assert!(html.contains("a &amp; b"));
        let whole: serde_json::Value = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert!(data(&html) == whole, "the data is not the report");
    }

    #[test]
    fn the_page_says_what_the_report_says_without_its_script() {
        let report = fixture::report();
        let html = rendered(&report);
        let words = html.split_once("<script").unwrap().0;
        let escaped_reasons = report.models.iter().map(|m| escaped(&m.reason));
        for text in escaped_reasons.chain(report.cycles.iter().map(|c| escaped(&c.detail))) {
            assert!(words.contains(&text), "missing: {text}");
        }
        for text in ["nan", "NaN", "inf\""] {
            assert!(!words.contains(&format!("\"{text}")), "a number that is none: {text}");
        }
    }

    #[test]
    fn a_replay_in_which_nothing_happened_has_a_page_too() {
        let html = rendered(&fixture::empty());
        for text in ["No flight with an outcome.", "Drift was never evaluated.", "No cycle ran.", "No model went live."]
        {
            assert!(html.contains(text), "missing: {text}");
        }
        assert!(!html.contains("data-chart=\""), "a place for a chart of nothing");
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
