//! Logs: readable on a terminal, JSON where nobody looks at them directly.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

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
    let terminal = std::io::stderr().is_terminal();
    let registry = tracing_subscriber::registry().with(filter);
    if terminal {
        registry.with(fmt::layer().with_writer(std::io::stderr).with_target(false).compact()).try_init().is_ok()
    } else {
        let json = fmt::layer().json().flatten_event(true).with_current_span(false).with_writer(std::io::stderr);
        registry.with(json).try_init().is_ok()
    }
}
