//! The `delayd` command.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use delayd::cli::{Cli, run};

fn main() -> ExitCode {
    let cli = Cli::parse();
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
