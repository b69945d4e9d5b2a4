//! The command line. Reading commands open the ledger read-only, so they answer
//! with or without a daemon; commands that change something go to the daemon's
//! HTTP endpoint.

mod args;
mod check;
mod commands;
mod display;
mod images;
mod remote;
mod show;

pub use args::{Cli, Command, ReasonArgs, ReplayArgs};
pub use commands::{CliError, run};
