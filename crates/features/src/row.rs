//! The raw row, what is known about one flight when its delay is predicted, and every input of it in its own unit, before
//! it is scaled or looked up in a vocabulary.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, Offset, TimeZone, Timelike, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use crate::calendar::{DayKind, HolidayCalendar};
use crate::input::{CategoryInput, NumericInput, SpecError};

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
    /// Scheduled arrival, where the schedule has it.
    pub scheduled_arrival: Option<DateTime<Utc>>,
    /// Distance in statute miles, where the schedule has it; otherwise the
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

/// Airports and holidays, made ready for look-up.
#[derive(Debug, Clone)]
pub(crate) struct Tables {
    pub(crate) airports: HashMap<String, (Airport, Tz)>,
    holidays: BTreeMap<NaiveDate, String>,
}

/// Years for which holidays are computed ahead.
const HOLIDAY_YEARS: (i32, i32) = (1990, 2060);

impl Tables {
    pub(crate) fn new(airports: &BTreeMap<String, Airport>, holidays: &HolidayCalendar) -> Result<Self, SpecError> {
        let mut table = HashMap::with_capacity(airports.len());
        for (code, airport) in airports {
            let zone: Tz = airport.time_zone.parse().map_err(|_| SpecError::UnknownTimeZone {
                airport: code.clone(),
                time_zone: airport.time_zone.clone(),
            })?;
            table.insert(code.clone(), (airport.clone(), zone));
        }
        Ok(Self { airports: table, holidays: holidays.days(HOLIDAY_YEARS.0, HOLIDAY_YEARS.1) })
    }

    /// Local time at an airport; UTC where the airport is not known.
    pub(crate) fn local(&self, airport: &str, moment: DateTime<Utc>) -> NaiveDateTime {
        match self.airports.get(airport) {
            Some((_, zone)) => moment.naive_utc() + zone.offset_from_utc_datetime(&moment.naive_utc()).fix(),
            None => moment.naive_utc(),
        }
    }
}

/// Every input of one row before it is encoded; drift is watched on these.
#[derive(Debug, Clone)]
pub struct RawInputs {
    values: [f32; NumericInput::COUNT],
    departure_hour: u8,
    weekday: u8,
}

const HOURS: [&str; 24] = [
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17", "18", "19", "20",
    "21", "22", "23",
];
const WEEKDAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl RawInputs {
    pub(crate) fn of(row: &FlightRow, tables: &Tables) -> Self {
        let departure = tables.local(&row.origin, row.scheduled_departure);
        let mut values = row.context;
        for input in NumericInput::ALL.iter().filter(|input| !input.is_context()) {
            values[*input as usize] = f32::NAN;
        }
        let weekday = departure.weekday().num_days_from_monday() as u8;
        let mut set = |input: NumericInput, value: f32| values[input as usize] = value;

        let (sin, cos) = daily_angle(departure);
        set(NumericInput::DepartureTimeSin, sin);
        set(NumericInput::DepartureTimeCos, cos);
        set(NumericInput::DepartureHour, departure.num_seconds_from_midnight() as f32 / 3600.0);
        if let Some(arrival) = row.scheduled_arrival {
            let (sin, cos) = daily_angle(tables.local(&row.dest, arrival));
            set(NumericInput::ArrivalTimeSin, sin);
            set(NumericInput::ArrivalTimeCos, cos);
        }
        let angle = std::f32::consts::TAU * f32::from(weekday) / 7.0;
        set(NumericInput::WeekdaySin, angle.sin());
        set(NumericInput::WeekdayCos, angle.cos());
        set(NumericInput::Weekend, f32::from(u8::from(weekday >= 5)));
        let DayKind { holiday, before_holiday, after_holiday, days_to_nearest } =
            HolidayCalendar::kind_of(&tables.holidays, departure.date());
        set(NumericInput::Holiday, f32::from(u8::from(holiday)));
        set(NumericInput::BeforeHoliday, f32::from(u8::from(before_holiday)));
        set(NumericInput::AfterHoliday, f32::from(u8::from(after_holiday)));
        set(NumericInput::HolidayDistance, f32::from(days_to_nearest));

        let distance = row.distance_miles.unwrap_or_else(|| tables.distance_miles(row));
        set(NumericInput::Distance, distance);
        let duration = row
            .scheduled_arrival
            .map_or(f32::NAN, |arrival| (arrival - row.scheduled_departure).num_seconds() as f32 / 60.0);
        set(NumericInput::ScheduledDuration, duration);
        set(NumericInput::ScheduledSpeed, if duration > 0.0 { distance / (duration / 60.0) } else { f32::NAN });
        set(
            NumericInput::WeatherSeverity,
            severity(
                row.get(NumericInput::WindSpeed),
                row.get(NumericInput::WindGust),
                row.get(NumericInput::Visibility),
                row.get(NumericInput::Precipitation),
                row.get(NumericInput::Temperature),
            ),
        );
        Self { values, departure_hour: departure.hour() as u8, weekday }
    }

    /// One number; `NaN` where it is not known.
    pub fn numeric(&self, input: NumericInput) -> f32 {
        self.values[input as usize]
    }

    /// Calls `use_value` with one category's value.
    pub fn with_category<R>(&self, row: &FlightRow, input: CategoryInput, use_value: impl FnOnce(&str) -> R) -> R {
        match input {
            CategoryInput::Carrier => use_value(&row.carrier),
            CategoryInput::Origin => use_value(&row.origin),
            CategoryInput::Dest => use_value(&row.dest),
            CategoryInput::Route => with_route(&row.origin, &row.dest, use_value),
            CategoryInput::DepartureHour => use_value(HOURS[usize::from(self.departure_hour) % HOURS.len()]),
            CategoryInput::Weekday => use_value(WEEKDAYS[usize::from(self.weekday) % WEEKDAYS.len()]),
        }
    }
}

