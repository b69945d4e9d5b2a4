//! Which requests answer a question, which is pure, so that splitting can be tested without a server; and when each may be
//! sent, to keep below the API's limit of calls per minute.
//!
//! Open-Meteo weighs a request: a place counts one call for up to ten variables over up to two weeks, and in proportion
//! beyond (`calculateQueryWeight` of its server, as of 2025; free use allows 600 a minute, 5,000 an hour, 10,000 a day).
//! Requests are spread evenly and never bunched, so that no minute, wherever it begins, holds more than the limit and one
//! request.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Which of the two services knows a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Endpoint {
    /// Reanalysis of the past.
    Archive,
    /// The forecast, whose past hours are the first hours of each model run.
    Forecast,
}

impl Endpoint {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Archive => "archive",
            Self::Forecast => "forecast",
        }
    }

    pub(super) fn other(self) -> Self {
        match self {
            Self::Archive => Self::Forecast,
            Self::Forecast => Self::Archive,
        }
    }

    /// Who knows `day` when the archive lags by so many days.
    pub(super) fn of(day: NaiveDate, today: NaiveDate, archive_lag_days: u32) -> Self {
        let archived_until = today.checked_sub_days(Days::new(u64::from(archive_lag_days))).unwrap_or(NaiveDate::MIN);
        if day <= archived_until { Self::Archive } else { Self::Forecast }
    }
}

/// A place, to the ten-thousandth of a degree (11 m), which is far below any grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    latitude: i32,
    longitude: i32,
}

impl Place {
    const PER_DEGREE: f64 = 10_000.0;

    pub(super) fn at(latitude_deg: f64, longitude_deg: f64) -> Self {
        let rounded = |degrees: f64| (degrees * Self::PER_DEGREE).round() as i32;
        Self { latitude: rounded(latitude_deg), longitude: rounded(longitude_deg) }
    }

    pub(super) fn latitude_deg(self) -> f64 {
        f64::from(self.latitude) / Self::PER_DEGREE
    }

    pub(super) fn longitude_deg(self) -> f64 {
        f64::from(self.longitude) / Self::PER_DEGREE
    }

    /// As a part of a key: `40.6398_-73.7789`.
    pub(super) fn key(self) -> String {
        format!("{:.4}_{:.4}", self.latitude_deg(), self.longitude_deg())
    }
}

/// One call of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) endpoint: Endpoint,
    pub(super) places: Vec<Place>,
    pub(super) first: NaiveDate,
    /// Inclusive.
    pub(super) last: NaiveDate,
}

impl Request {
    pub(super) fn days(&self) -> i64 {
        (self.last - self.first).num_days() + 1
    }

    pub(super) fn weight(&self, variables: usize) -> f64 {
        weight(self.places.len(), self.days(), variables)
    }
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (places, first, last) = (self.places.len(), self.first, self.last);
        let noun = if places == 1 { "place" } else { "places" };
        write!(f, "the {} of {places} {noun} from {first} to {last}", self.endpoint.name())
    }
}

/// The days (UTC) that `[from, until)` touches, none of them after `now`'s.
pub(super) fn days_between(from: DateTime<Utc>, until: DateTime<Utc>, now: DateTime<Utc>) -> Vec<NaiveDate> {
    let until = until.min(now + TimeDelta::nanoseconds(1));
    if from >= until {
        return Vec::new();
    }
    let last = (until - TimeDelta::nanoseconds(1)).date_naive();
    from.date_naive().iter_days().take_while(|day| *day <= last).collect()
}

/// Days that must be asked for, by who knows them and where.
pub(super) type Missing = BTreeMap<(Endpoint, Place), BTreeSet<NaiveDate>>;

/// The fewest calls for some days: consecutive days together, and places that
/// miss the same days together.
pub(super) fn requests(missing: &Missing, places_per_call: usize, days_per_call: u32) -> Vec<Request> {
    let mut together: BTreeMap<(Endpoint, NaiveDate, NaiveDate), Vec<Place>> = BTreeMap::new();
    for ((endpoint, place), days) in missing {
        for (first, last) in runs(days, days_per_call) {
            together.entry((*endpoint, first, last)).or_default().push(*place);
        }
    }
    let split = |((endpoint, first, last), places): ((Endpoint, NaiveDate, NaiveDate), Vec<Place>)| {
        let chunks = places.chunks(places_per_call.max(1)).map(<[Place]>::to_vec);
        chunks.map(|places| Request { endpoint, places, first, last }).collect::<Vec<_>>()
    };
    together.into_iter().flat_map(split).collect()
}

/// Consecutive days as (first, last), none longer than `longest`.
fn runs(days: &BTreeSet<NaiveDate>, longest: u32) -> Vec<(NaiveDate, NaiveDate)> {
    let mut runs: Vec<(NaiveDate, NaiveDate)> = Vec::new();
    for day in days {
        match runs.last_mut() {
            Some((first, last))
                if last.succ_opt() == Some(*day) && (*day - *first).num_days() < i64::from(longest.max(1)) =>
            {
                *last = *day;
            }
            _ => runs.push((*day, *day)),
        }
    }
    runs
}

/// Variables that weigh one call.
const VARIABLES_OF_A_CALL: f64 = 10.0;
/// Days that weigh one call.
const DAYS_OF_A_CALL: f64 = 14.0;

/// What a request counts for.
pub(super) fn weight(places: usize, days: i64, variables: usize) -> f64 {
    let variables = variables as f64 / VARIABLES_OF_A_CALL;
    let of_a_place = (variables * (days as f64 / DAYS_OF_A_CALL).max(1.0)).max(1.0);
    places as f64 * of_a_place
}

