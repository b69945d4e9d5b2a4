//! Weather over HTTP from an API in Open-Meteo's format: the archive (reanalysis)
//! for the past, the forecast's past hours for the newest days.
//!
//! Honest time: an hour is answered only once it is over on the daemon's clock and
//! was fetched after it was over; `observed_at` is the hour's stamp, and when such
//! a stamp counts as known is the data stage's to say, as for any other source.
//! What the API foretells of hours yet to come is thrown away.
//!
//! It deliberately does not mix in other variables, models or units than those it
//! asks for, and it never invents an hour that the API does not tell.

mod answer;
mod cache;
mod client;
mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use futures::StreamExt;
use tokio::sync::Mutex;

pub use client::OpenMeteoSettings;

use self::answer::Hour;
use self::cache::{Cache, CachedDay, Month, MonthKey, merged};
use self::client::ApiClient;
use self::plan::{Endpoint, Missing, Place, Request, days_between, requests};
use delayd_core::clock::Clock;
use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::ports::{ObjectStore, WeatherAnswer, WeatherObservation, WeatherSource};
use delayd_data::reference::AirportTable;
use delayd_data::weather::drop_implausible;

/// A place that every weather API knows, for asking whether one answers: New
/// York's Kennedy airport.
const PROBED_PLACE: (f64, f64) = (40.6398, -73.7789);

/// Weather from the archive and the forecast.
#[derive(Debug)]
pub struct OpenMeteo {
    settings: OpenMeteoSettings,
    client: ApiClient,
    cache: Cache,
    airports: AirportTable,
    clock: Arc<dyn Clock>,
    /// Held while the API is asked, so that the same question is asked once.
    asking: Mutex<()>,
    /// Airports that were told to be unknown.
    told: std::sync::Mutex<BTreeSet<String>>,
}

