//! Rows with known answers, carried in the bundle: the service checks them before
//! it says that it is ready, so that training and serving can never disagree unseen.

use chrono::{DateTime, Utc};
use delayd_features::{FlightRow, NumericInput};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A flight and the probability that training computed for it in libtorch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenRow {
    /// Carrier.
    pub carrier: String,
    /// Flight number.
    pub flight_number: u32,
    /// Origin.
    pub origin: String,
    /// Destination.
    pub dest: String,
    /// Scheduled departure.
    pub scheduled_departure: DateTime<Utc>,
    /// Scheduled arrival.
    pub scheduled_arrival: Option<DateTime<Utc>>,
    /// Distance in statute miles.
    pub distance_miles: Option<f32>,
    /// Known context numbers by name.
    pub context: BTreeMap<String, f32>,
    /// The probability expected.
    pub score: f32,
}

/// A golden row that does not come out.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum GoldenError {
    /// The score differs.
    #[error("golden row {index} ({flight}) scores {found:.6}, training computed {expected:.6} (tolerance {tolerance})")]
    Differs {
        /// Which row, from 0.
        index: usize,
        /// Its flight, for people.
        flight: String,
        /// What this build computes.
        found: f32,
        /// What training computed.
        expected: f32,
        /// The largest difference allowed.
        tolerance: f32,
    },
    /// It names a context number that this build does not know.
    #[error("golden row {index} names the unknown input `{name}`")]
    UnknownInput {
        /// Which row, from 0.
        index: usize,
        /// The name.
        name: String,
    },
}

impl GoldenRow {
    /// Scores may differ by this much between libtorch and the plain forward pass.
    pub const TOLERANCE: f32 = 1e-3;

    /// Records a row with the score that training computed.
    #[must_use]
    pub fn record(row: &FlightRow, score: f32) -> Self {
        let known = NumericInput::ALL.iter().filter(|input| input.is_context() && row.get(**input).is_finite());
        Self {
            carrier: row.carrier.clone(),
            flight_number: row.flight_number,
            origin: row.origin.clone(),
            dest: row.dest.clone(),
            scheduled_departure: row.scheduled_departure,
            scheduled_arrival: row.scheduled_arrival,
            distance_miles: row.distance_miles,
            context: known.map(|input| (input.name().to_owned(), row.get(*input))).collect(),
            score,
        }
    }

    /// The flight as a row again.
    ///
    /// # Errors
    /// When it names a context number that this build does not know.
    pub fn to_row(&self, index: usize) -> Result<FlightRow, GoldenError> {
        let mut row = FlightRow::scheduled(
            &*self.carrier,
            self.flight_number,
            &*self.origin,
            &*self.dest,
            self.scheduled_departure,
        );
        row.scheduled_arrival = self.scheduled_arrival;
        row.distance_miles = self.distance_miles;
        for (name, value) in &self.context {
            let input =
                NumericInput::from_name(name).ok_or_else(|| GoldenError::UnknownInput { index, name: name.clone() })?;
            row.set(input, *value);
        }
        Ok(row)
    }
}
