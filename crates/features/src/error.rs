//! Why a row cannot be encoded.

/// Why a spec cannot be used.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum SpecError {
    /// The spec was written by an incompatible version.
    #[error("feature spec has format {found}; this build reads format {expected}")]
    Format {
        /// What the spec says.
        found: u32,
        /// What this build reads.
        expected: u32,
    },
    /// An input that this build does not know.
    #[error("feature spec names the input `{0}`, which this build does not know")]
    UnknownInput(String),
    /// A time zone that is not in the database.
    #[error("airport {airport} has the unknown time zone `{time_zone}`")]
    UnknownTimeZone {
        /// The airport's code.
        airport: String,
        /// The name given.
        time_zone: String,
    },
    /// A scale that cannot divide.
    #[error("feature `{0}` has a standard deviation that is not a positive number")]
    Scale(String),
    /// There is nothing to learn from.
    #[error("cannot fit features on an empty training set")]
    Empty,
}