/// `JFK-LAX`, put together on the stack: this runs several times per row.
fn with_route<R>(origin: &str, dest: &str, use_value: impl FnOnce(&str) -> R) -> R {
    let mut buffer = [0_u8; 16];
    let (a, b) = (origin.len(), dest.len());
    if a + b < buffer.len() {
        buffer[..a].copy_from_slice(origin.as_bytes());
        buffer[a] = b'-';
        buffer[a + 1..=a + b].copy_from_slice(dest.as_bytes());
        if let Ok(route) = std::str::from_utf8(&buffer[..=a + b]) {
            return use_value(route);
        }
    }
    use_value(&format!("{origin}-{dest}"))
}

impl Tables {
    fn distance_miles(&self, row: &FlightRow) -> f32 {
        match (self.airports.get(&row.origin), self.airports.get(&row.dest)) {
            (Some((origin, _)), Some((dest, _))) => great_circle_miles(origin, dest) as f32,
            _ => f32::NAN,
        }
    }
}

fn daily_angle(local: NaiveDateTime) -> (f32, f32) {
    let angle = std::f32::consts::TAU * local.num_seconds_from_midnight() as f32 / 86_400.0;
    (angle.sin(), angle.cos())
}

/// Weather severity between 0 (calm and clear) and 1 (hardly flyable).
///
/// Each part is 0 where it does not matter and 1 where it stops operations, and
/// the score is `1 - Π(1 - part)`, so that parts add up but never pass 1:
///
/// | part | 0 at | 1 at | source of the bounds |
/// | --- | --- | --- | --- |
/// | wind | 25 km/h | 90 km/h | crosswind limits of airliners, 30 to 40 kt |
/// | gusts | 35 km/h | 110 km/h | the same, gusting |
/// | visibility | 8 km | 0.4 km | US ceiling/visibility classes: VFR above 5 miles, LIFR under 1 |
/// | precipitation | 0 mm/h | 10 mm/h | WMO: heavy rain from 10 mm/h |
/// | icing | above 3 °C or dry | at or under 0 °C and wet | de-icing begins near freezing with moisture |
///
/// Wind, precipitation and icing weigh at most 0.6, visibility at most 0.8. A part
/// whose input is `NaN` counts as 0; all inputs `NaN` give `NaN`.
pub fn severity(
    wind_speed_kmh: f32,
    wind_gust_kmh: f32,
    visibility_km: f32,
    precipitation_mm: f32,
    temperature_c: f32,
) -> f32 {
    let inputs = [wind_speed_kmh, wind_gust_kmh, visibility_km, precipitation_mm, temperature_c];
    if inputs.iter().all(|value| value.is_nan()) {
        return f32::NAN;
    }
    let wind = 0.6 * ramp(wind_speed_kmh, 25.0, 90.0).max(ramp(wind_gust_kmh, 35.0, 110.0));
    let visibility = 0.8 * ramp(visibility_km, 8.0, 0.4);
    let precipitation = 0.6 * ramp(precipitation_mm, 0.0, 10.0);
    let wet = if precipitation_mm > 0.0 || visibility_km < 5.0 { 1.0 } else { 0.0 };
    let icing = 0.6 * ramp(temperature_c, 3.0, 0.0) * wet;
    1.0 - [wind, visibility, precipitation, icing].iter().map(|part| 1.0 - part).product::<f32>()
}

/// 0 at `from`, 1 at `to`, straight between and flat outside; 0 for `NaN`.
fn ramp(value: f32, from: f32, to: f32) -> f32 {
    if value.is_nan() { 0.0 } else { ((value - from) / (to - from)).clamp(0.0, 1.0) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    #[test]
    fn a_calm_clear_day_scores_nothing_and_a_blizzard_nearly_one() {
        assert_eq!(severity(10.0, 15.0, 16.0, 0.0, 20.0), 0.0);
        assert!(severity(80.0, 110.0, 0.4, 5.0, -2.0) > 0.95);
    }

    #[test]
    fn freezing_counts_only_when_it_is_wet() {
        assert_eq!(severity(0.0, 0.0, 16.0, 0.0, -10.0), 0.0);
        assert!(severity(0.0, 0.0, 16.0, 0.2, -1.0) > 0.5);
    }

    #[test]
    fn missing_parts_count_as_harmless_and_all_missing_is_unknown() {
        assert!(severity(f32::NAN, f32::NAN, 1.0, f32::NAN, f32::NAN) > 0.5);
        assert!(severity(f32::NAN, f32::NAN, f32::NAN, f32::NAN, f32::NAN).is_nan());
    }

    proptest! {
        #[test]
        fn severity_stays_between_zero_and_one_and_never_falls_with_more_wind(
            wind in 0.0_f32..200.0, more in 0.0_f32..50.0, gust in 0.0_f32..200.0,
            visibility in 0.0_f32..30.0, rain in 0.0_f32..60.0, temperature in -40.0_f32..45.0,
        ) {
            let score = severity(wind, gust, visibility, rain, temperature);
            prop_assert!((0.0..=1.0).contains(&score));
            prop_assert!(severity(wind + more, gust, visibility, rain, temperature) >= score - 1e-6);
        }
    }
}
