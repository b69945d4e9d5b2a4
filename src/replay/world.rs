//! The world of a replay: a recorded year that is told to the loop little by
//! little, each fact when it became known.
//!
//! It plays the parts that are outside delayd: the airline that asks for
//! predictions, and the system that writes flight logs into the object store. It
//! deliberately has no way to tell the loop anything early: a day's log holds the
//! flights whose outcome was known on that day, and nothing else.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, Duration, NaiveDate, TimeZone, Utc};
use chrono_tz::Tz;

use delayd_data::{Example, FlightRecord};

/// When a flight's fate is on record.
#[must_use]
pub fn known_at(record: &FlightRecord) -> DateTime<Utc> {
    match record.arrived_at {
        Some(arrived) => arrived,
        // Cancelled or diverted: on record with the next day's log.
        None => record.scheduled_departure + Duration::days(1),
    }
}

/// The recorded year.
#[derive(Debug)]
pub struct World {
    records: Vec<FlightRecord>,
    /// Indexes into `records` by the UTC day on which the flight's fate was known.
    by_day: BTreeMap<NaiveDate, Vec<usize>>,
    /// What the airline asks, in the order of asking.
    questions: Vec<Example>,
    published_until: Option<NaiveDate>,
}

impl World {
    /// A world of records, with the questions the airline will ask.
    #[must_use]
    pub fn new(records: Vec<FlightRecord>, mut questions: Vec<Example>) -> Self {
        let mut by_day: BTreeMap<NaiveDate, Vec<usize>> = BTreeMap::new();
        for (index, record) in records.iter().enumerate() {
            by_day.entry(known_at(record).date_naive()).or_default().push(index);
        }
        questions.sort_by(|a, b| {
            let key = |example: &Example| {
                (example.prediction_time, example.row.scheduled_departure, example.row.flight_number)
            };
            key(a)
                .cmp(&key(b))
                .then_with(|| a.row.carrier.cmp(&b.row.carrier))
                .then_with(|| a.row.origin.cmp(&b.row.origin))
                .then_with(|| a.row.dest.cmp(&b.row.dest))
        });
        Self { records, by_day, questions, published_until: None }
    }

    /// Flights to ask about with a prediction time in `[from, until)`.
    #[must_use]
    pub fn questions(&self, from: DateTime<Utc>, until: DateTime<Utc>) -> &[Example] {
        let start = self.questions.partition_point(|example| example.prediction_time < from);
        let end = self.questions.partition_point(|example| example.prediction_time < until);
        &self.questions[start..end]
    }

    /// Every question, in order.
    #[must_use]
    pub fn all_questions(&self) -> &[Example] {
        &self.questions
    }

    /// The logs of all days that are over at `now` and were not told yet: key and
    /// CSV body, one object per day.
    ///
    /// # Errors
    /// When a row cannot be written as CSV.
    pub fn logs_until(&mut self, now: DateTime<Utc>) -> Result<Vec<(String, Bytes)>, csv::Error> {
        let today = now.date_naive();
        let start = self.published_until.unwrap_or(NaiveDate::MIN);
        let days: Vec<NaiveDate> = self.by_day.range(start..today).map(|(day, _)| *day).collect();
        let mut logs = Vec::with_capacity(days.len());
        for day in days {
            let indexes = self.by_day.get(&day).map(Vec::as_slice).unwrap_or_default();
            logs.push((format!("flights/{}.csv", day.format("%Y/%m/%d")), self.log(indexes)?));
        }
        self.published_until = Some(today);
        Ok(logs)
    }

    fn log(&self, indexes: &[usize]) -> Result<Bytes, csv::Error> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        for index in indexes {
            writer.serialize(&self.records[*index])?;
        }
        let body = writer.into_inner().map_err(|error| csv::Error::from(std::io::Error::other(error.to_string())))?;
        Ok(Bytes::from(body))
    }
}

/// Midnight at the start of a local day; where it is skipped by a change of the
/// clock, the first moment after.
#[must_use]
pub fn local_midnight(day: NaiveDate, zone: Tz) -> DateTime<Utc> {
    let midnight = day.and_time(chrono::NaiveTime::MIN);
    let later = midnight + Duration::hours(1);
    let local = zone.from_local_datetime(&midnight).earliest().or_else(|| zone.from_local_datetime(&later).earliest());
    local.map_or_else(|| Utc.from_utc_datetime(&midnight), |local| local.with_timezone(&Utc))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(departure: &str, arrived: Option<&str>) -> FlightRecord {
        FlightRecord {
            carrier: "B6".into(),
            flight_number: 1,
            origin: "JFK".into(),
            dest: "LAX".into(),
            scheduled_departure: departure.parse().unwrap(),
            scheduled_arrival: None,
            distance_miles: None,
            departed_at: None,
            arrived_at: arrived.map(|text| text.parse().unwrap()),
            arrival_delay_minutes: arrived.map(|_| 3),
            cancelled: arrived.is_none(),
            diverted: false,
        }
    }

    #[test]
    fn a_flight_is_told_only_after_the_day_on_which_its_fate_was_known() {
        let records = vec![
            record("2013-03-01T20:00:00Z", Some("2013-03-02T02:00:00Z")),
            record("2013-03-01T10:00:00Z", Some("2013-03-01T16:00:00Z")),
        ];
        let mut world = World::new(records, Vec::new());
        assert!(world.logs_until("2013-03-01T23:59:00Z".parse().unwrap()).unwrap().is_empty());
        let first = world.logs_until("2013-03-02T00:00:00Z".parse().unwrap()).unwrap();
        assert_eq!(first.len(), 1);
        assert_eq!(first[0].0, "flights/2013/03/01.csv");
        assert!(!String::from_utf8_lossy(&first[0].1).contains("2013-03-01T20:00:00Z"));
        let second = world.logs_until("2013-03-03T00:00:00Z".parse().unwrap()).unwrap();
        assert_eq!(second.len(), 1);
        assert!(world.logs_until("2013-03-03T05:00:00Z".parse().unwrap()).unwrap().is_empty());
    }

    #[test]
    fn a_cancelled_flight_is_told_a_day_later() {
        let mut world = World::new(vec![record("2013-03-01T20:00:00Z", None)], Vec::new());
        assert!(world.logs_until("2013-03-02T23:00:00Z".parse().unwrap()).unwrap().is_empty());
        assert_eq!(world.logs_until("2013-03-03T00:00:00Z".parse().unwrap()).unwrap().len(), 1);
    }

    #[test]
    fn a_new_york_day_begins_at_five_or_four_utc() {
        let zone: Tz = "America/New_York".parse().unwrap();
        let day = |text: &str| local_midnight(text.parse().unwrap(), zone).to_rfc3339();
        assert_eq!(day("2013-03-01"), "2013-03-01T05:00:00+00:00");
        assert_eq!(day("2013-07-01"), "2013-07-01T04:00:00+00:00");
    }
}
