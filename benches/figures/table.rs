//! The table that is printed and stored: a figure a row, with what is aimed at.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

/// One figure.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// `None` where it was not measured; `note` says why.
    value: Option<f64>,
    unit: String,
    /// At most this much is aimed at.
    aim: Option<f64>,
    met: Option<bool>,
    note: String,
}

#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) rows: Vec<Row>,
}

impl Figures {
    pub(crate) fn push(
        &mut self,
        name: impl Into<String>,
        value: f64,
        unit: &str,
        aim: Option<f64>,
        note: impl Into<String>,
    ) {
        let row = Row {
            name: name.into(),
            value: Some(value),
            unit: unit.to_owned(),
            aim,
            met: aim.map(|limit| value <= limit),
            note: note.into(),
        };
        eprintln!("  {}: {} {}", row.name, number(value), row.unit);
        self.rows.push(row);
    }

    pub(crate) fn add(&mut self, name: impl Into<String>, value: f64, unit: &str, note: impl Into<String>) {
        self.push(name, value, unit, None, note);
    }

    fn missing(&mut self, name: &str, why: impl Into<String>) {
        let note = format!("not measured: {}", why.into());
        eprintln!("  {name}: {note}");
        let row = Row { name: name.to_owned(), value: None, unit: String::new(), aim: None, met: None, note };
        self.rows.push(row);
    }

    /// Runs one group of measurements; what it could not do becomes a row.
    pub(crate) fn section(&mut self, name: &str, measure: impl FnOnce(&mut Self) -> Result<()>) {
        eprintln!("{name} …");
        if let Err(error) = measure(self) {
            self.missing(name, format!("{error:#}"));
        }
    }
}

/// A number with about four significant digits.
pub(crate) fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 1000.0 => 0,
        size if size >= 100.0 => 1,
        size if size >= 1.0 => 2,
        _ => 4,
    };
    format!("{value:.digits$}")
}

pub(crate) fn table(rows: &[Row]) -> String {
    let cells: Vec<[String; 5]> = rows
        .iter()
        .map(|row| {
            let value = row.value.map_or_else(|| "–".to_owned(), number);
            let aim = row.aim.map_or_else(String::new, |aim| format!("<= {}", number(aim)));
            let met = row.met.map_or("", |met| if met { "yes" } else { "NO" });
            [row.name.clone(), value, row.unit.clone(), aim, met.to_owned()]
        })
        .collect();
    let titles = ["what", "value", "unit", "aim", "met"].map(str::to_owned);
    let width = |column: usize| {
        let all = cells.iter().chain([&titles]);
        all.map(|row| row[column].chars().count()).max().unwrap_or(0)
    };
    let widths = [width(0), width(1), width(2), width(3), width(4)];
    let mut text = String::new();
    let mut line = |[name, value, unit, aim, met]: &[String; 5], note: &str| {
        let [a, b, c, d, e] = widths;
        let _ = writeln!(text, "{name:<a$}  {value:>b$}  {unit:<c$}  {aim:<d$}  {met:<e$}  {note}");
    };
    line(&titles, "note");
    cells.iter().zip(rows).for_each(|(cell, row)| line(cell, &row.note));
    text
}

// ----------------------------------------------------------------
// What is measured on: variables, memory, ports and processes of this machine.

pub(crate) const MEGABYTE: f64 = 1e6;

pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

pub(crate) fn path_variable(name: &str, default: &str) -> PathBuf {
    PathBuf::from(variable(name).unwrap_or_else(|| default.to_owned()))
}

/// Resident memory of a process in megabytes.
pub(crate) fn resident_megabytes(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in /proc")?;
    let kibibytes: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kibibytes * 1024.0 / MEGABYTE)
}

/// A port that nobody listens on just now.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A process that goes when this goes.
pub(crate) struct Started(pub(crate) Child);

impl Drop for Started {
    fn drop(&mut self) {
        // It may have ended by itself: there is nothing left to do then.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Started {
    pub(crate) fn ended(&mut self) -> Result<bool> {
        Ok(self.0.try_wait()?.is_some())
    }

    /// Asks the process to stop, and waits a little for it.
    pub(crate) fn stop_politely(&mut self) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(10) && !self.ended()? {
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

pub(crate) fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    line.map_or_else(|| "unknown".to_owned(), |(_, name)| name.trim().to_owned())
}

// ----------------------------------------------------------------
// How times are summed up.

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    quantile(&values, 0.5)
}

/// By nearest rank of ascending values.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
}

/// Median seconds of some calls, after one to warm up.
pub(crate) fn median_seconds(calls: usize, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let began = Instant::now();
        work()?;
        times.push(began.elapsed().as_secs_f64());
    }
    Ok(median(times))
}
