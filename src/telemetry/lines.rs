//! Log lines: the fields of spans and events as they were given, and the forms in which they are written.

use std::fmt::Write;

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// Named values, in the order in which they were given.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Fields(pub(super) Vec<(&'static str, Value)>);

impl Fields {
    fn put(&mut self, name: &'static str, value: Value) {
        match self.0.iter_mut().find(|(other, _)| *other == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    /// A text or number among them, as text.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(other, _)| *other == name).map(|(_, value)| plain(value))
    }

    /// All fields of an event: those of its spans, outermost first, then its own.
    /// The inner ones win. The message stands apart.
    pub(super) fn of_event<S>(event: &Event<'_>, context: &Context<'_, S>) -> (String, Self)
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let mut fields = Self::default();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(kept) = span.extensions().get::<Self>() {
                kept.0.iter().for_each(|(name, value)| fields.put(name, value.clone()));
            }
        }
        event.record(&mut fields);
        let at = fields.0.iter().position(|(name, _)| *name == "message");
        let message = at.map(|at| plain(&fields.0.remove(at).1)).unwrap_or_default();
        (message, fields)
    }
}

/// A value as people read it.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), Value::from(value));
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), Value::from(value));
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), Value::from(value));
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field.name(), Value::from(value));
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), Value::from(value));
    }
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.put(field.name(), Value::from(format!("{value:?}")));
    }
}

/// Keeps every span's fields beside it.
#[derive(Debug)]
pub(super) struct KeepFields;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for KeepFields {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }
}

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

/// Where a line of text goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextTarget {
    /// For a terminal: the level in colour, the cycle in short.
    Terminal,
    /// For a file or a pipe.
    Plain,
    /// For a cycle's own file, which says once which cycle and which trace it is.
    CycleFile,
}

/// One line for people: time, level, place in the loop, message, fields.
pub(super) fn text(metadata: &Metadata<'_>, message: &str, fields: &Fields, target: TextTarget) -> String {
    let level = *metadata.level();
    let mut line = format!("{} ", now());
    let _ = match (target, colour(level)) {
        (TextTarget::Terminal, Some(colour)) => write!(line, "\x1b[{colour}m{level:>5}\x1b[0m "),
        _ => write!(line, "{level:>5} "),
    };
    let place = [fields.text("cycle.id").filter(|_| target != TextTarget::CycleFile), fields.text("step")];
    let place: Vec<String> = place.into_iter().flatten().collect();
    if !place.is_empty() {
        let _ = write!(line, "{}: ", place.join("/"));
    }
    // A message is one line: whatever else it holds must not look like another entry.
    line.push_str(&message.replace('\n', "\\n"));
    let hidden: &[&str] = match target {
        TextTarget::Plain => &["cycle.id", "step"],
        TextTarget::Terminal | TextTarget::CycleFile => &["cycle.id", "step", "trace.id"],
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
