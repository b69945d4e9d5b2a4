//! The raw row: what is known about one flight when its delay is predicted.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::input::NumericInput;

/// One flight at its prediction time.
///
/// `context` holds the numbers that come from outside the schedule (weather and
/// recent operations), indexed by [`NumericInput`]; `NaN` means "not known".
#[derive(Debug, Clone, PartialEq)]
pub struct FlightRow {
    /// Marketing carrier, IATA code (`B6`).
    pub carrier: String,
    pub flight_number: u32,
    /// Origin airport, IATA code.
    pub origin: String,
    /// Destination airport, IATA code.
    pub dest: String,
    pub scheduled_departure: DateTime<Utc>,
    /// Scheduled arrival, where the schedule tells it.
    pub scheduled_arrival: Option<DateTime<Utc>>,
    /// Distance in statute miles, where the schedule tells it; otherwise the
    /// great circle between the airports is taken.
    pub distance_miles: Option<f32>,
    /// Weather and operations, see [`NumericInput::is_context`].
    pub context: [f32; NumericInput::COUNT],
}

impl FlightRow {
    /// A row with the schedule only: weather and operations unknown.
    pub fn scheduled(
        carrier: impl Into<String>,
        flight_number: u32,
        origin: impl Into<String>,
        dest: impl Into<String>,
        scheduled_departure: DateTime<Utc>,
    ) -> Self {
        Self {
            carrier: carrier.into(),
            flight_number,
            origin: origin.into(),
            dest: dest.into(),
            scheduled_departure,
            scheduled_arrival: None,
            distance_miles: None,
            context: [f32::NAN; NumericInput::COUNT],
        }
    }

    pub fn set(&mut self, input: NumericInput, value: f32) {
        self.context[input as usize] = value;
    }

    /// One number of the context; `NaN` where it is not known.
    pub fn get(&self, input: NumericInput) -> f32 {
        self.context[input as usize]
    }
}

/// What the transform needs to know of an airport.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Airport {
    /// Latitude in degrees, north positive.
    pub latitude_deg: f64,
    /// Longitude in degrees, east positive.
    pub longitude_deg: f64,
    /// Elevation in feet above sea level.
    pub elevation_ft: f64,
    pub time_zone: String,
}

/// Great-circle distance between two airports in statute miles (haversine
/// formula, mean Earth radius 3,958.8 miles).
pub fn great_circle_miles(a: &Airport, b: &Airport) -> f64 {
    const EARTH_RADIUS_MILES: f64 = 3_958.8;
    let (lat_a, lat_b) = (a.latitude_deg.to_radians(), b.latitude_deg.to_radians());
    let d_lat = lat_b - lat_a;
    let d_lon = (b.longitude_deg - a.longitude_deg).to_radians();
    let h = (d_lat / 2.0).sin().powi(2) + lat_a.cos() * lat_b.cos() * (d_lon / 2.0).sin().powi(2);
    2.0 * EARTH_RADIUS_MILES * h.sqrt().min(1.0).asin()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kennedy_to_los_angeles_is_2475_miles_but_for_the_flattening_of_the_earth() {
        let jfk = Airport {
            latitude_deg: 40.639,
            longitude_deg: -73.779,
            elevation_ft: 13.0,
            time_zone: "America/New_York".into(),
        };
        let lax = Airport {
            latitude_deg: 33.942,
            longitude_deg: -118.408,
            elevation_ft: 126.0,
            time_zone: "America/Los_Angeles".into(),
        };
        assert!((great_circle_miles(&jfk, &lax) - 2475.0).abs() < 0.005 * 2475.0);
        assert!(great_circle_miles(&jfk, &jfk) < 1e-6);
    }
}
