//! What can go wrong with data, told so that somebody can act on it: which
//! object, which place in it, what was expected, what to do.

use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ids::Digest;

/// A failure of the data stage. Faults of single rows are not errors: those rows
/// are quarantined with their reasons.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The object store or a weather source failed.
    #[error(transparent)]
    Port(#[from] PortError),
    /// An object without content.
    #[error(
        "{key}: the object is empty; expected a header line and rows, or a Parquet file. Upload it again or delete it"
    )]
    EmptyObject {
        /// The object.
        key: String,
    },
    /// A header that no known layout and no configured mapping fits.
    #[error(
        "{key}: line 1: no known layout has these columns ({found}). Expected BTS on-time, nycflights13 or delayd's own \
         columns; for any other file write `[ingestion.column_mapping]`"
    )]
    UnknownLayout {
        /// The object.
        key: String,
        /// The columns that were found.
        found: String,
    },
    /// A layout was recognised, but columns of it are not there.
    #[error("{key}: line 1: the layout `{layout}` needs the missing column(s) {}; found {found}. Add them or correct `[ingestion.column_mapping]`", missing.join(", "))]
    MissingColumns {
        /// The object.
        key: String,
        /// The layout's name.
        layout: String,
        /// Every missing column.
        missing: Vec<String>,
        /// The columns that were found.
        found: String,
    },
    /// The bytes are not what the name or the first bytes promise.
    #[error("{key}: {place}: {found}; expected {expected}. {advice}")]
    Malformed {
        /// The object.
        key: String,
        /// Line, column or member.
        place: String,
        /// What is wrong.
        found: String,
        /// What should have been there.
        expected: String,
        /// What to do.
        advice: &'static str,
    },
    /// An object or a part of it is larger than a bound on memory.
    #[error(
        "{key}: {place}: {found}; expected at most {limit}. Repair or split the file and upload it again, or raise {setting}"
    )]
    TooLarge {
        /// The object.
        key: String,
        /// Where.
        place: String,
        /// How large it is, or what is known of that.
        found: String,
        /// The bound.
        limit: u64,
        /// The configuration key that holds the bound.
        setting: &'static str,
    },
    /// Reading the object ended the process, each time it was tried.
    #[error(
        "{key}: reading it ended the daemon {deaths} times, so it is not read again ({digest}). Look at it with `delayd \
         validate FILE` on a machine without work, repair or split it, and upload it again. To have the same bytes tried \
         again, remove {note} and upload them under another name"
    )]
    EndedReader {
        /// The object.
        key: String,
        /// The digest of its bytes.
        digest: Digest,
        /// How often the process ended while it read them.
        deaths: u32,
        /// The file that says so.
        note: String,
    },
    /// An airport with a time zone that is not in the database.
    #[error(
        "airport {airport}: `{time_zone}` is no IANA time zone; expected a name like `America/New_York`. Correct the airports file or `[ingestion.time_zones]`"
    )]
    UnknownTimeZone {
        /// The airport.
        airport: String,
        /// What was given.
        time_zone: String,
    },
    /// The contract's text cannot be used.
    #[error("data contract: {0}")]
    Contract(String),
    /// A feature would read something known only after the prediction.
    #[error(
        "features: {}, only after the prediction time; a feature may use only what is known with the schedule or at \
         prediction time. Correct `known_when` in the data contract, or read the feature from another column",
        columns.join(", ")
    )]
    FutureColumn {
        /// Each column with when it is known.
        columns: Vec<String>,
    },
    /// The whole input breaks the contract.
    #[error("data contract broken: {}", failures.join("; "))]
    ContractBroken {
        /// Every bound that was passed.
        failures: Vec<String>,
    },
    /// A stored dataset differs from its manifest.
    #[error("dataset {dataset}: {}", differences.join("; "))]
    DatasetDiffers {
        /// Its version.
        dataset: String,
        /// Everything that differs.
        differences: Vec<String>,
    },
    /// A fault of our own.
    #[error("{0}")]
    Internal(String),
}

impl DataError {
    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Port(error) => error.kind(),
            Self::DatasetDiffers { .. } => ErrorKind::Corrupt,
            Self::TooLarge { .. } => ErrorKind::Invalid,
            Self::Internal(_) => ErrorKind::Internal,
            _ => ErrorKind::Invalid,
        }
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.kind().is_retryable()
    }
}

impl From<DataError> for delayd_core::failure::StepFailure {
    fn from(error: DataError) -> Self {
        Self::of(error.kind(), &error)
    }
}
