//! Data: from flight logs, weather, airports and calendars to examples.
//!
//! First stage of every cycle. [`ingest`] takes in new objects, [`formats`] turns
//! each into canonical flights, [`validation`] judges them by the [`contract`],
//! [`dataset`] names what was accepted by digest, and [`assemble()`] joins every
//! flight with what [`operations`] and [`weather`] knew at its prediction time.
//! It fits nothing and encodes nothing: that is `delayd-features`, so that
//! training and serving share it.

pub mod airports;
mod assemble;
pub mod contract;
pub mod dataset;
mod dataset_rows;
mod error;
mod example;
mod flight;
pub mod formats;
pub mod frozen;
pub mod holidays;
pub mod ingest;
mod local_time;
mod manifest;
pub mod operations;
pub mod parts;
mod reading;
pub mod reference;
pub mod sources;
mod time_zones;
pub mod training_sets;
pub mod validation;
pub mod weather;
pub mod weather_coverage;

pub use assemble::{Examples, assemble, outcome};
pub use dataset_rows::DatasetRows;
pub use error::DataError;
pub use example::{Example, Outcome};
pub use flight::FlightRecord;
pub use local_time::TimeZones;
pub use operations::OperationsIndex;
pub use reading::ObjectReader;
pub use reference::ReferenceData;
pub use training_sets::{Timing, TrainingSet};
