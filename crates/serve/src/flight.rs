//! One flight of a request: every field is checked, and everything wrong with it
//! is reported, not only the first.

use std::borrow::Cow;
use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use delayd_features::{FlightRow, NumericInput};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::Faults;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Flight {
    pub(crate) row: FlightRow,
    /// One bit per context number that the caller named, be it with `null`.
    pub(crate) named_context: u128,
}

const _: () = assert!(NumericInput::COUNT <= 128, "Flight::named_context needs a bit per input");

/// Any JSON value; what is inside arrays and objects is not kept.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Scalar<'a> {
    Null,
    Bool,
    Integer(i64),
    Number(f64),
    Text(Cow<'a, str>),
    Array,
    Object,
}

impl Scalar<'_> {
    /// What it is, for messages.
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "a boolean",
            Self::Integer(_) | Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::Array => "an array",
            Self::Object => "an object",
        }
    }
}

impl<'de> Deserialize<'de> for Scalar<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Scalar<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }
            fn visit_unit<E>(self) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Null)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Bool)
            }
            fn visit_i64<E>(self, value: i64) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Integer(value))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Scalar<'de>, E> {
                Ok(i64::try_from(value).map_or(Scalar::Number(value as f64), Scalar::Integer))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Number(value))
            }
            fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Text(Cow::Borrowed(value)))
            }
            fn visit_str<E>(self, value: &str) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Text(Cow::Owned(value.to_owned())))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Scalar<'de>, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Scalar::Array)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Scalar<'de>, A::Error> {
                while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Scalar::Object)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// Fields of a flight, the context apart.
pub(crate) const FIELDS: [&str; 7] =
    ["carrier", "flight_number", "origin", "dest", "scheduled_departure", "scheduled_arrival", "distance_miles"];
/// How many of them, from the first, are required.
const REQUIRED: usize = 5;
/// The longest flight scheduled today takes 19 hours.
const LONGEST_FLIGHT: TimeDelta = TimeDelta::hours(24);
/// Half the Earth's circumference is 12,450 miles.
const LONGEST_DISTANCE_MILES: f64 = 12_500.0;
/// Years for which the holidays are known.
const YEARS: std::ops::RangeInclusive<i32> = 1990..=2060;

/// A flight of which not all fields have been read.
#[derive(Debug)]
pub(crate) struct FlightDraft {
    row: FlightRow,
    /// One bit per field of [`FIELDS`] that was given.
    given: u8,
    named_context: u128,
}

impl FlightDraft {
    pub(crate) fn new() -> Self {
        let row = FlightRow::scheduled("", 0, "", "", DateTime::UNIX_EPOCH);
        Self { row, given: 0, named_context: 0 }
    }

    /// Reads one field. `false` where a flight has no such field.
    pub(crate) fn set(&mut self, field: &str, value: &Scalar<'_>, faults: &mut Faults) -> bool {
        let Some(index) = FIELDS.iter().position(|known| *known == field) else { return false };
        let name = FIELDS[index];
        if self.given & (1 << index) != 0 {
            faults.add_at(name, "duplicate_field", "Field is given twice");
        }
        self.given |= 1 << index;
        faults.within(name, |faults| match index {
            0 => put(&mut self.row.carrier, code(value, 2..=3, true, faults)),
            1 => put(&mut self.row.flight_number, flight_number(value, faults)),
            2 => put(&mut self.row.origin, code(value, 3..=4, false, faults)),
            3 => put(&mut self.row.dest, code(value, 3..=4, false, faults)),
            4 => put(&mut self.row.scheduled_departure, moment(value, faults)),
            5 if *value != Scalar::Null => self.row.scheduled_arrival = moment(value, faults),
            6 if *value != Scalar::Null => self.row.distance_miles = distance(value, faults),
            _ => {}
        });
        true
    }

    pub(crate) fn set_context(&mut self, name: &str, value: &Scalar<'_>, faults: &mut Faults) {
        let Some(input) = NumericInput::from_name(name).filter(|input| input.is_context()) else {
            let msg = "No context number has this name; /docs lists those there are";
            return faults.add_at(name.to_owned(), "extra_forbidden", msg);
        };
        let bit = 1_u128 << (input as usize);
        if self.named_context & bit != 0 {
            faults.add_at(input.name(), "duplicate_field", "Field is given twice");
        }
        self.named_context |= bit;
        let number = match value {
            Scalar::Null => return,
            Scalar::Integer(number) => *number as f32,
            Scalar::Number(number) => *number as f32,
            other => {
                let msg = format!("Input should be a number, or null where it is not known, not {}", other.kind());
                return faults.add_at(input.name(), "float_type", msg);
            }
        };
        if number.is_finite() {
            self.row.set(input, number);
        } else {
            faults.add_at(input.name(), "finite_number", "Input should be a finite 32-bit number");
        }
    }

