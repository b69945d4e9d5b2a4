//! Answers by place, day and service, in the object store and, bounded, in memory.
//! An object holds one month of one place: `<prefix>archive/40.6398_-73.7789/2013-07.json`.
//!
//! A cache never makes a question fail: an object that cannot be read counts as
//! not there, and one that cannot be written is asked for again next time; both
//! are told in the log.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use chrono::{DateTime, Datelike, NaiveDate, TimeDelta, Utc};
use futures::StreamExt;
use serde::{Deserialize, Serialize};

use super::answer::{Hour, VARIABLES};
use super::plan::{Endpoint, Place};
use delayd_core::error::{ErrorKind, chain};
use delayd_core::ports::ObjectStore;

/// Format of the stored months.
const FORMAT: u32 = 1;
/// Objects read or written at a time.
const OBJECTS_AT_A_TIME: usize = 16;
/// Hours after its end in which a forecast's past day may still change: the
/// slowest of Open-Meteo's models is done with it twelve hours later (its issue 1232).
const FORECAST_SETTLES_HOURS: i64 = 12;

/// What is known of one day.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CachedDay {
    pub(super) fetched_at: DateTime<Utc>,
    /// Its hours up to that moment, oldest first.
    pub(super) hours: Vec<Hour>,
}

impl CachedDay {
    /// Whether it need not be asked for again: it will not change, or it was asked
    /// for less than `refresh` ago.
    pub(super) fn is_fresh(
        &self,
        endpoint: Endpoint,
        day: NaiveDate,
        now: DateTime<Utc>,
        refresh: TimeDelta,
        settle_days: u32,
    ) -> bool {
        let Some(end) = day.succ_opt() else { return true };
        let age = self.fetched_at - end.and_time(chrono::NaiveTime::MIN).and_utc();
        let complete = self.hours.len() >= 24;
        let settled = match endpoint {
            Endpoint::Archive => complete && age >= TimeDelta::zero(),
            Endpoint::Forecast => complete && age >= TimeDelta::hours(FORECAST_SETTLES_HOURS),
        };
        settled || age >= TimeDelta::days(i64::from(settle_days)) || now - self.fetched_at < refresh
    }
}

/// The days of one month that were asked for.
pub(super) type Month = BTreeMap<NaiveDate, CachedDay>;

/// Which month, where, from whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct MonthKey {
    endpoint: Endpoint,
    place: Place,
    year: i32,
    month: u32,
}

impl MonthKey {
    pub(super) fn of(endpoint: Endpoint, place: Place, day: NaiveDate) -> Self {
        Self { endpoint, place, year: day.year(), month: day.month() }
    }

