//! The command line. Reading commands open the ledger read-only, so they answer
//! with or without a daemon; commands that change something go to the daemon's
//! HTTP endpoint.

mod alerts;
mod args;
mod check;
mod commands;
mod display;
mod images;
mod remote;
mod show;
mod train_job;

pub use args::{AlertsArgs, Cli, Command, ReasonArgs, ReplayArgs, RetryWhich, SilenceArgs, SilencesArgs, TrainJobArgs};
pub use commands::{CliError, run};
