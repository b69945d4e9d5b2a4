//! Weather observations (or forecasts) by airport.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::PortError;

/// One observation. A number that was not observed is `NaN`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WeatherObservation {
    pub airport: String,
    /// When it was observed, or published where it is a forecast.
    pub observed_at: DateTime<Utc>,
    pub temperature_c: f32,
    pub dew_point_c: f32,
    pub humidity_pct: f32,
    /// Direction from which the wind blows, degrees from north.
    pub wind_direction_deg: f32,
    pub wind_speed_kmh: f32,
    pub wind_gust_kmh: f32,
    /// Precipitation of the last hour in mm.
    pub precipitation_mm: f32,
    pub pressure_hpa: f32,
    pub visibility_km: f32,
}

impl WeatherObservation {
    /// An observation in which nothing was observed yet.
    pub fn missing(airport: impl Into<String>, observed_at: DateTime<Utc>) -> Self {
        Self {
            airport: airport.into(),
            observed_at,
            temperature_c: f32::NAN,
            dew_point_c: f32::NAN,
            humidity_pct: f32::NAN,
            wind_direction_deg: f32::NAN,
            wind_speed_kmh: f32::NAN,
            wind_gust_kmh: f32::NAN,
            precipitation_mm: f32::NAN,
            pressure_hpa: f32::NAN,
            visibility_km: f32::NAN,
        }
    }
}

/// What a source could tell where a part of it may be away.
#[derive(Debug, Default)]
pub struct WeatherAnswer {
    /// The observations there are, sorted by airport and time.
    pub observations: Vec<WeatherObservation>,
    /// Why the others are not there; empty when the source told all it knows.
    pub failures: Vec<PortError>,
}

/// Where observations come from.
///
/// Contract (the suite in `crates/testkit/src/contracts/weather.rs` runs it on every adapter):
/// answers every observation with `from <= observed_at < until` at the airports
/// asked for, sorted by airport and time, one per airport and moment; an airport
/// it does not know is no error and has none; an outage is `Unavailable` or
/// `Timeout`. A source that knows the present moment answers nothing that is yet
/// to come.
#[async_trait]
pub trait WeatherSource: Send + Sync + std::fmt::Debug {
    /// The observations of some airports in `[from, until)`.
    async fn observations(
        &self,
        airports: &[String],
        from: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<Vec<WeatherObservation>, PortError>;
    /// What there is of the observations of some airports in `[from, until)`, with
    /// the reasons where some cannot be had now.
    async fn available(&self, airports: &[String], from: DateTime<Utc>, until: DateTime<Utc>) -> WeatherAnswer {
        match self.observations(airports, from, until).await {
            Ok(observations) => WeatherAnswer { observations, failures: Vec::new() },
            Err(failure) => WeatherAnswer { observations: Vec::new(), failures: vec![failure] },
        }
    }
    /// Whether the source can be reached and lets us in. Changes nothing; answers
    /// with one line about what is there.
    async fn probe(&self) -> Result<String, PortError>;
}
