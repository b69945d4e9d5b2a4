//! The body of `POST /predict`: one flight, an array of flights, or
//! `{"flights": […]}`. It is read in one pass, straight into rows, and every
//! violation in it is reported.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::{ApiError, Faults, Place};
use crate::flight::{Flight, FlightDraft, Scalar};

/// Reads the flights of a body, at most `max_batch`.
pub(crate) fn read_flights(body: &[u8], max_batch: usize) -> Result<Vec<Flight>, ApiError> {
    let mut reading = Reading { faults: Faults::new(), flights: Vec::new(), max_batch };
    let mut json = serde_json::Deserializer::from_slice(body);
    Expected::Body(&mut reading).deserialize(&mut json).and_then(|()| json.end()).map_err(ApiError::BrokenJson)?;
    reading.faults.into_result()?;
    Ok(reading.flights)
}

struct Reading {
    faults: Faults,
    flights: Vec<Flight>,
    max_batch: usize,
}

impl Reading {
    fn at<R>(&mut self, place: impl Into<Place>, read: impl FnOnce(&mut Self) -> R) -> R {
        self.faults.enter(place);
        let result = read(self);
        self.faults.leave();
        result
    }

    /// Keeps a flight if no fault was noted since there were `before`.
    fn finish(&mut self, draft: FlightDraft, before: usize) {
        let flight = draft.finish(&mut self.faults);
        if self.faults.count() == before {
            self.flights.push(flight);
        }
    }
}