/// Gives every request its moment.
#[derive(Debug)]
pub(super) struct Pacer {
    per_call: Duration,
    /// When the next request may go; none was sent yet without.
    next: Mutex<Option<Instant>>,
}

impl Pacer {
    pub(super) fn new(calls_per_minute: u32) -> Self {
        Self { per_call: Duration::from_secs(60) / calls_per_minute.max(1), next: Mutex::new(None) }
    }

    /// Waits for the moment of a request of this weight.
    pub(super) async fn turn(&self, weight: f64) {
        let moment = {
            let mut next = self.next.lock().await;
            let (moment, then) = reserve(*next, Instant::now(), self.per_call.mul_f64(weight));
            *next = Some(then);
            moment
        };
        tokio::time::sleep_until(moment).await;
    }
}

/// The moment of a request that takes `cost` of the time, and that of the next one.
fn reserve(next: Option<Instant>, now: Instant, cost: Duration) -> (Instant, Instant) {
    let moment = next.map_or(now, |next| next.max(now));
    (moment, moment + cost)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn days(first: &str, count: usize) -> BTreeSet<NaiveDate> {
        day(first).iter_days().take(count).collect()
    }

    #[test]
    fn the_archive_knows_what_is_older_than_its_lag() {
        let today = day("2013-07-15");
        for (asked, lag, expected) in [
            ("2013-07-08", 7, Endpoint::Archive),
            ("2013-07-09", 7, Endpoint::Forecast),
            ("2013-07-15", 7, Endpoint::Forecast),
            ("2013-07-15", 0, Endpoint::Archive),
        ] {
            assert_eq!(Endpoint::of(day(asked), today, lag), expected, "{asked} with a lag of {lag}");
        }
    }

    #[test]
    fn days_are_those_the_window_touches_and_none_is_yet_to_come() {
        let now = utc("2013-07-03T10:00:00Z");
        for (from, until, expected) in [
            ("2013-07-01T23:59:59Z", "2013-07-02T00:00:00Z", vec!["2013-07-01"]),
            ("2013-07-01T23:00:00Z", "2013-07-02T00:00:01Z", vec!["2013-07-01", "2013-07-02"]),
            ("2013-07-03T00:00:00Z", "2013-07-09T00:00:00Z", vec!["2013-07-03"]),
            ("2013-07-04T00:00:00Z", "2013-07-09T00:00:00Z", vec![]),
            ("2013-07-02T00:00:00Z", "2013-07-02T00:00:00Z", vec![]),
        ] {
            let expected: Vec<NaiveDate> = expected.into_iter().map(day).collect();
            assert_eq!(days_between(utc(from), utc(until), now), expected, "{from} until {until}");
        }
    }

    #[test]
    fn requests_hold_no_more_places_and_days_than_allowed_and_cover_each_day_once() {
        let places: Vec<Place> = (0..5).map(|n| Place::at(f64::from(n), 0.0)).collect();
        let missing: Missing =
            places.iter().map(|place| ((Endpoint::Archive, *place), days("2013-01-01", 10))).collect();
        let requests = requests(&missing, 2, 4);
        assert_eq!(requests.len(), 9);
        assert!(requests.iter().all(|request| request.places.len() <= 2 && request.days() <= 4));
        let covered: i64 = requests.iter().map(|request| request.days() * request.places.len() as i64).sum();
        assert_eq!(covered, 50);
    }

    #[test]
    fn a_gap_splits_a_request_and_different_gaps_split_places() {
        let (a, b) = (Place::at(1.0, 1.0), Place::at(2.0, 2.0));
        let mut gap = days("2013-01-01", 3);
        gap.extend(days("2013-01-10", 2));
        let missing = Missing::from([
            ((Endpoint::Forecast, a), gap.clone()),
            ((Endpoint::Forecast, b), days("2013-01-10", 2)),
            ((Endpoint::Archive, b), days("2013-01-10", 2)),
        ]);
        let told: Vec<String> = requests(&missing, 50, 92).iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "the archive of 1 place from 2013-01-10 to 2013-01-11",
                "the forecast of 1 place from 2013-01-01 to 2013-01-03",
                "the forecast of 2 places from 2013-01-10 to 2013-01-11",
            ]
        );
    }

    #[test]
    fn a_place_reads_as_its_own_key() {
        let place = Place::at(40.639_751, -73.778_925);
        assert_eq!(place.key(), "40.6398_-73.7789");
        assert!((place.latitude_deg() - 40.6398).abs() < 1e-9);
    }
}

#[cfg(test)]
mod pace_tests {
    use super::*;

    #[test]
    fn a_request_weighs_what_open_meteo_says() {
        for (places, days, variables, expected, reason) in [
            (1, 1, 9, 1.0, "nothing is under one call"),
            (3, 14, 10, 3.0, "places add up"),
            (1, 14, 15, 1.5, "fifteen variables are one and a half calls"),
            (1, 28, 15, 3.0, "four weeks of them are three"),
            (2, 28, 5, 2.0, "few variables make up for many days"),
        ] {
            assert!((weight(places, days, variables) - expected).abs() < 1e-9, "{reason}");
        }
    }

    #[test]
    fn requests_are_spread_and_a_pause_is_not_saved_up() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let (first, next) = reserve(None, start, second * 2);
        assert_eq!((first, next), (start, start + second * 2));
        let (queued, next) = reserve(Some(next), start, second);
        assert_eq!((queued, next), (start + second * 2, start + second * 3));
        let later = start + second * 60;
        assert_eq!(reserve(Some(next), later, second), (later, later + second));
    }
}
