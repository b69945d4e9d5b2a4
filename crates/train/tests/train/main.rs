//! DelayNet's training as a library, and `delayd-train` as a program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod program;
mod run;

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};
use delayd_data::{Example, Outcome};
use delayd_features::{Airport, CategoryInput, FitOptions, FlightRow, HolidayCalendar, NumericInput};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub(crate) const CARRIERS: [(&str, f32); 4] = [("AA", -0.5), ("B6", 0.4), ("DL", -0.9), ("UA", 0.0)];
const ORIGINS: [&str; 3] = ["EWR", "JFK", "LGA"];
const DESTS: [&str; 4] = ["BOS", "LAX", "MIA", "ORD"];

/// Flights over `days` days: the delay depends on the carrier, the overdue flights
/// at the origin and, bent, on the wind.
pub(crate) fn examples(rows: usize, days: i64, seed: u64) -> Vec<Example> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let start: DateTime<Utc> = "2013-03-01T05:00:00Z".parse().unwrap();
    let step = Duration::days(days) / rows as i32;
    (0..rows)
        .map(|n| {
            let departure = start + step * n as i32;
            let (carrier, bias) = CARRIERS[random.random_range(0..CARRIERS.len())];
            let origin = ORIGINS[random.random_range(0..ORIGINS.len())];
            let dest = DESTS[random.random_range(0..DESTS.len())];
            let mut row = FlightRow::scheduled(carrier, random.random_range(1..50), origin, dest, departure);
            row.scheduled_arrival = Some(departure + Duration::minutes(120 + random.random_range(0..200)));
            let overdue: f32 = random.random_range(0.0..20.0);
            let wind: f32 = random.random_range(0.0..60.0);
            row.set(NumericInput::OriginOverdue, overdue);
            row.set(NumericInput::WindSpeed, wind);
            row.set(NumericInput::Temperature, random.random_range(-5.0..30.0));
            if random.random::<f32>() < 0.9 {
                row.set(NumericInput::Visibility, random.random_range(1.0..16.0));
            }
            let logit = bias - 3.0 + 0.15 * overdue + 2.0 * f32::from(u8::from(wind > 40.0));
            let delayed = random.random::<f32>() < 1.0 / (1.0 + (-logit).exp());
            let outcome = Outcome {
                delayed,
                arrival_delay_minutes: if delayed { 30 } else { -5 },
                known_at: departure + Duration::hours(4),
            };
            Example { row, prediction_time: departure - Duration::hours(2), outcome: Some(outcome) }
        })
        .collect()
}

pub(crate) fn airports() -> BTreeMap<String, Airport> {
    let airport = |code: &&str| {
        let time_zone = if *code == "LAX" { "America/Los_Angeles" } else { "America/New_York" };
        let airport =
            Airport { latitude_deg: 40.0, longitude_deg: -74.0, elevation_ft: 10.0, time_zone: time_zone.to_owned() };
        ((*code).to_owned(), airport)
    };
    ORIGINS.iter().chain(&DESTS).map(airport).collect()
}

pub(crate) fn holidays() -> HolidayCalendar {
    HolidayCalendar::us_federal()
}

/// A few inputs, so that tests are quick.
pub(crate) fn fit_options() -> FitOptions {
    let numerics = [
        NumericInput::DepartureHour,
        NumericInput::OriginOverdue,
        NumericInput::WindSpeed,
        NumericInput::Temperature,
        NumericInput::Visibility,
        NumericInput::ScheduledDuration,
    ];
    FitOptions {
        categories: vec![CategoryInput::Carrier, CategoryInput::Origin, CategoryInput::Dest],
        numerics: numerics.iter().map(|input| input.name().to_owned()).collect(),
        ..FitOptions::default()
    }
}
