//! `report.html`: one file with everything in it, for screens, phones, dark mode and
//! paper. It needs nothing from outside: the charts are drawn by the same modules as
//! those of the daemon's page, which are in the file as a script, from the report as
//! JSON. Text and summary tables can be read without it.
//!
//! This module is the file and the page from top to bottom; it computes no metric.

mod bundle;
#[cfg(test)]
mod in_a_browser;
mod parts;

use std::io::Write;
use std::path::Path;

use super::model::{PooledMetrics, Report};
use super::summary::{count, day, duration, metric, minute, signed, verdict};
use super::write::{ReportError, atomically};
use parts::{chart, escaped, nothing};

/// Writes `report.html`.
pub fn write_html(report: &Report, path: &Path) -> Result<(), ReportError> {
    let html = render(report).map_err(|source| ReportError::Json { path: path.to_owned(), source })?;
    atomically(path, |file| {
        file.write_all(html.as_bytes()).map_err(|source| ReportError::Io { path: path.to_owned(), source })
    })
}

fn render(report: &Report) -> Result<String, serde_json::Error> {
    let verdict = verdict(report);
    let (style, script) = (bundle::style(), bundle::script());
    // No text within the data may end its element.
    let data = serde_json::to_string(report)?.replace('<', "\\u003c");
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{}\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{}</title><style>{style}</style></head><body>\n\
         <main>\n<header><p class=\"kicker\">delayd replay · {} · {} to {}</p><h1>{}</h1><p class=\"standfirst\">{}</p></header>\n\
         <noscript><p class=\"note\">The charts need JavaScript; the text and the tables of models, cycles and alarms do not.</p></noscript>\n\
         {}</main>\n<script type=\"application/json\" id=\"report\">{data}</script>\n<script>{script}</script></body></html>\n",
        bundle::policy(&script, &style),
        escaped(&format!("{}: {}", report.dataset.name, verdict.headline)),
        escaped(&report.dataset.name),
        day(report.simulated.from.date_naive()),
        day(report.simulated.until.date_naive()),
        escaped(&verdict.headline),
        escaped(&verdict.sentence),
        sections(report),
    ))
}

fn sections(report: &Report) -> String {
    let judged = |name| if report.over_time.is_empty() { nothing("No flight with an outcome.") } else { chart(name) };
    [
        section("In numbers", &format!("{}{}", scores(report), facts(report))),
        section("Week by week", &judged("weeks")),
        section("Drift", &parts::heat_map(report)),
        section("Alarms", &parts::alarms(report)),
        section("Calibration", &judged("reliability")),
        section("Models", &parts::models(report)),
        section("Cycles", &parts::cycles(report)),
        section("How it was measured", &method(report)),
    ]
    .concat()
}

fn section(title: &str, body: &str) -> String {
    format!("<section><h2>{title}</h2>{body}</section>\n")
}

struct Score {
    name: &'static str,
    gloss: &'static str,
    higher_is_better: bool,
    of: fn(&PooledMetrics) -> Option<f64>,
}

const SCORES: [Score; 6] = [
    Score { name: "ROC-AUC", gloss: "0.5 is guessing", higher_is_better: true, of: |m| m.roc_auc },
    Score { name: "PR-AUC", gloss: "average precision", higher_is_better: true, of: |m| m.pr_auc },
    Score { name: "Log-loss", gloss: "nats; lower is better", higher_is_better: false, of: |m| m.log_loss },
    Score { name: "Calibration error", gloss: "lower is better", higher_is_better: false, of: |m| m.ece },
    Score { name: "Recall", gloss: "delays that were called", higher_is_better: true, of: |m| judged(m, m.recall) },
    Score {
        name: "Precision",
        gloss: "calls that were delays",
        higher_is_better: true,
        of: |m| judged(m, m.precision),
    },
];

fn judged(metrics: &PooledMetrics, value: f64) -> Option<f64> {
    (metrics.rows > 0).then_some(value)
}

fn scores(report: &Report) -> String {
    let score = |score: &Score| {
        let [live, frozen, lookup] = [&report.live_loop, &report.frozen, &report.lookup].map(|m| (score.of)(m));
        let change = live.zip(frozen).map_or_else(String::new, |(live, frozen)| {
            let class = match ((live - frozen).abs() < 0.0005, (live > frozen) == score.higher_is_better) {
                (true, _) => "same",
                (false, true) => "better",
                (false, false) => "worse",
            };
            format!(
                "<span class=\"delta {class}\">{} <span class=\"against\">{class} than frozen</span></span>",
                signed(live - frozen)
            )
            .replace("same than", "same as")
        });
        format!(
            "<div class=\"score\"><h3>{}</h3><p class=\"gloss\">{}</p><p class=\"value\">{}</p><p>{change}</p><dl>\
             <dt><i class=\"dash frozen\"></i>frozen</dt><dd>{}</dd><dt><i class=\"dash lookup\"></i>lookup</dt><dd>{}</dd></dl></div>",
            score.name,
            score.gloss,
            metric(live),
            metric(frozen),
            metric(lookup)
        )
    };
    format!("<div class=\"scores\">{}</div>", SCORES.iter().map(score).collect::<String>())
}

