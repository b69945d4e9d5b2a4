//! Progress of a replay: a bar on a terminal, lines elsewhere, and the status
//! endpoint, so that it can be watched as a daemon is.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use indicatif::{ProgressBar, ProgressStyle};

use super::endpoint::Endpoint;
use crate::cycle::saga::StepObserver;
use crate::daemon::Daemon;
use crate::http::{Listeners, Metrics};
use crate::replay::ReplayDisplay;
use delayd_core::error::chain;
use delayd_core::failure::StepFailure;
use delayd_core::ids::{CycleId, ModelVersion};

/// Shows a replay on standard error.
pub(super) struct TerminalDisplay {
    bar: Option<ProgressBar>,
    steps: Mutex<Vec<String>>,
    told_week: AtomicI64,
    metrics: Metrics,
    endpoint: Mutex<Option<Endpoint>>,
}

impl TerminalDisplay {
    pub(super) fn new(metrics: Metrics) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(1000);
            if let Ok(style) = ProgressStyle::with_template("{bar:32} {percent:>3}%  {wide_msg}") {
                bar.set_style(style);
            }
            bar
        });
        let told_week = AtomicI64::new(i64::MIN);
        Self { bar, steps: Mutex::default(), told_week, metrics, endpoint: Mutex::default() }
    }

    fn print(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(wrapped(text, terminal_width())),
            None => eprintln!("{text}"),
        }
    }

    fn steps(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.steps.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// What stands before the text of each line: a day, or as much room.
const INDENT: usize = 13;

/// Columns of the terminal that progress is shown on.
fn terminal_width() -> usize {
    comfy_table::Table::new().use_stderr().width().map_or(100, usize::from)
}

/// The line in as many as it needs at this width, the later ones below its text.
fn wrapped(text: &str, width: usize) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_inclusive(' ') {
        let used = lines.last().map_or(0, |line| line.chars().count());
        if used > INDENT && used + word.trim_end().chars().count() > width.max(2 * INDENT) {
            lines.push(" ".repeat(INDENT));
        }
        if let Some(line) = lines.last_mut() {
            line.push_str(word);
        }
    }
    lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
}

impl StepObserver for TerminalDisplay {
    fn started(&self, cycle: CycleId, step: &str) {
        self.metrics.started(cycle, step);
        match &self.bar {
            Some(bar) => bar.set_message(format!("{cycle}: {step} …")),
            None if step == "train" => eprintln!("             {cycle}: training …"),
            None => {}
        }
    }

    fn finished(&self, cycle: CycleId, step: &str, wall: Duration, failure: Option<&StepFailure>) {
        self.metrics.finished(cycle, step, wall, failure);
        if let Some(failure) = failure {
            self.print(&format!("             {cycle}: {step} failed: {failure}"));
        }
        self.steps().push(format!("{step} {:.1}s", wall.as_secs_f64()));
        if step == "approve" || step == "gate" || failure.is_some() {
            let line = self.steps().drain(..).collect::<Vec<_>>().join(" → ");
            self.print(&format!("             {line}"));
        }
    }
}

impl ReplayDisplay for TerminalDisplay {
    fn daemon_started(&self, daemon: &Daemon) {
        let opened = Listeners::open(&daemon.settings, None).map_err(|error| chain(&error)).and_then(|listeners| {
            Endpoint::start(daemon, self.metrics.clone(), listeners).map_err(|error| error.to_string())
        });
        match opened {
            Ok(endpoint) => {
                self.print(&format!("             watch it at {}", endpoint.url(daemon)));
                *self.endpoint.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(endpoint);
            }
            // A replay is worth its while unwatched too: another daemon may have the address.
            Err(why) => self.print(&format!("             it cannot be watched: {why}")),
        }
    }

    fn line(&self, at: DateTime<Utc>, text: &str) {
        let day = if at == DateTime::UNIX_EPOCH { "          ".to_owned() } else { at.format("%Y-%m-%d").to_string() };
        self.print(&format!("{day}   {text}"));
    }

    fn at(&self, now: DateTime<Utc>, share: f64, predictions: u64, live: Option<ModelVersion>) {
        let live = live.map_or_else(|| "no model".to_owned(), |live| live.to_string());
        let text = format!("{}  {predictions} predictions  {live} is live", now.format("%Y-%m-%d"));
        match &self.bar {
            Some(bar) => {
                bar.set_position((share * 1000.0) as u64);
                bar.set_message(text);
            }
            None => {
                let week = now.timestamp() / (4 * 7 * 86_400);
                if self.told_week.swap(week, Ordering::Relaxed) != week {
                    eprintln!("{text}");
                }
            }
        }
    }

    fn done(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_progress_line_fits_the_terminal() {
        let text =
            "2013-04-25   cycle_4 starts: over 14 days the calibration error is 0.068 against 0.017 in validation";
        let lines = wrapped(text, 50);
        assert!(lines.lines().count() > 1 && lines.lines().all(|line| line.chars().count() <= 50), "{lines}");
        assert!(lines.lines().skip(1).all(|line| line.starts_with(&" ".repeat(INDENT))), "{lines}");
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&lines), words(text));
        assert_eq!(wrapped(text, 200), text);
    }
}
