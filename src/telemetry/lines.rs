//! The forms of a log line.

use std::fmt::Write;

use serde_json::Value;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use super::fields::{Fields, plain};

/// The present moment, RFC 3339 in UTC with microseconds.
pub(super) fn now() -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

/// One JSON object; spans' and event's fields stand side by side with these names.
pub(super) fn json(metadata: &Metadata<'_>, message: &str, fields: &Fields) -> String {
    const RESERVED: [&str; 4] = ["timestamp", "level", "message", "target"];
    let mut line = String::with_capacity(256);
    let head = [
        ("timestamp", now()),
        ("level", metadata.level().to_string()),
        ("message", message.to_owned()),
        ("target", metadata.target().to_owned()),
    ];
    line.push('{');
    for (name, value) in head {
        let _ = write!(line, "\"{name}\":{},", Value::from(value));
    }
    for (name, value) in fields.0.iter().filter(|(name, _)| !RESERVED.contains(name)) {
        let _ = write!(line, "{}:{value},", Value::from(*name));
    }
    line.pop();
    line.push_str("}\n");
    line
}

/// How a line of text is dressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dress {
    /// For a terminal: the level in colour, the cycle in short.
    Terminal,
    /// For a file or a pipe.
    Plain,
    /// For a cycle's own file, which says once which cycle and which trace it is.
    OfCycle,
}

/// One line for people: when, how grave, where in the loop, what, and the fields.
pub(super) fn text(metadata: &Metadata<'_>, message: &str, fields: &Fields, dress: Dress) -> String {
    let level = *metadata.level();
    let mut line = format!("{} ", now());
    let _ = match (dress, colour(level)) {
        (Dress::Terminal, Some(colour)) => write!(line, "\x1b[{colour}m{level:>5}\x1b[0m "),
        _ => write!(line, "{level:>5} "),
    };
    let place = [fields.text("cycle.id").filter(|_| dress != Dress::OfCycle), fields.text("step")];
    let place: Vec<String> = place.into_iter().flatten().collect();
    if !place.is_empty() {
        let _ = write!(line, "{}: ", place.join("/"));
    }
    // A message is one line: whatever else it holds must not look like another entry.
    line.push_str(&message.replace('\n', "\\n"));
    let hidden: &[&str] = match dress {
        Dress::Plain => &["cycle.id", "step"],
        Dress::Terminal | Dress::OfCycle => &["cycle.id", "step", "trace.id"],
    };
    for (name, value) in fields.0.iter().filter(|(name, _)| !hidden.contains(name)) {
        let _ = write!(line, " {name}={}", quoted(value));
    }
    line.push('\n');
    line
}

fn colour(level: Level) -> Option<u8> {
    match level {
        Level::ERROR => Some(31),
        Level::WARN => Some(33),
        Level::INFO => Some(32),
        _ => None,
    }
}

/// A value, in quotes where it would not stand as one word.
fn quoted(value: &Value) -> String {
    let text = plain(value);
    let simple = !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"');
    if simple { text } else { Value::from(text).to_string() }
}
