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
    pub carrier: String,
    pub flight_number: u32,
    pub origin: String,
    pub dest: String,
    pub scheduled_departure: DateTime<Utc>,
    pub scheduled_arrival: Option<DateTime<Utc>>,
    pub distance_miles: Option<f32>,
    /// Known context numbers by name.
    pub context: BTreeMap<String, f32>,
    pub score: f32,
}

/// A golden row that does not come out.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum GoldenError {
    #[error("golden row {index} ({flight}) scores {found:.6}, training computed {expected:.6} (tolerance {tolerance})")]
    Differs { index: usize, flight: String, found: f32, expected: f32, tolerance: f32 },
    #[error("golden row {index} names the unknown input `{name}`")]
    UnknownInput { index: usize, name: String },
}

impl GoldenRow {
    pub const TOLERANCE: f32 = 1e-3;

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