    fn object(self, prefix: &str) -> String {
        let Self { endpoint, place, year, month } = self;
        format!("{prefix}{}/{}/{year:04}-{month:02}.json", endpoint.name(), place.key())
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredMonth {
    format: u32,
    days: BTreeMap<NaiveDate, StoredDay>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredDay {
    fetched_at: DateTime<Utc>,
    /// Seconds since 1970, and the variables in the API's units.
    hours: Vec<(i64, [Option<f32>; VARIABLES.len()])>,
}

fn to_bytes(month: &Month) -> Result<Bytes, serde_json::Error> {
    let known = |value: f32| (!value.is_nan()).then_some(value);
    let day = |cached: &CachedDay| StoredDay {
        fetched_at: cached.fetched_at,
        hours: cached.hours.iter().map(|hour| (hour.at.timestamp(), hour.values.map(known))).collect(),
    };
    let days = month.iter().map(|(date, cached)| (*date, day(cached))).collect();
    serde_json::to_vec(&StoredMonth { format: FORMAT, days }).map(Bytes::from)
}

fn from_bytes(body: &[u8]) -> Result<Month, String> {
    let stored: StoredMonth = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if stored.format != FORMAT {
        return Err(format!("format {}; this program reads {FORMAT}", stored.format));
    }
    let hour = |(secs, values): (i64, [Option<f32>; VARIABLES.len()])| {
        let at = DateTime::from_timestamp(secs, 0).ok_or_else(|| format!("the moment {secs}"))?;
        Ok(Hour { at, values: values.map(|value| value.unwrap_or(f32::NAN)) })
    };
    let day = |(date, stored): (NaiveDate, StoredDay)| {
        let hours = stored.hours.into_iter().map(hour).collect::<Result<_, String>>()?;
        Ok((date, CachedDay { fetched_at: stored.fetched_at, hours }))
    };
    stored.days.into_iter().map(day).collect()
}

/// The hours of one answer, and of another those that the first lacks: a service
/// that for a while tells less of the past than it did does not take it away.
pub(super) fn merged(mut hours: Vec<Hour>, others: &[Hour]) -> Vec<Hour> {
    let lacking: Vec<Hour> =
        others.iter().filter(|other| !hours.iter().any(|hour| hour.at == other.at)).cloned().collect();
    hours.extend(lacking);
    hours.sort_by_key(|hour| hour.at);
    hours
}

/// Months by when they were last used.
#[derive(Debug, Default)]
struct Memory {
    months: HashMap<MonthKey, (u64, Arc<Month>)>,
    uses: u64,
}

impl Memory {
    fn get(&mut self, key: MonthKey) -> Option<Arc<Month>> {
        self.uses += 1;
        let (used, month) = self.months.get_mut(&key)?;
        *used = self.uses;
        Some(month.clone())
    }

    fn insert(&mut self, key: MonthKey, month: Arc<Month>, most: usize) {
        self.uses += 1;
        self.months.insert(key, (self.uses, month));
        while self.months.len() > most.max(1) {
            let oldest = self.months.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| *key);
            let Some(oldest) = oldest else { return };
            self.months.remove(&oldest);
        }
    }
}

/// The cache.
#[derive(Debug)]
pub(super) struct Cache {
    store: Arc<dyn ObjectStore>,
    prefix: String,
    months_in_memory: usize,
    memory: Mutex<Memory>,
}

impl Cache {
    pub(super) fn new(store: Arc<dyn ObjectStore>, prefix: String, months_in_memory: usize) -> Self {
        Self { store, prefix, months_in_memory, memory: Mutex::default() }
    }

    /// One month; empty where nothing is kept.
    pub(super) async fn month(&self, key: MonthKey) -> Arc<Month> {
        if let Some(month) = self.memory().get(key) {
            return month;
        }
        let month = Arc::new(self.read(key).await);
        self.memory().insert(key, month.clone(), self.months_in_memory);
        month
    }

    pub(super) async fn months(&self, keys: impl IntoIterator<Item = MonthKey>) -> BTreeMap<MonthKey, Arc<Month>> {
        let reads = keys.into_iter().map(|key| async move { (key, self.month(key).await) });
        futures::stream::iter(reads).buffer_unordered(OBJECTS_AT_A_TIME).collect().await
    }

    /// Keeps days, and answers the whole months they belong to. One caller at a
    /// time: a month is read, changed and written.
    pub(super) async fn keep(&self, days: BTreeMap<MonthKey, Month>) -> BTreeMap<MonthKey, Arc<Month>> {
        let writes = days.into_iter().map(|(key, days)| async move {
            let mut month = Month::clone(self.month(key).await.as_ref());
            for (day, mut fetched) in days {
                if let Some(before) = month.remove(&day) {
                    fetched.hours = merged(fetched.hours, &before.hours);
                }
                month.insert(day, fetched);
            }
            let month = Arc::new(month);
            self.write(key, &month).await;
            self.memory().insert(key, month.clone(), self.months_in_memory);
            (key, month)
        });
        futures::stream::iter(writes).buffer_unordered(OBJECTS_AT_A_TIME).collect().await
    }

    async fn read(&self, key: MonthKey) -> Month {
        let object = key.object(&self.prefix);
        let body = match self.store.get(&object).await {
            Ok(body) => body,
            Err(error) if error.kind() == ErrorKind::NotFound => return Month::new(),
            Err(error) => {
                tracing::warn!(object.key = object, error = chain(&error), "cached weather cannot be read");
                return Month::new();
            }
        };
        from_bytes(&body).unwrap_or_else(|fault| {
            tracing::warn!(object.key = object, fault, "cached weather is damaged and is asked for again");
            Month::new()
        })
    }

    async fn write(&self, key: MonthKey, month: &Month) {
        let object = key.object(&self.prefix);
        let written = match to_bytes(month) {
            Ok(body) => self.store.put(&object, body).await.map_err(|error| chain(&error)),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = written {
            tracing::warn!(object.key = object, error, "weather cannot be cached");
        }
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn cached(fetched_at: &str, hours: usize) -> CachedDay {
        let hour = |n: usize| Hour { at: utc("2013-07-01T00:00:00Z") + TimeDelta::hours(n as i64), values: [1.0; 9] };
        CachedDay { fetched_at: utc(fetched_at), hours: (0..hours).map(hour).collect() }
    }

    #[test]
    fn a_day_is_asked_for_again_only_while_it_may_change() {
        let day = "2013-07-01".parse().unwrap();
        for (endpoint, fetched_at, hours, now, fresh, reason) in [
            (Endpoint::Archive, "2013-07-09T00:00:00Z", 24, "2013-08-09T00:00:00Z", true, "complete"),
            (Endpoint::Archive, "2013-07-09T00:00:00Z", 20, "2013-07-09T00:59:00Z", true, "asked a moment ago"),
            (Endpoint::Archive, "2013-07-09T00:00:00Z", 20, "2013-07-09T01:00:00Z", false, "hours are missing"),
            (
                Endpoint::Archive,
                "2013-08-01T00:00:00Z",
                20,
                "2014-08-09T00:00:00Z",
                true,
                "they will not come any more",
            ),
            (Endpoint::Forecast, "2013-07-01T20:00:00Z", 21, "2013-07-01T21:00:00Z", false, "the day went on"),
            (Endpoint::Forecast, "2013-07-02T11:00:00Z", 24, "2013-07-02T12:00:00Z", false, "models still run"),
            (Endpoint::Forecast, "2013-07-02T12:00:00Z", 24, "2013-07-05T12:00:00Z", true, "models are done"),
        ] {
            let found = cached(fetched_at, hours).is_fresh(endpoint, day, utc(now), TimeDelta::hours(1), 30);
            assert_eq!(found, fresh, "{reason}");
        }
    }

    #[test]
    fn a_month_reads_back_and_what_is_no_month_is_told() {
        let mut day = cached("2013-07-09T00:00:00Z", 2);
        day.hours[1].values[8] = f32::NAN;
        let month = Month::from([("2013-07-01".parse().unwrap(), day)]);
        let back = from_bytes(&to_bytes(&month).unwrap()).unwrap();
        let day = &back[&"2013-07-01".parse::<NaiveDate>().unwrap()];
        assert_eq!((day.hours.len(), day.hours[1].values[0]), (2, 1.0));
        assert!(day.hours[1].values[8].is_nan());
        assert!(from_bytes(b"{\"format\":2,\"days\":{}}").unwrap_err().contains("format 2"));
        assert!(from_bytes(b"{\"format\":1,\"da").is_err());
    }

    #[test]
    fn an_answer_adds_to_what_is_known_and_takes_nothing_away() {
        let hour =
            |n: i64, value: f32| Hour { at: utc("2013-07-01T00:00:00Z") + TimeDelta::hours(n), values: [value; 9] };
        let merged = merged(vec![hour(1, 2.0), hour(3, 2.0)], &[hour(0, 1.0), hour(1, 1.0), hour(2, 1.0)]);
        let told: Vec<f32> = merged.iter().map(|hour| hour.values[0]).collect();
        assert_eq!(told, [1.0, 2.0, 1.0, 2.0], "in order, and the newer value counts");
    }

    #[test]
    fn memory_forgets_the_month_that_was_not_used_for_longest() {
        let key = |month| MonthKey { endpoint: Endpoint::Archive, place: Place::at(1.0, 1.0), year: 2013, month };
        let mut memory = Memory::default();
        for month in 1..=2 {
            memory.insert(key(month), Arc::default(), 2);
        }
        assert!(memory.get(key(1)).is_some());
        memory.insert(key(3), Arc::default(), 2);
        assert!(memory.get(key(2)).is_none() && memory.get(key(1)).is_some() && memory.get(key(3)).is_some());
    }

    #[test]
    fn an_object_is_named_by_service_place_and_month() {
        let key = MonthKey::of(Endpoint::Archive, Place::at(40.639_751, -73.778_925), "2013-07-15".parse().unwrap());
        assert_eq!(key.object("weather-cache/"), "weather-cache/archive/40.6398_-73.7789/2013-07.json");
        delayd_core::ports::check_key("checking", &key.object("weather-cache/")).unwrap();
    }
}
