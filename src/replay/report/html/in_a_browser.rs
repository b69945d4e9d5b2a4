//! The report as people open it: a file, in a real chromium, without a server.
//! Without one the tests say SKIPPED and pass.

use std::path::Path;
use std::process::Command;

use super::{render, write_html};
use crate::replay::report::fixture;

/// What chromium makes of a page: its elements before the scripts, and what it says in its console.
struct Seen {
    dom: String,
    console: Vec<String>,
}

impl Seen {
    fn count(&self, what: &str) -> usize {
        self.dom.matches(what).count()
    }
}

/// `scheme` is 0 for the dark, 1 for light.
fn open(test: &str, file: &Path, width: u32, scheme: u8) -> Option<Seen> {
    let profile = tempfile::tempdir().unwrap();
    let ran = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"])
        .args(["--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--window-size={width},900"))
        .arg(format!("--blink-settings=preferredColorScheme={scheme}"))
        .args(["--virtual-time-budget=5000", "--timeout=60000", "--dump-dom"])
        .arg(format!("file://{}", file.display()))
        .output();
    let Ok(output) = ran else {
        eprintln!("SKIPPED: {test}: no chromium; on Debian, `apt-get install chromium`");
        return None;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let console = said.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect();
    let whole = String::from_utf8_lossy(&output.stdout);
    let dom = whole.split("<script type=").next().unwrap_or_default().to_owned();
    Some(Seen { dom, console })
}

#[test]
fn every_chart_is_drawn_on_wide_and_narrow_screens() {
    const TEST: &str = "every_chart_is_drawn_on_wide_and_narrow_screens";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.html");
    let report = fixture::report();
    write_html(&report, &file).unwrap();
    for width in [1280, 500] {
        let Some(seen) = open(TEST, &file, width, 1) else { return };
        assert_eq!(seen.console, Vec::<String>::new(), "the console at {width} px");
        let steps: usize = report.cycles.iter().map(|cycle| cycle.seconds_by_step.0.len()).sum();
        let colours = report.cycles.iter().map(|cycle| cycle.seconds_by_step.0.len()).max().unwrap();
        for (what, expected) in [
            ("<svg class=\"lines\"", 5),
            ("<svg class=\"reliability\"", 1),
            ("<polyline class=\"line\"", 3 * 3 + 2),
            ("<rect class=\"column\"", 2 * report.over_time.len()),
            ("<rect class=\"count\"", report.reliability.live_loop.len()),
            ("class=\"step step-", steps),
            ("class=\"swatch step step-", colours),
            ("role=\"option\"", report.drift[0].features.len()),
            ("<path class=\"alarm\"", report.drift.iter().filter(|evaluation| evaluation.drifted).count()),
            ("As a table</summary>", 7),
        ] {
            assert_eq!(seen.count(what), expected, "{what} at {width} px");
        }
        assert!(seen.count("<rect class=\"cell h") > 500, "the heat map at {width} px");
        // Axes with their names and units, dates, and the models that were live.
        for text in ["ROC-AUC</text>", "Nats</text>", "ECE</text>", "Gain</text>", "40 %</text>", "Score</text>"] {
            assert!(seen.dom.contains(text), "no {text} at {width} px");
        }
        for text in ["Sep</text>", "Jan 2014</text>", "v1</text>", "v6</text>", "+0.1", "temperature_c, 2013-"] {
            assert!(seen.dom.contains(text), "no {text} at {width} px");
        }
        assert!(!seen.dom.contains("NaN") && !seen.dom.contains("undefined"), "an invalid number at {width} px");
    }
}

#[test]
fn a_script_that_is_added_to_the_file_does_not_run() {
    const TEST: &str = "a_script_that_is_added_to_the_file_does_not_run";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.html");
    let taken = "<script>document.body.dataset.taken = 'yes'</script><img src=\"x\" onerror=\"document.body.dataset.taken = 'yes'\">";
    let html = render(&fixture::report()).unwrap().replace("</main>", &format!("{taken}</main>"));
    std::fs::write(&file, html).unwrap();
    let Some(seen) = open(TEST, &file, 1280, 1) else { return };
    assert!(!seen.dom.contains("data-taken"), "{:?}", seen.console);
    assert!(seen.console.iter().any(|line| line.contains("Content Security Policy")), "{:?}", seen.console);
    assert_eq!(seen.count("<svg class=\"lines\""), 5, "the page's own script runs");
}

/// By the same script that looks over the daemon's page: names, headings, contrast, width.
#[test]
fn the_page_is_accessible_in_light_dark_and_on_a_phone() {
    const TEST: &str = "the_page_is_accessible_in_light_dark_and_on_a_phone";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.html");
    let faults = include_str!("../../../../tests/page/browser/accessibility.js");
    let tell = format!(
        "<script>setTimeout(() => {{ const told = (() => {{ {faults} }})(); \
         document.body.replaceChildren(...told.map((fault) => `FAULT ${{fault}}\\n`)) }}, 1000)</script></body>"
    );
    let html = render(&fixture::report()).unwrap();
    let html = html.replace("http-equiv=\"Content-Security-Policy\"", "name=\"policy\"").replace("</body>", &tell);
    std::fs::write(&file, html).unwrap();
    for (width, scheme) in [(1280, 1), (1280, 0), (500, 1)] {
        let Some(seen) = open(TEST, &file, width, scheme) else { return };
        let faults: Vec<_> =
            seen.dom.lines().filter_map(|line| line.split_once("FAULT ")).map(|(_, fault)| fault).collect();
        assert_eq!(faults, ["no &lt;nav&gt;"], "one page needs no navigation; {width} px, scheme {scheme}");
    }
}
