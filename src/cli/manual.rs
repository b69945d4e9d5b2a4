//! `delayd completions` and `delayd man`: made from the commands themselves.

use std::path::Path;

use clap::CommandFactory;

use super::args::Cli;
use super::commands::CliError;
use delayd_core::own_folder;

/// Completions for a shell.
pub(super) fn completions(shell: clap_complete::Shell) -> Result<String, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "delayd", &mut script);
    String::from_utf8(script).map_err(|error| CliError::Failed(error.to_string()))
}

/// Manual pages, `delayd.1` and one for each command.
pub(super) fn pages(dir: &Path) -> Result<String, CliError> {
    let failed = |error: std::io::Error| CliError::Failed(format!("{}: {error}", dir.display()));
    // The pages' names are known: links under them would be followed.
    own_folder::create(dir).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), dir).map_err(failed)?;
    let written = std::fs::read_dir(dir).map_err(failed)?.count();
    Ok(format!("{written} manual pages in {}", dir.display()))
}
