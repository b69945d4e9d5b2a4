//! Logs: the journal under systemd, JSON lines in a pod, text on a terminal, and
//! beside them a file for each cycle.
//!
//! | standard error is | lines |
//! | --- | --- |
//! | the journal (`JOURNAL_STREAM` names it) | native entries, fields as `DELAYD_CYCLE_ID` |
//! | a terminal | text |
//! | anything else | one JSON object each |
//!
//! `DELAYD_LOG_FORMAT` (`journald`, `json`, `text`) overrides that, `DELAYD_LOG` says
//! what is logged (`info,delayd=debug`). Within a cycle every line carries
//! `trace.id`, `cycle.id` and `step`: spans that `delayd_core::spans` carries across threads,
//! and requests across actors.

mod cycle_log;
mod lines;
mod stderr;

use std::path::Path;

use tracing::Span;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::{EnvFilter, Filtered, LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, Layered, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

pub use cycle_log::{CycleLogPolicy, cycle_log_path, lost_lines};
pub use stderr::{LogFormat, UnknownFormat};

pub use delayd_core::spans::{step_span, undo_span};
use delayd_ledger::Cycle;

/// What lies below the layer that writes to standard error.
type BaseSubscriber = Layered<Filtered<lines::KeepFields, Targets, Registry>, Registry>;

/// Cycle logs hold nothing of an SDK, and none of its secrets.
const CYCLE_LOG_LEVEL: LevelFilter = LevelFilter::INFO;

/// Sends log lines to standard error. `quiet` raises the bar to errors (a
/// progress display or an answer owns the terminal then; alerts are in the ledger); `verbose` lowers it.
///
/// Answers whether it could be set up; a second call in one process cannot.
pub fn init(quiet: bool, verbose: u8) -> bool {
    // The Kubernetes adapter logs its client's errors itself, once, where they are handled.
    let default = match (quiet, verbose) {
        (true, 0) => "error,kube_client=off",
        (_, 0) => "info,kube_client=off",
        (_, 1) => "info,delayd=debug,kube_client=off",
        // The SDKs log credentials and addresses at this level.
        _ => {
            "debug,aws_config=info,aws_runtime=info,aws_smithy_runtime=info,aws_smithy_runtime_api=info,hyper_util=info"
        }
    };
    let filter = EnvFilter::try_from_env("DELAYD_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let asked = std::env::var("DELAYD_LOG_FORMAT").unwrap_or_default();
    let wanted: Result<Option<LogFormat>, UnknownFormat> = stderr::parse(&asked);
    let format = wanted.as_ref().ok().copied().flatten().unwrap_or_else(stderr::detected);
    let (layer, opened) = stderr::layer(format);
    let ours = Targets::new().with_target("delayd", CYCLE_LOG_LEVEL);
    let set_up = tracing_subscriber::registry()
        .with(lines::KeepFields.with_filter(Targets::new().with_target("delayd", LevelFilter::ERROR)))
        .with(layer.with_filter(filter))
        .with(cycle_log::CycleLog.with_filter(ours))
        .try_init()
        .is_ok();
    if let Err(error) = wanted {
        tracing::warn!(error = %error, "DELAYD_LOG_FORMAT is ignored");
    }
    if let Err(error) = opened {
        tracing::warn!(error = %error, "the journal is unreachable; lines go to standard error as text");
    }
    set_up
}

/// From now on each cycle's lines are also kept in `<state_dir>/logs/cycle_N.log`.
/// Once in a process; a later call changes nothing.
pub fn keep_cycle_logs(state_dir: &Path, policy: CycleLogPolicy) {
    if let Err(error) = cycle_log::keep(state_dir, policy) {
        tracing::warn!(error = %error, "cycle logs are not kept");
    }
}

/// Waits, not for long, until what was logged of cycles is in their files: before a process ends.
pub fn flush() {
    cycle_log::flush();
}

/// The span of a cycle. At the level of errors, because a span that a filter leaves
/// out would take its fields from the errors inside.
pub fn cycle_span(cycle: &Cycle) -> Span {
    tracing::error_span!("cycle", trace.id = %cycle.trace_id(), cycle.id = %cycle.id)
}
