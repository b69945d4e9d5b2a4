//! What can go wrong with the ledger, and what to do about it.

use std::path::PathBuf;

use rusqlite::ErrorCode;

use delayd_core::error::ErrorKind;

/// A failure of the ledger. The text says which file or which operation, what
/// was found, and what to do; [`LedgerError::kind`] says whether to try again.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another daemon works on the same ledger.
    #[error(
        "ledger {}: another daemon uses it ({}); stop that one first, or give this one its own state folder",
        path.display(), holder_text(*holder)
    )]
    Locked {
        /// The ledger.
        path: PathBuf,
        /// The other process, where its number could be read.
        holder: Option<u32>,
    },
    /// There is no file to read.
    #[error("ledger {}: there is no such file; start the daemon once, or name its state folder", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file is something else.
    #[error(
        "ledger {}: this is not an SQLite database; the file is left as it is: move it away, or name another state folder",
        path.display()
    )]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// The file was an SQLite database, and parts of it cannot be read.
    #[error(
        "ledger {}: the file is damaged ({detail}); it is left as it is: put a back-up in its place with `delayd restore \
         FILE`, or first copy out what can still be read with `delayd recover FILE`", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite found first.
        detail: String,
    },
    /// A newer delayd has written the file.
    #[error(
        "ledger {}: it has schema version {found}, this delayd knows {known}; start the delayd that wrote it, or a \
         newer one", path.display()
    )]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version that this program knows.
        known: i64,
    },
    /// The file system failed.
    #[error("{action}: {source}")]
    Io {
        /// What was tried on which file.
        action: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// SQLite failed.
    #[error("ledger: {what}: {source}")]
    Statement {
        /// What was being done.
        what: &'static str,
        /// SQLite's reason.
        #[source]
        source: rusqlite::Error,
    },
    /// The ledger's own rules forbid it.
    #[error("ledger: {what}: {refusal}")]
    Refused {
        /// What was being done.
        what: &'static str,
        /// Which rule, and what was found.
        #[source]
        refusal: Refusal,
    },
    /// A write through a handle that may only read.
    #[error("ledger: {what}: this handle can only read; ask the daemon to do it")]
    ReadOnly {
        /// What was being done.
        what: &'static str,
    },
    /// The operation's own code panicked; nothing of it was stored.
    #[error("ledger: {what}: panicked, and nothing of it was stored: {message}")]
    Panicked {
        /// What was being done.
        what: &'static str,
        /// The panic's message.
        message: String,
    },
    /// The ledger's thread is gone.
    #[error("ledger: {what}: the ledger is closed")]
    Closed {
        /// What was being done.
        what: &'static str,
    },
}

/// A rule of the ledger that an operation would have broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What sort of failure.
    pub kind: ErrorKind,
    /// Which rule, what was found, what was expected.
    pub message: String,
}

/// The error by which a closure given to [`super::Records::write`] refuses, so
/// that its caller sees [`LedgerError::Refused`] and nothing is stored.
pub fn refuse(kind: ErrorKind, message: impl Into<String>) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(Refusal { kind, message: message.into() }))
}

impl LedgerError {
    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Locked { .. } | Self::ReadOnly { .. } => ErrorKind::Denied,
            Self::Missing { .. } => ErrorKind::NotFound,
            Self::NotADatabase { .. } | Self::NewerSchema { .. } => ErrorKind::Invalid,
            Self::Damaged { .. } => ErrorKind::Corrupt,
            Self::Io { source, .. } => ErrorKind::of_io(source),
            Self::Statement { source, .. } => kind_of_sqlite(source),
            Self::Refused { refusal, .. } => refusal.kind,
            Self::Panicked { .. } => ErrorKind::Internal,
            Self::Closed { .. } => ErrorKind::Cancelled,
        }
    }

    /// Whether to try again later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.kind().is_retryable()
    }

    pub(super) fn statement(what: &'static str, source: rusqlite::Error) -> Self {
        match source {
            rusqlite::Error::ToSqlConversionFailure(inner) => match inner.downcast::<Refusal>() {
                Ok(refusal) => Self::Refused { what, refusal: *refusal },
                Err(inner) => Self::Statement { what, source: rusqlite::Error::ToSqlConversionFailure(inner) },
            },
            source => Self::Statement { what, source },
        }
    }
}

fn kind_of_sqlite(error: &rusqlite::Error) -> ErrorKind {
    match error {
        rusqlite::Error::QueryReturnedNoRows => ErrorKind::NotFound,
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::Utf8Error(..) => ErrorKind::Corrupt,
        rusqlite::Error::SqliteFailure(failure, _) => match failure.code {
            ErrorCode::DiskFull | ErrorCode::OutOfMemory => ErrorKind::Exhausted,
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => ErrorKind::Corrupt,
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::SystemIoFailure => ErrorKind::Unavailable,
            ErrorCode::ConstraintViolation => ErrorKind::Conflict,
            ErrorCode::ReadOnly
            | ErrorCode::PermissionDenied
            | ErrorCode::CannotOpen
            | ErrorCode::AuthorizationForStatementDenied => ErrorKind::Denied,
            ErrorCode::TooBig => ErrorKind::Invalid,
            ErrorCode::OperationInterrupted => ErrorKind::Cancelled,
            _ => ErrorKind::Internal,
        },
        _ => ErrorKind::Internal,
    }
}

fn holder_text(holder: Option<u32>) -> String {
    holder.map_or_else(|| "its process id could not be read".to_owned(), |pid| format!("process {pid}"))
}

impl From<LedgerError> for delayd_core::failure::StepFailure {
    fn from(error: LedgerError) -> Self {
        Self::of(error.kind(), &error)
    }
}
