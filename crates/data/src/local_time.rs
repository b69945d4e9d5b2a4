//! From a clock on an airport's wall to an instant: airlines print local times
//! without a date for arrivals, and twice a year the clock jumps.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Days, LocalResult, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use delayd_features::Airport;

use super::error::DataError;

/// Time zones by airport code, parsed once.
#[derive(Debug, Clone, Default)]
pub struct TimeZones(HashMap<String, Tz>);

impl TimeZones {
    /// Parses the zone of every airport.
    ///
    /// # Errors
    /// When a name is not in the IANA database.
    pub fn of(airports: &BTreeMap<String, Airport>) -> Result<Self, DataError> {
        let mut zones = HashMap::with_capacity(airports.len());
        for (code, airport) in airports {
            let zone = airport.time_zone.parse::<Tz>().map_err(|_| DataError::UnknownTimeZone {
                airport: code.clone(),
                time_zone: airport.time_zone.clone(),
            })?;
            zones.insert(code.clone(), zone);
        }
        Ok(Self(zones))
    }

    /// The zone of an airport.
    #[must_use]
    pub fn get(&self, airport: &str) -> Option<Tz> {
        self.0.get(airport).copied()
    }

    /// Local time at an airport; UTC where the airport is not known.
    #[must_use]
    pub fn local(&self, airport: &str, moment: DateTime<Utc>) -> NaiveDateTime {
        self.get(airport).map_or(moment.naive_utc(), |zone| moment.with_timezone(&zone).naive_local())
    }

    /// The instants at which an airport's local day begins and ends.
    #[must_use]
    pub fn local_day(&self, airport: &str, moment: DateTime<Utc>) -> (DateTime<Utc>, DateTime<Utc>) {
        let zone = self.get(airport).unwrap_or(Tz::UTC);
        let day = moment.with_timezone(&zone).date_naive();
        let next = day.checked_add_days(Days::new(1)).unwrap_or(day);
        (instant(zone, day.and_time(NaiveTime::MIN)), instant(zone, next.and_time(NaiveTime::MIN)))
    }
}

/// Minutes since midnight of a clock reading such as `5`, `0830`, `2400`.
#[must_use]
pub(crate) fn minutes_of_hhmm(hhmm: u32) -> Option<u32> {
    let (hours, minutes) = (hhmm / 100, hhmm % 100);
    (hours * 60 + minutes <= 1440 && minutes < 60).then_some(hours * 60 + minutes)
}

/// The instant of a local date and time. Where the clock was put back and the
/// time comes twice, the first; where it was put forward and the time never
/// comes, the instant that the clock would have shown it without the jump.
#[must_use]
pub(crate) fn instant(zone: Tz, local: NaiveDateTime) -> DateTime<Utc> {
    match zone.from_local_datetime(&local) {
        LocalResult::Single(moment) => moment.to_utc(),
        LocalResult::Ambiguous(first, _) => first.to_utc(),
        LocalResult::None => {
            let before = local - TimeDelta::hours(3);
            match zone.from_local_datetime(&before).earliest() {
                Some(moment) => moment.to_utc() + TimeDelta::hours(3),
                None => local.and_utc(),
            }
        }
    }
}

/// The instant of a date and minutes since midnight; 1440 is the next midnight.
#[must_use]
pub(crate) fn instant_of_minutes(zone: Tz, date: NaiveDate, minutes: u32) -> DateTime<Utc> {
    instant(zone, date.and_time(NaiveTime::MIN) + TimeDelta::minutes(i64::from(minutes)))
}

/// The first instant after `after` at which the clock of `zone` shows `minutes`
/// since midnight.
#[must_use]
pub(crate) fn first_after(zone: Tz, after: DateTime<Utc>, minutes: u32) -> DateTime<Utc> {
    let date = after.with_timezone(&zone).date_naive();
    let start = date.checked_sub_days(Days::new(1)).unwrap_or(date);
    let mut earliest: Option<DateTime<Utc>> = None;
    for offset in 0..4 {
        let Some(day) = start.checked_add_days(Days::new(offset)) else { continue };
        let local = day.and_time(NaiveTime::MIN) + TimeDelta::minutes(i64::from(minutes % 1440));
        let candidates = match zone.from_local_datetime(&local) {
            LocalResult::Ambiguous(first, second) => [first.to_utc(), second.to_utc()],
            _ => [instant(zone, local); 2],
        };
        for candidate in candidates.into_iter().filter(|candidate| *candidate > after) {
            if earliest.is_none_or(|found| candidate < found) {
                earliest = Some(candidate);
            }
        }
        if earliest.is_some() {
            break;
        }
    }
    earliest.unwrap_or(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn midnight_may_be_written_2400_and_nonsense_is_refused() {
        assert_eq!(minutes_of_hhmm(2400), Some(1440));
        assert_eq!(minutes_of_hhmm(5), Some(5));
        assert_eq!(minutes_of_hhmm(1830), Some(1110));
        assert_eq!(minutes_of_hhmm(1860), None);
        assert_eq!(minutes_of_hhmm(2401), None);
    }

    #[test]
    fn an_arrival_is_the_first_such_time_after_departure_even_past_midnight() {
        let zone = Tz::America__New_York;
        assert_eq!(first_after(zone, utc("2013-01-02T03:09:00Z"), 1440), utc("2013-01-02T05:00:00Z"));
        assert_eq!(first_after(zone, utc("2013-01-02T03:09:00Z"), 5), utc("2013-01-02T05:05:00Z"));
        let los_angeles = Tz::America__Los_Angeles;
        assert_eq!(first_after(los_angeles, utc("2013-01-01T12:00:00Z"), 9 * 60), utc("2013-01-01T17:00:00Z"));
    }

    #[test]
    fn the_hour_that_never_comes_and_the_hour_that_comes_twice_have_an_instant() {
        let zone = Tz::America__New_York;
        let date = |text: &str| text.parse::<NaiveDate>().unwrap();
        assert_eq!(instant_of_minutes(zone, date("2013-03-10"), 150), utc("2013-03-10T07:30:00Z"));
        assert_eq!(instant_of_minutes(zone, date("2013-11-03"), 90), utc("2013-11-03T05:30:00Z"));
        // Departed in the first pass of the hour, arrives in the second.
        assert_eq!(first_after(zone, utc("2013-11-03T05:40:00Z"), 90), utc("2013-11-03T06:30:00Z"));
        assert_eq!(first_after(zone, utc("2013-03-10T05:00:00Z"), 200), utc("2013-03-10T07:20:00Z"));
    }

    #[test]
    fn the_local_day_of_a_clock_change_has_23_hours() {
        let airport = Airport {
            latitude_deg: 40.6,
            longitude_deg: -73.8,
            elevation_ft: 13.0,
            time_zone: "America/New_York".into(),
        };
        let zones = TimeZones::of(&BTreeMap::from([("JFK".to_owned(), airport)])).unwrap();
        let (from, until) = zones.local_day("JFK", utc("2013-03-10T15:00:00Z"));
        assert_eq!((until - from).num_hours(), 23);
    }
}
