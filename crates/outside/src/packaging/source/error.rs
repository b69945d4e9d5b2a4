//! Why the service could not be built from its source.

use std::path::{Path, PathBuf};

use super::process::RunError;
use delayd_core::error::{ErrorKind, PortError};

/// Why there is no executable.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// git failed.
    #[error("{action}: {message}")]
    Git {
        /// What sort of failure.
        kind: ErrorKind,
        /// What was tried on which repository.
        action: String,
        /// What git said, and what to do.
        message: String,
    },
    /// The build failed.
    #[error("building {what}: {message}; the whole log is {log}, its last lines:\n{tail}", log = log.display())]
    Build {
        /// What sort of failure: `Invalid` for one that will happen again.
        kind: ErrorKind,
        /// Repository and commit.
        what: String,
        /// How it ended, and what to do.
        message: String,
        /// The log's file.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// The file system refused.
    #[error("{action} {path}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
    /// A program could not be started.
    #[error("starting `{program}`; it must be installed and in the daemon's PATH")]
    Program {
        /// Which.
        program: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The token could not be read.
    #[error(transparent)]
    Secret(#[from] PortError),
    /// It was stopped from outside.
    #[error("the build was stopped")]
    Stopped,
}

impl SourceError {
    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Git { kind, .. } | Self::Build { kind, .. } => *kind,
            Self::Io { source, .. } => ErrorKind::of_io(source),
            // Another PATH or another package is needed: waiting does not help.
            Self::Program { .. } => ErrorKind::Invalid,
            Self::Secret(error) => error.kind(),
            Self::Stopped => ErrorKind::Cancelled,
        }
    }

    /// A program that did not come to its end; `log` is where its output went.
    pub(super) fn run<'a>(program: &'a str, log: &'a Path) -> impl FnOnce(RunError) -> Self + 'a {
        move |error| match error {
            RunError::Start(source) => Self::Program { program: program.to_owned(), source },
            RunError::Output(source) => Self::io("writing", log)(source),
        }
    }

    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
