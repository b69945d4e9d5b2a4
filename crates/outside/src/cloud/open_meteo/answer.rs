//! Open-Meteo's hourly JSON: what is asked for, and how an answer is read and
//! checked. One place answers an object, several an array in the order asked.
//!
//! Units are stated in the request and checked in the answer: another unit is an
//! error, never converted on a guess.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveTime, Utc};
use serde::Deserialize;
use serde_json::error::Category;

use super::plan::{Place, Request};

/// The hourly variables with the unit each is asked for and must come in.
pub(super) const VARIABLES: [(&str, &str); 9] = [
    ("temperature_2m", "°C"),
    ("dew_point_2m", "°C"),
    ("relative_humidity_2m", "%"),
    ("wind_direction_10m", "°"),
    ("wind_speed_10m", "km/h"),
    ("wind_gusts_10m", "km/h"),
    ("precipitation", "mm"),
    ("pressure_msl", "hPa"),
    ("visibility", "m"),
];

/// The parameters that ask for those units and for moments in seconds since 1970.
pub(super) const UNITS: [(&str, &str); 5] = [
    ("temperature_unit", "celsius"),
    ("wind_speed_unit", "kmh"),
    ("precipitation_unit", "mm"),
    ("timezone", "GMT"),
    ("timeformat", "unixtime"),
];

/// How far the centre of an answer's grid cell may lie from the place asked for,
/// in degrees. The coarsest reanalysis has cells of half a degree, and a cell of
/// like elevation nearby may be chosen; further away it is another place.
const FARTHEST_CELL_DEG: f64 = 2.0;

/// One hour at one place: the variables in their order, in the API's units, `NaN`
/// where unknown.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Hour {
    pub(super) at: DateTime<Utc>,
    pub(super) values: [f32; VARIABLES.len()],
}

impl Hour {
    fn is_observed(&self) -> bool {
        self.values.iter().any(|value| !value.is_nan())
    }
}

/// Why an answer cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Misread {
    /// It is no JSON, or breaks off: something failed on the way.
    Broken(String),
    /// It is well-formed and not what was asked for.
    Unexpected(String),
}

/// What the API says when it refuses.
#[derive(Debug, Deserialize)]
struct Refusal {
    reason: String,
}

/// The reason in a refusal's body, `{"error":true,"reason":"…"}`.
pub(super) fn reason(body: &[u8]) -> Option<String> {
    serde_json::from_slice::<Refusal>(body).ok().map(|refusal| refusal.reason)
}

#[derive(Debug, Deserialize)]
struct PlaceAnswer {
    latitude: f64,
    longitude: f64,
    #[serde(default)]
    utc_offset_seconds: i64,
    hourly_units: BTreeMap<String, String>,
    hourly: Hourly,
}

#[derive(Debug, Deserialize)]
struct Hourly {
    time: Vec<i64>,
    #[serde(flatten)]
    variables: BTreeMap<String, Vec<Option<f32>>>,
}

/// Reads an answer: for each place in the order asked, the hours of which
/// anything is known.
pub(super) fn parse(body: &[u8], request: &Request) -> Result<Vec<Vec<Hour>>, Misread> {
    let answers = if body.trim_ascii_start().first() == Some(&b'[') {
        serde_json::from_slice::<Vec<PlaceAnswer>>(body)
    } else {
        serde_json::from_slice::<PlaceAnswer>(body).map(|one| vec![one])
    };
    let answers = answers.map_err(|error| match (error.classify(), reason(body)) {
        (_, Some(reason)) => Misread::Unexpected(format!("a refusal: {reason}")),
        (Category::Data, None) => Misread::Unexpected(format!("another structure ({error})")),
        (_, None) => Misread::Broken(error.to_string()),
    })?;
    if answers.len() != request.places.len() {
        return Err(Misread::Unexpected(format!("{} places; {} were asked for", answers.len(), request.places.len())));
    }
    answers.into_iter().zip(&request.places).map(|(answer, place)| answer.hours(*place, request)).collect()
}

impl PlaceAnswer {
    fn hours(mut self, place: Place, request: &Request) -> Result<Vec<Hour>, Misread> {
        self.check_place(place)?;
        self.check_units()?;
        let columns = self.columns()?;
        let from = request.first.and_time(NaiveTime::MIN).and_utc().timestamp();
        let until = request.last.and_time(NaiveTime::MIN).and_utc().timestamp() + 86_400;
        let mut hours = Vec::with_capacity(self.hourly.time.len());
        for (row, time) in self.hourly.time.iter().enumerate() {
            let inside = (from..until).contains(time) && time % 3600 == 0;
            let at = DateTime::from_timestamp(*time, 0).filter(|_| inside).ok_or_else(|| {
                Misread::Unexpected(format!("the moment {time}, which is not a full hour of the days asked for"))
            })?;
            let values = columns.each_ref().map(|column| column.get(row).copied().flatten().unwrap_or(f32::NAN));
            hours.push(Hour { at, values });
        }
        hours.retain(Hour::is_observed);
        Ok(hours)
    }

    fn check_place(&self, place: Place) -> Result<(), Misread> {
        let across = (self.longitude - place.longitude_deg()).abs();
        let along = (self.latitude - place.latitude_deg()).abs();
        // A cell beside the date line may have the other sign.
        if along > FARTHEST_CELL_DEG || across.min(360.0 - across) > FARTHEST_CELL_DEG {
            let found = format!("weather of {}, {} instead of {}", self.latitude, self.longitude, place.key());
            return Err(Misread::Unexpected(found));
        }
        Ok(())
    }

