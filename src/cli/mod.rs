//! The command line, a client of the daemon's API: over its local socket, or at an
//! address with a token. Reading commands answer without a daemon too, from the
//! ledger; commands that change something need one.

mod alerts;
mod args;
mod backup;
mod check;
mod commands;
mod display;
mod endpoint;
mod images;
mod logs;
mod manual;
mod remote;
mod show;
mod source;
mod sources_again;
mod validate;
mod watch;

pub use args::{AlertsArgs, Cli, Command, ConnectArgs, ReasonArgs, ReplayArgs, RetryWhich, SilenceArgs, SilencesArgs};
pub use commands::{CliError, run};
