//! The table that is printed and stored: a figure a row, with what is aimed at.

use std::fmt::Write as _;

use anyhow::Result;
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
