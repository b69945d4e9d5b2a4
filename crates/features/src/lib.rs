//! Features of a flight: the one implementation that training calls over
//! millions of rows and the inference service calls for a single request.
//!
//! A [`FlightRow`] holds what is known about a flight at its prediction time. A
//! [`FeatureSpec`] is the transform fitted on a training set: vocabularies,
//! means, deviations, airports and holidays. An [`Encoder`] turns rows into the
//! category indexes and numbers that DelayNet reads.
//!
//! The crate deliberately knows nothing of files, actors, Polars or libtorch, so
//! that the small static service can link it.

mod calendar;
mod encoder;
mod error;
mod input;
mod raw_inputs;
mod row;
mod spec;
mod weather;

pub use calendar::{DayKind, HolidayCalendar, us_federal_holidays};
pub use encoder::{Encoded, Encoder};
pub use error::SpecError;
pub use input::{CategoryInput, KnownWhen, NumericInput, Transform};
pub use raw_inputs::RawInputs;
pub use row::{Airport, FlightRow, great_circle_miles};
pub use spec::{CategoryFeature, FeatureSpec, FitOptions, NumericFeature, SpecDifference};
pub use weather::severity;

#[cfg(test)]
mod tests;
