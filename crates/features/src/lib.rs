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
mod input;
mod row;
mod spec;

pub use calendar::{DayKind, HolidayCalendar, us_federal_holidays};
pub use input::{CategoryInput, KnownWhen, NumericInput, SpecError, Transform};
pub use row::{Airport, FlightRow, RawInputs, great_circle_miles, severity};
pub use spec::{CategoryFeature, Encoded, Encoder, FeatureSpec, FitOptions, NumericFeature, SpecDifference, SpecFit};

#[cfg(test)]
mod tests;
