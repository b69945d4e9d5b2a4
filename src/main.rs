//! The `delayd` command.

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use delayd::cli::{Cli, run};

fn main() -> ExitCode {
    delayd_core::build::tell_commit(delayd_commit::commit!());
    let mut command = Cli::command().version(&*delayd_core::build::version().leak());
    let cli = match Cli::from_arg_matches(&command.get_matches_mut()) {
        Ok(cli) => cli,
        Err(error) => error.format(&mut command).exit(),
    };
    let done = actix::System::new().block_on(run(cli));
    delayd::telemetry::flush();
    match done {
        Ok(text) => {
            let mut out = std::io::stdout().lock();
            let written = if text.is_empty() { Ok(()) } else { writeln!(out, "{text}") };
            // A closed pipe (`delayd models | head -1`) is no failure.
            match written {
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                    eprintln!("delayd: {error}");
                    ExitCode::FAILURE
                }
                _ => ExitCode::SUCCESS,
            }
        }
        Err(error) => {
            eprintln!("delayd: {error}");
            ExitCode::from(error.exit_status())
        }
    }
}