impl OpenMeteo {
    /// A source that finds its places in `airports` and keeps answers in `store`.
    pub fn new(
        settings: OpenMeteoSettings,
        store: Arc<dyn ObjectStore>,
        airports: AirportTable,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, PortError> {
        let client = ApiClient::new(settings.clone())?;
        let cache = Cache::new(store, settings.cache_prefix.clone(), settings.months_in_memory);
        Ok(Self {
            settings,
            client,
            cache,
            airports,
            clock,
            asking: Mutex::default(),
            told: std::sync::Mutex::default(),
        })
    }

    /// Whether the API answers as expected: the question of [`WeatherSource::probe`],
    /// for which no store is needed.
    pub async fn probe_api(settings: &OpenMeteoSettings, now: DateTime<Utc>) -> Result<String, PortError> {
        ApiClient::new(OpenMeteoSettings { attempts: 1, ..settings.clone() })?.probe(now).await
    }

    /// The position of every airport that has one.
    async fn places(&self, airports: &[String]) -> Result<BTreeMap<String, Place>, PortError> {
        let table = self.airports.read().await.map_err(|error| {
            PortError::new(error.kind(), "finding the places to ask the weather for", chain(&error))
        })?;
        let mut places = BTreeMap::new();
        for code in airports {
            match table.get(code) {
                Some(airport) => {
                    places.insert(code.clone(), Place::at(airport.latitude_deg, airport.longitude_deg));
                }
                None => self.warn_unknown(code),
            }
        }
        Ok(places)
    }

    fn warn_unknown(&self, code: &str) {
        if self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(code.to_owned()) {
            tracing::warn!(airport = code, "the airport is in no reference data: it has no weather");
        }
    }

    async fn answer(
        &self,
        airports: &[String],
        from: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<WeatherAnswer, PortError> {
        let now = self.clock.now();
        let question = Question { days: days_between(from, until, now), places: BTreeMap::new(), from, until, now };
        if question.days.is_empty() || airports.is_empty() {
            return Ok(WeatherAnswer::default());
        }
        let question = Question { places: self.places(airports).await?, ..question };
        let mut months = self.cache.months(self.months_of(&question)).await;
        let mut failures = Vec::new();
        if !self.missing(&question, &months).is_empty() {
            let _asking = self.asking.lock().await;
            // Somebody else may have asked while this question waited.
            months = self.cache.months(self.months_of(&question)).await;
            let missing = self.missing(&question, &months);
            let (fetched, failed) = self.ask(missing, now).await;
            months.extend(fetched);
            failures = failed;
        }
        let observations = self.observations_of(&question, &months).await;
        Ok(WeatherAnswer { observations, failures })
    }

    fn endpoint(&self, question: &Question, day: NaiveDate) -> Endpoint {
        Endpoint::of(day, question.now.date_naive(), self.settings.archive_lag_days)
    }

    fn months_of(&self, question: &Question) -> BTreeSet<MonthKey> {
        let of = |place: &Place| {
            let place = *place;
            question.days.iter().map(move |day| MonthKey::of(self.endpoint(question, *day), place, *day))
        };
        question.places.values().flat_map(of).collect()
    }

    /// The days that must be asked for.
    fn missing(&self, question: &Question, months: &BTreeMap<MonthKey, Arc<Month>>) -> Missing {
        let refresh = TimeDelta::minutes(i64::from(self.settings.refresh_minutes));
        let mut missing = Missing::new();
        for place in question.places.values() {
            for day in &question.days {
                let endpoint = self.endpoint(question, *day);
                let kept = months.get(&MonthKey::of(endpoint, *place, *day)).and_then(|month| month.get(day));
                let settle_days = self.settings.settle_days;
                if !kept.is_some_and(|kept| kept.is_fresh(endpoint, *day, question.now, refresh, settle_days)) {
                    missing.entry((endpoint, *place)).or_default().insert(*day);
                }
            }
        }
        missing
    }

    /// Asks for days. Answers the months that changed, and every failure; after
    /// one that will meet the next request too, that service is not asked further.
    async fn ask(&self, missing: Missing, now: DateTime<Utc>) -> (BTreeMap<MonthKey, Arc<Month>>, Vec<PortError>) {
        let requests = requests(&missing, self.settings.places_per_call, self.settings.days_per_call);
        let gave_up = [const { AtomicUsize::new(0) }; 2];
        let gave_up = |endpoint: Endpoint| if endpoint == Endpoint::Archive { &gave_up[0] } else { &gave_up[1] };
        let calls = requests.into_iter().map(|request| async {
            // The count is 1 after the failure, and one more for each request left out.
            let of_service = gave_up(request.endpoint);
            let left_out = of_service.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| (n > 0).then_some(n + 1));
            if left_out.is_ok() {
                return None;
            }
            let result = self.client.fetch(&request, now).await;
            if result.as_ref().is_err_and(|error| concerns_all(error.kind())) {
                // Several requests at a time may find out.
                let _ = of_service.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst);
            }
            Some((request, result))
        });
        let mut calls = futures::stream::iter(calls).buffer_unordered(self.settings.concurrency);
        let (mut months, mut failures) = (BTreeMap::new(), Vec::new());
        while let Some(done) = calls.next().await {
            match done {
                Some((request, Ok(places))) => months.extend(self.cache.keep(by_month(&request, places, now)).await),
                Some((_, Err(error))) => failures.push(error),
                None => {}
            }
        }
        drop(calls);
        for endpoint in [Endpoint::Archive, Endpoint::Forecast] {
            let left_out = gave_up(endpoint).load(Ordering::SeqCst).saturating_sub(1);
            if left_out > 0 {
                let action = format!("asking the weather API's {}", endpoint.name());
                let message = format!("{left_out} further requests were left out after the failure");
                failures.push(PortError::new(ErrorKind::Unavailable, action, message));
            }
        }
        (months, failures)
    }

    /// What the months tell of the question. Hours that the service which should know
    /// a day does not tell are those that the other one told of it before.
    async fn observations_of(
        &self,
        question: &Question,
        months: &BTreeMap<MonthKey, Arc<Month>>,
    ) -> Vec<WeatherObservation> {
        let mut observations = Vec::new();
        for (code, place) in &question.places {
            for day in &question.days {
                let endpoint = self.endpoint(question, *day);
                let kept = months.get(&MonthKey::of(endpoint, *place, *day)).and_then(|month| month.get(day));
                let mut hours = kept.map(|kept| kept.hours.clone()).unwrap_or_default();
                if hours.len() < 24 {
                    let other = self.cache.month(MonthKey::of(endpoint.other(), *place, *day)).await;
                    if let Some(told_before) = other.get(day) {
                        hours = merged(hours, &told_before.hours);
                    }
                }
                let inside = hours.iter().filter(|hour| hour.at >= question.from && hour.at < question.until);
                observations.extend(inside.map(|hour| observation(code, hour)));
            }
        }
        observations
    }
}

