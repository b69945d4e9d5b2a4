//! What is written about metrics and alerts is true: the page of metrics against
//! the code, rules and dashboard against the page, the run book against the rules.
//! Whether Prometheus itself agrees is seen in `prometheus_scrapes`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use delayd::http::catalogue;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The names in the first column of the page's tables.
fn documented() -> BTreeSet<String> {
    let page = text("docs/metrics.md");
    page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).map(str::to_owned).collect()
}

/// Every name that looks like a metric of ours in a rule or a query.
fn mentioned(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    let ours = |word: &&str| ["delayd_", "delayd:", "process_"].iter().any(|head| word.starts_with(head));
    words.filter(ours).map(str::to_owned).collect()
}

/// A metric's name without what a histogram adds to it.
fn base<'a>(name: &'a str, documented: &BTreeSet<String>) -> &'a str {
    let stripped = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
    stripped.filter(|stripped| documented.contains(*stripped)).unwrap_or(name)
}

fn assert_known(place: &str, names: &BTreeSet<String>, recorded: &BTreeSet<String>) {
    let documented = documented();
    for name in names {
        let known = documented.contains(base(name, &documented)) || recorded.contains(name);
        assert!(known, "{place} names {name}, which is neither in docs/metrics.md nor recorded");
    }
}

fn values_of<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    text.lines()
        .filter_map(|line| line.trim_start().trim_start_matches("- ").strip_prefix(key))
        .map(str::trim)
        .collect()
}

fn recorded() -> BTreeSet<String> {
    values_of(&text("config/prometheus/rules/recording.yml"), "record:").into_iter().map(str::to_owned).collect()
}

#[test]
fn the_page_of_metrics_says_what_the_code_does() {
    let (begin, end) = ("<!-- daemon -->\n", "<!-- /daemon -->");
    let page = text("docs/metrics.md");
    let (before, rest) = page.split_once(begin).expect("the page has a place for the tables");
    let (_, after) = rest.split_once(end).expect("the page's place for the tables has an end");
    let wanted = format!("{before}{begin}{}\n{end}{after}", catalogue::tables());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(root().join("docs/metrics.md"), &wanted).unwrap();
    } else {
        assert!(page == wanted, "docs/metrics.md is not what the code says; write it with UPDATE_DOCS=1");
    }
}

#[test]
fn rules_and_dashboard_use_only_metrics_that_exist() {
    let recorded = recorded();
    assert!(recorded.len() > 15, "{recorded:?}");
    for rules in ["recording", "service", "daemon"] {
        let place = format!("config/prometheus/rules/{rules}.yml");
        let rules: serde_json::Value = serde_saphyr::from_str(&text(&place)).unwrap();
        let mut expressions = Vec::new();
        collect_expressions(&rules, &mut expressions);
        let names = mentioned(&expressions.join("\n"));
        assert!(names.len() > 5, "{place}: {names:?}");
        assert_known(&place, &names, &recorded);
    }
    let dashboard: serde_json::Value = serde_json::from_str(&text("config/grafana/delayd.json")).unwrap();
    let mut expressions = Vec::new();
    collect_expressions(&dashboard, &mut expressions);
    assert!(expressions.len() > 30, "{} queries", expressions.len());
    assert_known("config/grafana/delayd.json", &mentioned(&expressions.join("\n")), &recorded);
}

fn collect_expressions(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    serde_json::Value::String(text) if name == "expr" => found.push(text.clone()),
                    other => collect_expressions(other, found),
                }
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| collect_expressions(value, found)),
        _ => {}
    }
}

#[test]
fn every_alert_has_its_words_its_page_in_the_run_book_and_a_test() {
    let operations = text("docs/operations.md");
    let mut count = 0;
    for file in ["service", "daemon"] {
        let rules = text(&format!("config/prometheus/rules/{file}.yml"));
        let tests: String =
            ["", "_days"].map(|kind| text(&format!("config/prometheus/tests/{file}{kind}.yml"))).concat();
        for rule in rules.split("- alert: ").skip(1) {
            let name = rule.lines().next().unwrap().trim();
            for part in ["severity: ", "summary: ", "description: "] {
                assert!(rule.contains(part), "{name} has no {part}");
            }
            let page = format!("runbook_url: docs/operations.md#{}", name.to_lowercase());
            assert!(rule.contains(&page), "{name} does not point to its section");
            let section = operations.split(&format!("\n### {name}\n")).nth(1);
            let section = section.unwrap_or_else(|| panic!("the run book has no section for {name}"));
            let section = section.split("\n### ").next().unwrap();
            for part in ["- Meaning: ", "- Impact: ", "- Mitigation: ", "- Diagnosis:\n\n```sh\n"] {
                assert!(section.contains(part), "the run book's section for {name} has no `{part}`");
            }
            let fires = [format!("alertname=\"{name}\""), format!("alertname: {name}")];
            assert!(fires.iter().any(|fires| tests.contains(fires)), "no test sees {name} fire");
            count += 1;
        }
    }
    assert!(count > 40, "{count} alerts");
}