    fn check_units(&self) -> Result<(), Misread> {
        if self.utc_offset_seconds != 0 {
            let offset = self.utc_offset_seconds;
            return Err(Misread::Unexpected(format!("moments {offset} s off UTC; timezone=GMT was asked for")));
        }
        let wrong: Vec<String> = std::iter::once(("time", "unixtime"))
            .chain(VARIABLES)
            .filter_map(|(name, unit)| match self.hourly_units.get(name) {
                Some(found) if found == unit => None,
                found => Some(format!("{name} in {} instead of {unit}", found.map_or("no unit", String::as_str))),
            })
            .collect();
        if wrong.is_empty() { Ok(()) } else { Err(Misread::Unexpected(wrong.join(", "))) }
    }

    fn columns(&mut self) -> Result<[Vec<Option<f32>>; VARIABLES.len()], Misread> {
        let rows = self.hourly.time.len();
        let mut columns = [const { Vec::new() }; VARIABLES.len()];
        for (column, (name, _)) in columns.iter_mut().zip(VARIABLES) {
            let found = self.hourly.variables.remove(name).unwrap_or_default();
            if found.len() != rows {
                return Err(Misread::Unexpected(format!("{} values of {name} for {rows} hours", found.len())));
            }
            *column = found;
        }
        Ok(columns)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::plan::Endpoint;
    use super::*;

    const MIDNIGHT: i64 = 1_373_846_400; // 2013-07-15T00:00:00Z

    fn request(places: usize) -> Request {
        let places = (0..places).map(|n| Place::at(40.0 + n as f64, -74.0)).collect();
        let day = "2013-07-15".parse().unwrap();
        Request { endpoint: Endpoint::Archive, places, first: day, last: day }
    }

    fn answer(latitude: f64) -> Value {
        let mut units = json!({ "time": "unixtime" });
        let mut hourly = json!({ "time": [MIDNIGHT, MIDNIGHT + 3600, MIDNIGHT + 7200] });
        for (name, unit) in VARIABLES {
            units[name] = json!(unit);
            hourly[name] = json!([1.5, null, null]);
        }
        hourly["visibility"] = json!([1.5, null, 24_140.0]);
        json!({
            "latitude": latitude, "longitude": -74.125, "generationtime_ms": 0.1, "utc_offset_seconds": 0,
            "timezone": "GMT", "timezone_abbreviation": "GMT", "elevation": 3.0, "hourly_units": units, "hourly": hourly
        })
    }

    fn parsed(answer: &Value, places: usize) -> Result<Vec<Vec<Hour>>, Misread> {
        parse(answer.to_string().as_bytes(), &request(places))
    }

    #[test]
    fn one_place_is_an_object_and_several_are_an_array_in_the_order_asked() {
        let one = parsed(&answer(40.125), 1).unwrap();
        assert_eq!(one.len(), 1);
        let two = parsed(&json!([answer(40.125), answer(41.125)]), 2).unwrap();
        let moments = |hours: &[Hour]| hours.iter().map(|hour| hour.at).collect::<Vec<_>>();
        assert_eq!((two.len(), moments(&two[0])), (2, moments(&one[0])));
        assert!(matches!(parsed(&json!([answer(41.0), answer(44.0)]), 2), Err(Misread::Unexpected(_))));
        assert!(matches!(parsed(&answer(40.0), 2), Err(Misread::Unexpected(_))));
    }

    #[test]
    fn null_is_unknown_and_an_hour_of_which_nothing_is_known_is_none() {
        let hours = parsed(&answer(40.0), 1).unwrap().remove(0);
        assert_eq!(hours.len(), 2);
        assert_eq!((hours[0].at.timestamp(), hours[0].values[0]), (MIDNIGHT, 1.5));
        assert!(hours[1].values[0].is_nan() && hours[1].values[8] == 24_140.0);
    }

    #[test]
    fn another_unit_another_zone_and_a_short_column_are_told_by_name() {
        let mut fahrenheit = answer(40.0);
        fahrenheit["hourly_units"]["temperature_2m"] = json!("°F");
        fahrenheit["hourly_units"]["wind_speed_10m"] = json!("mp/h");
        let mut offset = answer(40.0);
        offset["utc_offset_seconds"] = json!(-14_400);
        let mut short = answer(40.0);
        short["hourly"]["precipitation"] = json!([0.0]);
        let mut missing = answer(40.0);
        missing["hourly"].as_object_mut().unwrap().remove("visibility");
        let mut other_day = answer(40.0);
        other_day["hourly"]["time"] = json!([MIDNIGHT - 3600, MIDNIGHT, MIDNIGHT + 3600]);
        for (answer, expected) in [
            (fahrenheit, "temperature_2m in °F instead of °C, wind_speed_10m in mp/h instead of km/h"),
            (offset, "moments -14400 s off UTC"),
            (short, "1 values of precipitation for 3 hours"),
            (missing, "0 values of visibility for 3 hours"),
            (other_day, "not a full hour of the days asked for"),
            (json!({ "error": true, "reason": "No data" }), "a refusal: No data"),
            (json!({ "hello": 1 }), "another structure"),
        ] {
            let Err(Misread::Unexpected(text)) = parsed(&answer, 1) else { panic!("{expected}: was taken") };
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn an_answer_that_breaks_off_is_broken_and_not_unexpected() {
        let whole = answer(40.0).to_string();
        let streamed = format!("{}Unexpected error while streaming data", &whole[..whole.len() / 2]);
        for body in [&whole[..whole.len() / 2], streamed.as_str(), "<html>gateway</html>", ""] {
            assert!(matches!(parse(body.as_bytes(), &request(1)), Err(Misread::Broken(_))), "{body}");
        }
    }
}