fn facts(report: &Report) -> String {
    let alarms = report.drift.iter().filter(|e| e.drifted).count() as u64;
    let deployed = report.cycles.iter().filter(|c| c.outcome == "deployed").count() as u64;
    let facts = [
        ("Flights predicted", count(report.predictions)),
        ("Requests", format!("{}, {} failed", count(report.requests), count(report.request_errors))),
        ("Cycles", format!("{}, {} deployed", count(report.cycles.len() as u64), count(deployed))),
        (
            "Drift alarms",
            format!(
                "{} in {} evaluations, {} false",
                count(alarms),
                count(report.drift.len() as u64),
                count(report.false_alarms)
            ),
        ),
        ("First sign to alarm", median(report.detection_secs.values())),
        ("Alarm to live", median(report.drift_to_live_secs.values())),
        ("Wall time", duration(report.wall_secs)),
    ];
    let items: String = facts
        .iter()
        .map(|(name, value)| format!("<div class=\"figure\"><dt>{name}</dt><dd>{value}</dd></div>"))
        .collect();
    format!("<dl class=\"figures\">{items}</dl>")
}

fn median<'a>(secs: impl Iterator<Item = &'a f64>) -> String {
    let mut secs: Vec<f64> = secs.copied().collect();
    secs.sort_by(f64::total_cmp);
    match secs.len() {
        0 => "–".to_owned(),
        n if n % 2 == 1 => format!("{} (median)", duration(secs[n / 2])),
        n => format!("{} (median)", duration((secs[n / 2 - 1] + secs[n / 2]) / 2.0)),
    }
}

fn method(report: &Report) -> String {
    let interval = report.ci.map_or_else(String::new, |ci| {
        format!(
            "<p>The interval is a paired bootstrap: {} times, whole days were drawn with replacement, because flights of one day \
             share their weather and their queues, and both models were judged on the same draw; it spans the middle {:.0} % of \
             the differences.</p>",
            count(u64::from(ci.resamples)),
            ci.confidence * 100.0
        )
    });
    format!(
        "<p>Prequential: the replay\u{2019}s clock went from {} to {} (UTC), and every flight became a real HTTP request to the live \
         service at its prediction time. Its outcome was revealed only once it was known; ingest, drift, retraining, gate, \
         deployment and verification were done by the loop itself. What counts is what the live service answered then, by whichever \
         model was live.</p><p><b>Frozen</b> is the first model, never replaced; <b>lookup</b> is a table of past delay \
         rates. Both scored the very same flights. Of {} predicted flights the {} whose outcome is known are judged; \
         cancelled and diverted ones never arrived.</p>{interval}<p>A flight is delayed when it arrives 15 minutes late or more. \
         ROC-AUC counts ties half; PR-AUC is average precision; the calibration error is the mean gap between score and \
         observed share over 15 bins of equal width. For recall and precision each of the loop\u{2019}s models uses its own \
         threshold, frozen {} and lookup {}. Weeks run from Monday to Sunday by scheduled departure in UTC. A false alarm is a \
         cycle started for drift whose model did not go live.</p><p class=\"note\">{}, {} flights, {}. Files <code>{}</code>. \
         Seed {}.</p>",
        minute(report.simulated.from),
        minute(report.simulated.until),
        count(report.predictions),
        count(report.live_loop.rows),
        threshold(&report.frozen),
        threshold(&report.lookup),
        escaped(&report.dataset.name),
        count(report.dataset.rows),
        escaped(&report.dataset.source),
        escaped(&report.dataset.digest),
        report.seed
    )
}

fn threshold(metrics: &PooledMetrics) -> String {
    metrics.threshold.map_or_else(|| "each its own".to_owned(), |threshold| format!("{threshold:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::report::fixture;

    fn rendered(report: &Report) -> String {
        render(report).unwrap()
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

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        assert_eq!(median([40.0, 10.0, 20.0, 30.0].iter()), "25 s (median)");
        assert_eq!(median([].iter()), "–");
    }
}