/// What is asked, cut to what can be known.
struct Question {
    /// Sorted by airport, which sorts the answer.
    places: BTreeMap<String, Place>,
    days: Vec<NaiveDate>,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
    now: DateTime<Utc>,
}

/// Whether a failure of one request will meet the next one too.
fn concerns_all(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Denied | ErrorKind::NotFound)
}

/// An answer as days for the cache: every day that was asked for, also one of
/// which nothing is known, and no hour that is yet to come.
fn by_month(request: &Request, places: Vec<Vec<Hour>>, now: DateTime<Utc>) -> BTreeMap<MonthKey, Month> {
    let mut months: BTreeMap<MonthKey, Month> = BTreeMap::new();
    for (place, mut hours) in request.places.iter().zip(places) {
        hours.retain(|hour| hour.at <= now);
        hours.sort_by_key(|hour| hour.at);
        for day in request.first.iter_days().take_while(|day| *day <= request.last) {
            let hours = hours.iter().filter(|hour| hour.at.date_naive() == day).cloned().collect();
            let key = MonthKey::of(request.endpoint, *place, day);
            months.entry(key).or_default().insert(day, CachedDay { fetched_at: now, hours });
        }
    }
    months
}

fn observation(code: &str, hour: &Hour) -> WeatherObservation {
    let [
        temperature_c,
        dew_point_c,
        humidity_pct,
        wind_direction_deg,
        wind_speed_kmh,
        wind_gust_kmh,
        precipitation_mm,
        pressure_hpa,
        visibility_m,
    ] = hour.values;
    let mut observation = WeatherObservation {
        airport: code.to_owned(),
        observed_at: hour.at,
        temperature_c,
        dew_point_c,
        humidity_pct,
        wind_direction_deg,
        wind_speed_kmh,
        wind_gust_kmh,
        precipitation_mm,
        pressure_hpa,
        visibility_km: visibility_m / 1000.0,
    };
    let dropped = drop_implausible(&mut observation);
    if !dropped.is_empty() {
        tracing::debug!(airport = code, at = %hour.at, ?dropped, "values that no weather can have were left out");
    }
    observation
}

impl ApiClient {
    /// One tiny request to each service that is used; nothing is kept.
    async fn probe(&self, now: DateTime<Utc>) -> Result<String, PortError> {
        let today = now.date_naive();
        let lag = self.archive_lag_days();
        let archived = today.checked_sub_days(Days::new(u64::from(lag) + 1)).unwrap_or(today);
        let mut told = Vec::new();
        for (endpoint, day) in [(Endpoint::Archive, archived), (Endpoint::Forecast, today)] {
            if endpoint == Endpoint::Forecast && lag == 0 {
                continue;
            }
            let (latitude, longitude) = PROBED_PLACE;
            let places = vec![Place::at(latitude, longitude)];
            let request = Request { endpoint, places, first: day, last: day };
            let hours = self.fetch(&request, now).await?.iter().map(Vec::len).sum::<usize>();
            told.push(format!("{} answers ({hours} hours of {day})", endpoint.name()));
        }
        Ok(told.join(", "))
    }
}

#[async_trait]
impl WeatherSource for OpenMeteo {
    async fn observations(
        &self,
        airports: &[String],
        from: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<Vec<WeatherObservation>, PortError> {
        let WeatherAnswer { observations, failures } = self.answer(airports, from, until).await?;
        // An outage says that it is worth waiting, whatever else went wrong.
        match failures.into_iter().max_by_key(|failure| failure.kind().is_outage()) {
            None => Ok(observations),
            Some(failure) => Err(failure),
        }
    }

    async fn available(&self, airports: &[String], from: DateTime<Utc>, until: DateTime<Utc>) -> WeatherAnswer {
        let failed = |failure| WeatherAnswer { observations: Vec::new(), failures: vec![failure] };
        self.answer(airports, from, until).await.unwrap_or_else(failed)
    }

    async fn probe(&self) -> Result<String, PortError> {
        Self::probe_api(&self.settings, self.clock.now()).await
    }
}
