//! Every input of a row in its own unit, before it is scaled or looked up in a vocabulary.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, Offset, TimeZone, Timelike, Utc};
use chrono_tz::Tz;

use crate::calendar::{DayKind, HolidayCalendar};
use crate::error::SpecError;
use crate::input::{CategoryInput, NumericInput};
use crate::row::{Airport, FlightRow, great_circle_miles};
use crate::weather::severity;

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
    fn local(&self, airport: &str, moment: DateTime<Utc>) -> NaiveDateTime {
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
