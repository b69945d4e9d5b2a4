//! The command line. Reading commands open the ledger read-only, so they answer
//! with or without a daemon; commands that change something go to the daemon's
//! HTTP endpoint.

mod args;
mod check;
mod commands;
mod display;
mod remote;
mod show;
mod train_job;

pub use args::{Cli, Command, ReasonArgs, ReplayArgs, TrainJobArgs};
pub use commands::{CliError, run};
