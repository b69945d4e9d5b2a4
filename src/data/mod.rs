//! Data.
mod error;
mod example;
mod flight;
mod local_time;
mod operations;
pub use error::DataError;
pub use example::{Example, Outcome};
pub use flight::{FlightKey, FlightRecord};
pub use operations::OperationsIndex;
