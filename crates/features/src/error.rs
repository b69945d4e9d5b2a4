//! Why a row cannot be encoded.

#[derive(Debug, thiserror::Error, PartialEq)]
pub enum SpecError {
    #[error("feature spec has format {found}; this build reads format {expected}")]
    Format { found: u32, expected: u32 },
    #[error("feature spec names the input `{0}`, which this build does not know")]
    UnknownInput(String),
    #[error("airport {airport} has the unknown time zone `{time_zone}`")]
    UnknownTimeZone { airport: String, time_zone: String },
    #[error("feature `{0}` has a standard deviation that is not a positive number")]
    Scale(String),
    #[error("cannot fit features on an empty training set")]
    Empty,
}
