//! Where lines go, and in which form: the journal, JSON or text.

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;

use tracing::{Event, Subscriber};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::lines::{self, Fields, TextTarget};

/// The form of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Native entries of systemd's journal.
    Journald,
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

/// An invalid `DELAYD_LOG_FORMAT`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a log format; expected journald, json or text")]
pub struct UnknownFormat(pub String);

/// The configured format; `None` where it is detected.
pub(super) fn parse(asked: &str) -> Result<Option<LogFormat>, UnknownFormat> {
    match asked {
        "" | "auto" => Ok(None),
        "journald" => Ok(Some(LogFormat::Journald)),
        "json" => Ok(Some(LogFormat::Json)),
        "text" => Ok(Some(LogFormat::Text)),
        other => Err(UnknownFormat(other.to_owned())),
    }
}

/// The form that fits what standard error is connected to.
pub(super) fn detected() -> LogFormat {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    if is_journal(&stream, std::io::stderr()) {
        LogFormat::Journald
    } else if std::io::stderr().is_terminal() {
        LogFormat::Text
    } else {
        LogFormat::Json
    }
}

/// Whether a descriptor is the one that `JOURNAL_STREAM` (`device:inode`, systemd.exec(5)) names.
/// The variable alone says nothing: children inherit it with another standard error.
fn is_journal(stream: &str, file: impl AsFd) -> bool {
    let Some((device, inode)) = stream.split_once(':') else { return false };
    let (Ok(device), Ok(inode)) = (device.parse::<u64>(), inode.parse::<u64>()) else { return false };
    nix::sys::stat::fstat(file).is_ok_and(|found| (found.st_dev, found.st_ino) == (device, inode))
}

/// The layer for a form; when the journal cannot be reached, text and the reason.
pub(super) fn layer(format: LogFormat) -> (Box<dyn Layer<super::BaseSubscriber> + Send + Sync>, std::io::Result<()>) {
    let lines = |json: bool| -> Box<dyn Layer<super::BaseSubscriber> + Send + Sync> {
        let target = if std::io::stderr().is_terminal() { TextTarget::Terminal } else { TextTarget::Plain };
        Box::new(Lines { json, target })
    };
    match format {
        LogFormat::Json => (lines(true), Ok(())),
        LogFormat::Text => (lines(false), Ok(())),
        LogFormat::Journald => match tracing_journald::layer() {
            Ok(journal) => (Box::new(with_our_names(journal)), Ok(())),
            Err(error) => (lines(false), Err(error)),
        },
    }
}

/// Fields as `DELAYD_CYCLE_ID`, priorities as syslog means them.
fn with_our_names(journal: tracing_journald::Layer) -> tracing_journald::Layer {
    journal
        .with_field_prefix(Some("DELAYD".to_owned()))
        .with_syslog_identifier("delayd".to_owned())
        .with_priority_mappings(PriorityMappings {
            info: Priority::Informational,
            debug: Priority::Debug,
            ..PriorityMappings::new()
        })
}

/// Writes lines to standard error.
#[derive(Debug)]
struct Lines {
    json: bool,
    target: TextTarget,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let (message, fields) = Fields::of_event(event, &context);
        let line = if self.json {
            lines::json(event.metadata(), &message, &fields)
        } else {
            lines::text(event.metadata(), &message, &fields, self.target)
        };
        // Standard error is the last resort; when it is closed there is nowhere to report it.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_journal_is_known_by_device_and_inode_and_not_by_the_variable_alone() {
        let file = tempfile::tempfile().unwrap();
        let found = file.metadata().unwrap();
        assert!(is_journal(&format!("{}:{}", found.dev(), found.ino()), &file));
        assert!(!is_journal(&format!("{}:{}", found.dev(), found.ino() + 1), &file));
        for wrong in ["", "8", "8:x", ":"] {
            assert!(!is_journal(wrong, &file), "{wrong}");
        }
    }

    #[test]
    fn an_unknown_format_is_named() {
        assert_eq!(parse("json"), Ok(Some(LogFormat::Json)));
        assert_eq!(parse(""), Ok(None));
        assert!(parse("xml").unwrap_err().to_string().contains("`xml`"));
    }
}