/// What is expected next. Of anything else a fault is noted, and reading continues.
enum Expected<'r> {
    Body(&'r mut Reading),
    /// The value of `flights`.
    Batch(&'r mut Reading),
    Flight(&'r mut Reading),
    Context(&'r mut FlightDraft, &'r mut Faults),
}

impl Expected<'_> {
    /// The violation's kind, and what the input should be.
    fn words(&self) -> (&'static str, &'static str) {
        match self {
            Self::Body(_) => ("model_type", "a flight, an array of flights, or {\"flights\": […]}"),
            Self::Batch(_) => ("list_type", "an array of flights"),
            Self::Flight(_) => ("model_type", "a flight"),
            Self::Context(..) => ("dict_type", "an object of numbers by name"),
        }
    }

    fn refuse(self, found: &str) {
        let (kind, expected) = self.words();
        let faults = match self {
            Self::Body(reading) | Self::Batch(reading) | Self::Flight(reading) => &mut reading.faults,
            Self::Context(_, faults) => faults,
        };
        faults.add(kind, format!("Input should be {expected}, not {found}"));
    }
}

impl<'de> DeserializeSeed<'de> for Expected<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Expected<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words().1)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.refuse("a boolean");
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.refuse("a number");
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.refuse("a number");
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.refuse("a number");
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.refuse("a text");
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        if !matches!(self, Self::Context(..)) {
            self.refuse("null");
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        match self {
            Self::Body(reading) | Self::Batch(reading) => read_batch(reading, items),
            other => {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                other.refuse("an array");
                Ok(())
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        match self {
            Self::Body(reading) => read_body(reading, entries),
            Self::Flight(reading) => {
                let mut draft = FlightDraft::new();
                let before = reading.faults.count();
                while let Some(Key(name)) = entries.next_key()? {
                    read_entry(&name, &mut entries, &mut draft, &mut reading.faults)?;
                }
                reading.finish(draft, before);
                Ok(())
            }
            Self::Context(draft, faults) => {
                while let Some(Key(name)) = entries.next_key()? {
                    let value: Scalar<'de> = entries.next_value()?;
                    draft.set_context(&name, &value, faults);
                }
                Ok(())
            }
            other => {
                while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                other.refuse("an object");
                Ok(())
            }
        }
    }
}

fn read_body<'de, A: MapAccess<'de>>(reading: &mut Reading, mut entries: A) -> Result<(), A::Error> {
    let mut draft = FlightDraft::new();
    let (mut batch, mut others) = (false, false);
    let before = reading.faults.count();
    while let Some(Key(name)) = entries.next_key()? {
        if name == "flights" {
            if batch {
                reading.faults.add_at("flights", "duplicate_field", "Field is given twice");
            }
            batch = true;
            reading.at("flights", |reading| entries.next_value_seed(Expected::Batch(reading)))?;
        } else {
            others = true;
            read_entry(&name, &mut entries, &mut draft, &mut reading.faults)?;
        }
    }
    if batch && others {
        reading.faults.add("extra_forbidden", "Beside `flights` no other field is permitted");
    } else if !batch {
        reading.finish(draft, before);
    }
    Ok(())
}

fn read_batch<'de, A: SeqAccess<'de>>(reading: &mut Reading, mut items: A) -> Result<(), A::Error> {
    let mut index = 0;
    while index < reading.max_batch {
        if reading.at(index, |reading| items.next_element_seed(Expected::Flight(reading)))?.is_none() {
            return Ok(());
        }
        index += 1;
    }
    while items.next_element::<IgnoredAny>()?.is_some() {
        index += 1;
    }
    if index > reading.max_batch {
        let msg = format!("Batch should have at most {} flights, not {index}", reading.max_batch);
        reading.faults.add("too_long", msg);
    }
    Ok(())
}

fn read_entry<'de, A: MapAccess<'de>>(
    name: &str,
    entries: &mut A,
    draft: &mut FlightDraft,
    faults: &mut Faults,
) -> Result<(), A::Error> {
    if name == "context" {
        faults.enter("context");
        let read = entries.next_value_seed(Expected::Context(draft, faults));
        faults.leave();
        return read;
    }
    let value: Scalar<'de> = entries.next_value()?;
    if !draft.set(name, &value, faults) {
        faults.add_at(name.to_owned(), "extra_forbidden", "Extra inputs are not permitted");
    }
    Ok(())
}

/// A field's name, borrowed from the body where it has no escapes.
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Violation;

    const FLIGHT: &str = r#"{"carrier":"B6","flight_number":23,"origin":"JFK","dest":"LAX","scheduled_departure":"2013-03-05T15:00:00Z"}"#;

    fn violations(body: &str) -> Vec<Violation> {
        match read_flights(body.as_bytes(), 3) {
            Err(ApiError::Invalid(violations)) => violations,
            other => panic!("expected violations, got {other:?}"),
        }
    }

    /// `body.3.origin missing`, one per violation.
    fn places(body: &str) -> Vec<String> {
        let place = |place: &Place| match place {
            Place::Name(name) => name.to_string(),
            Place::Index(index) => index.to_string(),
        };
        let line = |v: &Violation| format!("{} {}", v.loc.iter().map(place).collect::<Vec<_>>().join("."), v.kind);
        violations(body).iter().map(line).collect()
    }

    #[test]
    fn a_flight_alone_in_an_array_and_in_an_object_are_the_same() {
        let alone = read_flights(FLIGHT.as_bytes(), 3).unwrap();
        assert_eq!(alone.len(), 1);
        // As text: what is not known is NaN, which equals nothing.
        let alone = format!("{alone:?}");
        assert_eq!(alone, format!("{:?}", read_flights(format!("[{FLIGHT}]").as_bytes(), 3).unwrap()));
        let object = format!(r#"{{"flights":[{FLIGHT}]}}"#);
        assert_eq!(alone, format!("{:?}", read_flights(object.as_bytes(), 3).unwrap()));
        assert_eq!(read_flights(b"[]", 3).unwrap(), []);
    }

    #[test]
    fn every_violation_of_every_flight_is_told_with_its_place() {
        let body = format!(
            r#"[{FLIGHT}, {{"carrier":"b6","flight_number":0,"origin":7,"scheduled_departure":"yesterday",
        "scheduled_arrival":false,"distance_miles":-1,"colour":"red","context":{{"temperature_c":"warm",
        "departure_hour_local":3,"sunspots":1,"humidity_pct":1e300}}}}, 5]"#
        );
        let expected = [
            "body.1.carrier string_pattern_mismatch",
            "body.1.flight_number value_error",
            "body.1.origin string_type",
            "body.1.scheduled_departure datetime_parsing",
            "body.1.scheduled_arrival datetime_type",
            "body.1.distance_miles value_error",
            "body.1.colour extra_forbidden",
            "body.1.context.temperature_c float_type",
            "body.1.context.departure_hour_local extra_forbidden",
            "body.1.context.sunspots extra_forbidden",
            "body.1.context.humidity_pct finite_number",
            "body.1.dest missing",
            "body.2 model_type",
        ];
        assert_eq!(places(&body), expected);
    }

    #[test]
    fn places_inside_the_flights_object_name_it() {
        assert_eq!(places(r#"{"flights":[{}]}"#)[0], "body.flights.0.carrier missing");
        assert_eq!(places(r#"{"flights":{}}"#), ["body.flights list_type"]);
        assert_eq!(places(r#"{"flights":[],"carrier":"B6"}"#), ["body extra_forbidden"]);
        assert_eq!(places("null"), ["body model_type"]);
    }

    #[test]
    fn an_arrival_before_departure_or_after_a_day_and_a_round_trip_are_refused() {
        let with = |dest: &str, arrival: &str| {
            places(
                &FLIGHT
                    .replace("LAX", dest)
                    .replace('}', &format!(r#","scheduled_arrival":"2013-03-0{arrival}:00:00Z"}}"#)),
            )
        };
        assert_eq!(with("LAX", "5T14"), ["body.scheduled_arrival value_error"]);
        assert_eq!(with("LAX", "7T14"), ["body.scheduled_arrival value_error"]);
        assert_eq!(with("JFK", "5T16"), ["body.dest value_error"]);
        assert_eq!(places(&FLIGHT.replace("2013", "1066")), ["body.scheduled_departure value_error"]);
    }

    #[test]
    fn null_means_not_known_where_that_is_permitted_and_only_there() {
        let with = |more: &str| FLIGHT.replace('}', more);
        let known = with(r#","scheduled_arrival":null,"distance_miles":null,"context":{"temperature_c":null}}"#);
        let flights = read_flights(known.as_bytes(), 3).unwrap();
        assert_eq!(flights[0].row.scheduled_arrival, None);
        assert_eq!(flights[0].named_context.count_ones(), 1);
        assert!(read_flights(with(r#","context":null}"#).as_bytes(), 3).is_ok());
        assert_eq!(places(&FLIGHT.replace("\"B6\"", "null")), ["body.carrier string_type"]);
    }

    #[test]
    fn a_field_given_twice_is_refused() {
        assert_eq!(places(&FLIGHT.replace('}', r#","carrier":"AA"}"#)), ["body.carrier duplicate_field"]);
    }

    #[test]
    fn a_batch_over_the_limit_is_refused_with_its_length() {
        let found = violations(&format!("[{}]", [FLIGHT; 4].join(",")));
        assert_eq!((found.len(), &*found[0].kind), (1, "too_long"));
        assert!(found[0].msg.contains("at most 3 flights, not 4"), "{}", found[0].msg);
    }

    #[test]
    fn broken_json_is_told_with_line_and_column() {
        let Err(ApiError::BrokenJson(error)) = read_flights(b"[\n{\"carrier\": }]", 3) else { panic!("it is broken") };
        assert_eq!((error.line(), error.column()), (2, 13));
        assert!(matches!(read_flights(format!("{FLIGHT} x").as_bytes(), 3), Err(ApiError::BrokenJson(_))));
        assert!(matches!(read_flights(b"", 3), Err(ApiError::BrokenJson(_))));
        assert!(matches!(read_flights(b"[\"\xff\"]", 3), Err(ApiError::BrokenJson(_))));
        assert!(matches!(read_flights("[".repeat(5000).as_bytes(), 3), Err(ApiError::BrokenJson(_))));
    }

    #[test]
    fn a_small_request_cannot_cause_a_huge_answer() {
        let body = format!("{{{}}}", (0..3000).map(|n| format!("\"x{n}\":1")).collect::<Vec<_>>().join(","));
        let found = violations(&body);
        assert_eq!(found.len(), 1001);
        assert_eq!(found[1000].kind, "too_many_errors");
    }
}