    /// Checks what concerns several fields. The flight is only meaningful where
    /// no fault was noted since the draft was started.
    pub(crate) fn finish(self, faults: &mut Faults) -> Flight {
        for (index, name) in FIELDS.iter().enumerate().take(REQUIRED) {
            if self.given & (1 << index) == 0 {
                faults.add_at(*name, "missing", "Field required");
            }
        }
        let departs = self.row.scheduled_departure;
        if let Some(arrives) = self.row.scheduled_arrival.filter(|_| departs != DateTime::UNIX_EPOCH) {
            if arrives <= departs {
                let msg = format!("Arrival {arrives} should be after departure {departs}");
                faults.add_at("scheduled_arrival", "value_error", msg);
            } else if arrives - departs > LONGEST_FLIGHT {
                let msg = format!("Arrival should be within {} hours of departure", LONGEST_FLIGHT.num_hours());
                faults.add_at("scheduled_arrival", "value_error", msg);
            }
        }
        if !self.row.origin.is_empty() && self.row.origin == self.row.dest {
            faults.add_at("dest", "value_error", "Destination should not be the origin");
        }
        Flight { row: self.row, named_context: self.named_context }
    }
}

fn put<T>(slot: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *slot = value;
    }
}

fn code(
    value: &Scalar<'_>,
    lengths: std::ops::RangeInclusive<usize>,
    digits: bool,
    faults: &mut Faults,
) -> Option<String> {
    let Scalar::Text(text) = value else {
        faults.add("string_type", format!("Input should be a text, not {}", value.kind()));
        return None;
    };
    let sound = |byte: u8| byte.is_ascii_uppercase() || (digits && byte.is_ascii_digit());
    if lengths.contains(&text.len()) && text.bytes().all(sound) {
        return Some(text.as_ref().to_owned());
    }
    let (least, most) = (lengths.start(), lengths.end());
    let alphabet = if digits { "capital letters and digits" } else { "capital letters" };
    let shown: String = text.chars().take(20).collect();
    faults.add("string_pattern_mismatch", format!("Input should be {least} or {most} {alphabet}, not `{shown}`"));
    None
}

fn flight_number(value: &Scalar<'_>, faults: &mut Faults) -> Option<u32> {
    match value {
        Scalar::Integer(number @ 1..=9999) => u32::try_from(*number).ok(),
        Scalar::Integer(number) => {
            faults.add("value_error", format!("Input should be from 1 to 9999, not {number}"));
            None
        }
        other => {
            faults.add("int_type", format!("Input should be a whole number, not {}", other.kind()));
            None
        }
    }
}

fn moment(value: &Scalar<'_>, faults: &mut Faults) -> Option<DateTime<Utc>> {
    let Scalar::Text(text) = value else {
        faults.add("datetime_type", format!("Input should be a date and time as text, not {}", value.kind()));
        return None;
    };
    match DateTime::parse_from_rfc3339(text) {
        Ok(moment) if YEARS.contains(&chrono::Datelike::year(&moment)) => Some(moment.with_timezone(&Utc)),
        Ok(_) => {
            faults.add("value_error", format!("Year should be from {} to {}", YEARS.start(), YEARS.end()));
            None
        }
        Err(error) => {
            let msg =
                format!("Input should be a date and time with offset like 2013-03-05T15:00:00Z (RFC 3339): {error}");
            faults.add("datetime_parsing", msg);
            None
        }
    }
}

fn distance(value: &Scalar<'_>, faults: &mut Faults) -> Option<f32> {
    let miles = match value {
        Scalar::Integer(miles) => *miles as f64,
        Scalar::Number(miles) => *miles,
        other => {
            faults.add("float_type", format!("Input should be a number, not {}", other.kind()));
            return None;
        }
    };
    if miles > 0.0 && miles <= LONGEST_DISTANCE_MILES {
        return Some(miles as f32);
    }
    faults.add("value_error", format!("Input should be over 0 and at most {LONGEST_DISTANCE_MILES} miles"));
    None
}
