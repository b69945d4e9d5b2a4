//! The body of `POST /predict`: one flight, an array of flights, or
//! `{"flights": […]}`. It is read in one pass, straight into rows, and every
//! violation in it is told.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::{ApiError, Faults};
use crate::flight::{Flight, FlightDraft, Scalar};

/// Reads the flights of a body, at most `max_batch`.
pub(crate) fn read_flights(body: &[u8], max_batch: usize) -> Result<Vec<Flight>, ApiError> {
    let mut reading = Reading { faults: Faults::new(), flights: Vec::new(), max_batch };
    let mut json = serde_json::Deserializer::from_slice(body);
    BodySeed(&mut reading).deserialize(&mut json).and_then(|()| json.end()).map_err(ApiError::BrokenJson)?;
    reading.faults.into_result()?;
    Ok(reading.flights)
}

struct Reading {
    faults: Faults,
    flights: Vec<Flight>,
    max_batch: usize,
}

/// The visitor methods for everything that is not what was wanted: a fault is
/// noted, and the reading goes on.
macro_rules! otherwise {
    ($kind:literal, $wanted:literal, $($what:ident),+) => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str($wanted)
        }
        $(otherwise!(@ $what, $kind, $wanted);)+
    };
    (@ scalars, $kind:literal, $wanted:literal) => {
        fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
            self.faults().add($kind, concat!("Input should be ", $wanted, ", not a boolean"));
            Ok(())
        }
        fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
            self.faults().add($kind, concat!("Input should be ", $wanted, ", not a number"));
            Ok(())
        }
        fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
            self.faults().add($kind, concat!("Input should be ", $wanted, ", not a number"));
            Ok(())
        }
        fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
            self.faults().add($kind, concat!("Input should be ", $wanted, ", not a number"));
            Ok(())
        }
        fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
            self.faults().add($kind, concat!("Input should be ", $wanted, ", not a text"));
            Ok(())
        }
    };
    (@ null, $kind:literal, $wanted:literal) => {
        fn visit_unit<E: Error>(self) -> Result<(), E> {
            self.faults().add($kind, concat!("Input should be ", $wanted, ", not null"));
            Ok(())
        }
    };
    (@ array, $kind:literal, $wanted:literal) => {
        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
            while items.next_element::<IgnoredAny>()?.is_some() {}
            self.faults().add($kind, concat!("Input should be ", $wanted, ", not an array"));
            Ok(())
        }
    };
    (@ object, $kind:literal, $wanted:literal) => {
        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
            while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            self.faults().add($kind, concat!("Input should be ", $wanted, ", not an object"));
            Ok(())
        }
    };
}

macro_rules! seed_of_any {
    ($seed:ident) => {
        impl<'de> DeserializeSeed<'de> for $seed<'_> {
            type Value = ();
            fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
                deserializer.deserialize_any(self)
            }
        }
    };
}

/// The whole body.
struct BodySeed<'r>(&'r mut Reading);
seed_of_any!(BodySeed);

impl<'r> BodySeed<'r> {
    fn faults(self) -> &'r mut Faults {
        &mut self.0.faults
    }
}

impl<'de> Visitor<'de> for BodySeed<'_> {
    type Value = ();
    otherwise!("model_type", "a flight, an array of flights, or {\"flights\": […]}", scalars, null);

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<(), A::Error> {
        read_batch(self.0, items)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut draft = FlightDraft::new();
        let (mut batch, mut others) = (false, false);
        let before = self.0.faults.count();
        while let Some(Key(name)) = entries.next_key()? {
            if name == "flights" {
                if batch {
                    self.0.faults.add_at("flights", "duplicate_field", "Field is given twice");
                }
                batch = true;
                self.0.within_flights(|reading| entries.next_value_seed(BatchSeed(reading)))?;
            } else {
                others = true;
                read_entry(&name, &mut entries, &mut draft, &mut self.0.faults)?;
            }
        }
        if batch && others {
            self.0.faults.add("extra_forbidden", "Beside `flights` no other field is permitted");
        } else if !batch {
            let flight = draft.finish(&mut self.0.faults);
            if self.0.faults.count() == before {
                self.0.flights.push(flight);
            }
        }
        Ok(())
    }
}

impl Reading {
    fn within_flights<R>(&mut self, read: impl FnOnce(&mut Self) -> R) -> R {
        self.at("flights", read)
    }

    fn at<R>(&mut self, place: impl Into<crate::error::Place>, read: impl FnOnce(&mut Self) -> R) -> R {
        self.faults.enter(place);
        let result = read(self);
        self.faults.leave();
        result
    }
}

/// The value of `flights`.
struct BatchSeed<'r>(&'r mut Reading);
seed_of_any!(BatchSeed);

impl<'r> BatchSeed<'r> {
    fn faults(self) -> &'r mut Faults {
        &mut self.0.faults
    }
}

impl<'de> Visitor<'de> for BatchSeed<'_> {
    type Value = ();
    otherwise!("list_type", "an array of flights", scalars, null, object);

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<(), A::Error> {
        read_batch(self.0, items)
    }
}

fn read_batch<'de, A: SeqAccess<'de>>(reading: &mut Reading, mut items: A) -> Result<(), A::Error> {
    let mut index = 0;
    while index < reading.max_batch {
        if reading.at(index, |reading| items.next_element_seed(FlightSeed(reading)))?.is_none() {
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

/// One flight of a batch.
struct FlightSeed<'r>(&'r mut Reading);
seed_of_any!(FlightSeed);

impl<'r> FlightSeed<'r> {
    fn faults(self) -> &'r mut Faults {
        &mut self.0.faults
    }
}

impl<'de> Visitor<'de> for FlightSeed<'_> {
    type Value = ();
    otherwise!("model_type", "a flight", scalars, null, array);

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut draft = FlightDraft::new();
        let before = self.0.faults.count();
        while let Some(Key(name)) = entries.next_key()? {
            read_entry(&name, &mut entries, &mut draft, &mut self.0.faults)?;
        }
        let flight = draft.finish(&mut self.0.faults);
        if self.0.faults.count() == before {
            self.0.flights.push(flight);
        }
        Ok(())
    }
}

fn read_entry<'de, A: MapAccess<'de>>(
    name: &str,
    entries: &mut A,
    draft: &mut FlightDraft,
    faults: &mut Faults,
) -> Result<(), A::Error> {
    if name == "context" {
        faults.enter("context");
        let read = entries.next_value_seed(ContextSeed(draft, faults));
        faults.leave();
        return read;
    }
    let value: Scalar<'de> = entries.next_value()?;
    if !draft.set(name, &value, faults) {
        faults.add_at(name.to_owned(), "extra_forbidden", "Extra inputs are not permitted");
    }
    Ok(())
}

/// The context of a flight.
struct ContextSeed<'r>(&'r mut FlightDraft, &'r mut Faults);
seed_of_any!(ContextSeed);

impl<'r> ContextSeed<'r> {
    fn faults(self) -> &'r mut Faults {
        self.1
    }
}

impl<'de> Visitor<'de> for ContextSeed<'_> {
    type Value = ();
    otherwise!("dict_type", "an object of numbers by name", scalars, array);

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(Key(name)) = entries.next_key()? {
            let value: Scalar<'de> = entries.next_value()?;
            self.0.set_context(&name, &value, self.1);
        }
        Ok(())
    }
}

/// A field's name, borrowed from the body where it has no escapes.
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Place, Violation};

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
