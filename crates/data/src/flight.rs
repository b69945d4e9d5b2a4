//! The canonical flight: what every source is turned into before anything else
//! looks at it. It holds the outcome too, so it never goes near a feature
//! directly: [`super::assemble`] picks what was known at the prediction time.

use chrono::{DateTime, TimeDelta, Utc};
use delayd_features::FlightRow;
use serde::{Deserialize, Serialize};

use delayd_core::ids::FlightKey;

/// One flight, as scheduled and as it turned out. Times are UTC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlightRecord {
    /// Carrier, IATA code.
    pub carrier: String,
    /// Flight number.
    pub flight_number: u32,
    /// Origin airport, IATA code.
    pub origin: String,
    /// Destination airport, IATA code.
    pub dest: String,
    /// Scheduled departure.
    pub scheduled_departure: DateTime<Utc>,
    /// Scheduled arrival, where the source tells it.
    pub scheduled_arrival: Option<DateTime<Utc>>,
    /// Distance in statute miles, where the source tells it.
    pub distance_miles: Option<f32>,
    /// When it left the gate; `None` when it has not, or was cancelled before.
    pub departed_at: Option<DateTime<Utc>>,
    /// When it reached the gate; `None` when it has not.
    pub arrived_at: Option<DateTime<Utc>>,
    /// Arrival delay in minutes as the source tells it; negative when early.
    pub arrival_delay_minutes: Option<i32>,
    /// Whether it was cancelled.
    pub cancelled: bool,
    /// Whether it landed elsewhere.
    pub diverted: bool,
}

impl FlightRecord {
    /// The flight's identity.
    #[must_use]
    pub fn key(&self) -> FlightKey {
        FlightKey {
            carrier: self.carrier.clone(),
            flight_number: self.flight_number,
            origin: self.origin.clone(),
            dest: self.dest.clone(),
            scheduled_departure: self.scheduled_departure,
        }
    }

    /// By scheduled departure, then by the rest of the key: flights that compare equal are the same flight.
    #[must_use]
    pub fn in_time_order(&self, other: &Self) -> std::cmp::Ordering {
        let of = |r: &Self| (r.scheduled_departure, r.flight_number);
        of(self)
            .cmp(&of(other))
            .then_with(|| (&self.carrier, &self.origin, &self.dest).cmp(&(&other.carrier, &other.origin, &other.dest)))
    }

    /// Departure delay in minutes, negative when early; `None` until it has left.
    #[must_use]
    pub fn departure_delay_minutes(&self) -> Option<f64> {
        self.departed_at.map(|departed| (departed - self.scheduled_departure).num_seconds() as f64 / 60.0)
    }

    /// The record as it was known at `now`: what happened later is not in it yet.
    /// A cancellation counts as known three hours after schedule, as in
    /// [`super::OperationsIndex`].
    #[must_use]
    pub fn known_at(&self, now: DateTime<Utc>) -> Self {
        let departed_at = self.departed_at.filter(|departed| *departed <= now);
        let arrived_at = self.arrived_at.filter(|arrived| *arrived <= now);
        let last_planned = self.scheduled_arrival.unwrap_or(self.scheduled_departure);
        let landed_elsewhere = self.arrived_at.unwrap_or(last_planned + TimeDelta::hours(3));
        Self {
            departed_at,
            arrived_at,
            arrival_delay_minutes: self.arrival_delay_minutes.filter(|_| arrived_at.is_some()),
            cancelled: self.cancelled && self.scheduled_departure + TimeDelta::hours(3) <= now,
            diverted: self.diverted && landed_elsewhere <= now,
            ..self.clone()
        }
    }

    /// The part of the record that is known with the schedule.
    #[must_use]
    pub fn scheduled_row(&self) -> FlightRow {
        let mut row = FlightRow::scheduled(
            self.carrier.clone(),
            self.flight_number,
            self.origin.clone(),
            self.dest.clone(),
            self.scheduled_departure,
        );
        row.scheduled_arrival = self.scheduled_arrival;
        row.distance_miles = self.distance_miles;
        row
    }
}
