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
//! `trace.id`, `cycle.id` and `step`: spans that [`context`] carries across actors
//! and threads.

mod context;
mod cycle_log;
mod fields;
mod lines;
mod stderr;

use std::path::Path;

use tracing_subscriber::Registry;
use tracing_subscriber::filter::{EnvFilter, Filtered, LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, Layered, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

pub use context::{TRACEPARENT, carried, cycle_span, spawn_blocking, step_span, undo_span, worker_span};
pub use cycle_log::{CycleLogPolicy, cycle_log_path, lost_lines};
pub use stderr::{LogFormat, UnknownFormat};

/// What lies below the layer that writes to standard error.
type BaseSubscriber = Layered<Filtered<fields::KeepFields, Targets, Registry>, Registry>;

/// What the cycles' own logs hold: no SDK's news, and none of its secrets.
const CYCLE_LOG_LEVEL: LevelFilter = LevelFilter::INFO;

/// Sends log lines to standard error. `quiet` raises the bar to errors (a
/// progress display or an answer owns the terminal then; alerts are in the ledger); `verbose` lowers it.
///
/// Answers whether it could be set up; a second call in one process cannot.
pub fn init(quiet: bool, verbose: u8) -> bool {
    // What its client meets is told by the Kubernetes adapter, once, where it is handled.
    let default = match (quiet, verbose) {
        (true, 0) => "error,kube_client=off",
        (_, 0) => "info,kube_client=off",
        (_, 1) => "info,delayd=debug,kube_client=off",
        // The SDKs tell credentials and addresses at this level.
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
        .with(fields::KeepFields.with_filter(Targets::new().with_target("delayd", LevelFilter::ERROR)))
        .with(layer.with_filter(filter))
        .with(cycle_log::CycleLog.with_filter(ours))
        .try_init()
        .is_ok();
    if let Err(error) = wanted {
        tracing::warn!(error = %error, "DELAYD_LOG_FORMAT is left out of account");
    }
    if let Err(error) = opened {
        tracing::warn!(error = %error, "the journal cannot be reached; lines go to standard error as text");
    }
    set_up
}

/// From now on each cycle's lines are also kept in `<state_dir>/logs/cycle_N.log`.
/// Once in a process; a later call changes nothing.
pub fn keep_cycle_logs(state_dir: &Path, policy: CycleLogPolicy) {
    if let Err(error) = cycle_log::keep(state_dir, policy) {
        tracing::warn!(error = %error, "the cycles' own logs are not kept");
    }
}

/// Waits, not for long, until what was logged of cycles is in their files: before a process ends.
pub fn flush() {
    cycle_log::flush();
}
