//! What a client sends to ask about a flight.

use delayd_data::Example;
use delayd_features::NumericInput;
use serde::Serialize;

/// One flight as `POST /predict` takes it.
#[derive(Debug, Serialize)]
pub struct FlightQuestion<'a> {
    carrier: &'a str,
    flight_number: u32,
    origin: &'a str,
    dest: &'a str,
    scheduled_departure: chrono::DateTime<chrono::Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduled_arrival: Option<chrono::DateTime<chrono::Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    distance_miles: Option<f32>,
    context: std::collections::BTreeMap<&'static str, f32>,
}

impl<'a> FlightQuestion<'a> {
    /// The request for an example's row: what is not known is left out.
    #[must_use]
    pub fn of(example: &'a Example) -> Self {
        let row = &example.row;
        let known = NumericInput::ALL.iter().filter(|input| input.is_context() && row.get(**input).is_finite());
        Self {
            carrier: &row.carrier,
            flight_number: row.flight_number,
            origin: &row.origin,
            dest: &row.dest,
            scheduled_departure: row.scheduled_departure,
            scheduled_arrival: row.scheduled_arrival,
            distance_miles: row.distance_miles,
            context: known.map(|input| (input.name(), row.get(*input))).collect(),
        }
    }
}
