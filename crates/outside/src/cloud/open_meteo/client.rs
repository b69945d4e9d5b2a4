//! The HTTP side: `[weather.open_meteo]`, and one request with its pace, deadline and attempts.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::answer::{self, Hour, Misread, UNITS, VARIABLES};
use super::plan::{Endpoint, Pacer, Request};
use crate::cloud::Faults;
use delayd_core::blocking;
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::fault::Fault;
use delayd_core::http_client::{HttpClientSettings, kind_of_status, read_limited, retry_after, transport_error};
use delayd_core::retry::{Deferred, RetryPolicy};
use delayd_core::secret::Secret;

/// The longest answer in bytes for one place and day: 24 hours of nine numbers of
/// at most 20 characters, their moments and names, with room to spare.
const BYTES_OF_A_DAY: usize = 16 * 1024;
/// The longest refusal or head of an answer.
const BYTES_BESIDES: usize = 64 * 1024;
/// The longest part of an answer that goes into an error, in characters.
const EXCERPT_CHARS: usize = 300;

/// Asks the two services.
#[derive(Debug)]
pub(super) struct ApiClient {
    settings: OpenMeteoSettings,
    http: reqwest::Client,
    pacer: Pacer,
    /// Until when the archive and the forecast asked to be left alone.
    left_alone: [Mutex<Option<Instant>>; 2],
}

impl ApiClient {
    pub(super) fn new(settings: OpenMeteoSettings) -> Result<Self, PortError> {
        let http = settings.http.client("setting up the weather API's client")?;
        let pacer = Pacer::new(settings.calls_per_minute);
        Ok(Self { settings, http, pacer, left_alone: [const { Mutex::new(None) }; 2] })
    }

    /// The hours of each place, in the order of the request.
    ///
    /// # Errors
    /// What the last attempt failed with; no address and no key is in it.
    pub(super) async fn fetch(&self, request: &Request, now: DateTime<Utc>) -> Result<Vec<Vec<Hour>>, PortError> {
        let action = self.action(request);
        let policy = RetryPolicy {
            attempts: self.settings.attempts,
            base_delay: Duration::from_secs_f64(self.settings.retry_pause_secs),
            max_delay: Duration::from_secs_f64(self.settings.longest_pause_secs),
        };
        let attempt = || async {
            self.check_silence(request.endpoint, &action)?;
            self.pacer.turn(request.weight(VARIABLES.len())).await;
            let answer = self.once(request, &action, now).await;
            if let Err(Deferred { wait: Some(wait), .. }) = &answer
                && *wait > policy.max_delay
            {
                *self.left_alone(request.endpoint) = Some(Instant::now() + *wait);
            }
            answer
        };
        policy.run(attempt).await.map_err(|failed| failed.error)
    }

    pub(super) fn archive_lag_days(&self) -> u32 {
        self.settings.archive_lag_days
    }

    fn base(&self, endpoint: Endpoint) -> (&str, &'static str) {
        match endpoint {
            Endpoint::Archive => (&self.settings.archive_url, "weather.open_meteo.archive_url"),
            Endpoint::Forecast => (&self.settings.forecast_url, "weather.open_meteo.forecast_url"),
        }
    }

    fn action(&self, request: &Request) -> String {
        let (base, key) = self.base(request.endpoint);
        let url = reqwest::Url::parse(base).ok();
        let host = url.as_ref().and_then(reqwest::Url::host_str).unwrap_or("the weather API");
        format!("asking {host} ({key}) for {request}")
    }

    fn url(&self, request: &Request, action: &str, key: Option<&str>) -> Result<reqwest::Url, PortError> {
        let (base, name) = self.base(request.endpoint);
        let url = format!("{}/v1/{}", base.trim_end_matches('/'), request.endpoint.name());
        let mut url = reqwest::Url::parse(&url)
            .map_err(|error| PortError::new(ErrorKind::Invalid, action, format!("{name} is not a URL: {error}")))?;
        let of = |degrees: fn(super::plan::Place) -> f64| {
            let listed: Vec<String> = request.places.iter().map(|place| format!("{:.4}", degrees(*place))).collect();
            listed.join(",")
        };
        let variables: Vec<&str> = VARIABLES.iter().map(|(name, _)| *name).collect();
        url.query_pairs_mut()
            .append_pair("latitude", &of(super::plan::Place::latitude_deg))
            .append_pair("longitude", &of(super::plan::Place::longitude_deg))
            .append_pair("start_date", &request.first.to_string())
            .append_pair("end_date", &request.last.to_string())
            .append_pair("hourly", &variables.join(","))
            .extend_pairs(UNITS)
            .extend_pairs(key.map(|key| ("apikey", key)));
        Ok(url)
    }

    async fn once(&self, request: &Request, action: &str, now: DateTime<Utc>) -> Result<Vec<Vec<Hour>>, Deferred> {
        let key = &self.settings.api_key;
        let key = if key.is_set() { Some(key.reveal(action)?) } else { None };
        let url = self.url(request, action, key.as_deref())?;
        let deadline = Duration::from_secs(self.settings.request_timeout_secs);
        let sent = self.http.get(url).timeout(deadline).send().await;
        let response = sent.map_err(|error| transport_error(action, error))?;
        let (status, asked) = (response.status(), retry_after(&response));
        let limit = BYTES_BESIDES + request.places.len() * (BYTES_BESIDES + request.days() as usize * BYTES_OF_A_DAY);
        let body = read_limited(response, limit, action).await?;
        if !status.is_success() {
            return Err(refused(status, &body, asked, action, key.as_deref(), now));
        }
        let (request, action) = (request.clone(), action.to_owned());
        let read = blocking("reading a weather answer", move || {
            answer::parse(&body, &request).map_err(|misread| match misread {
                Misread::Broken(found) => {
                    let said = excerpt(&String::from_utf8_lossy(&body), key.as_deref());
                    let message = format!("the answer is not a whole JSON document ({found}): {said}");
                    PortError::new(ErrorKind::Unavailable, &action, message)
                }
                Misread::Unexpected(found) => {
                    let found = excerpt(&found, key.as_deref());
                    let message =
                        format!("answered {found}; expected Open-Meteo's hourly format in the units asked for");
                    PortError::new(ErrorKind::Invalid, &action, message)
                }
            })
        });
        Ok(read.await?)
    }

    /// While the API asked to be left alone it is not asked.
    fn check_silence(&self, endpoint: Endpoint, action: &str) -> Result<(), Deferred> {
        let left = self.left_alone(endpoint).and_then(|until| until.checked_duration_since(Instant::now()));
        match left.filter(|left| !left.is_zero()) {
            None => Ok(()),
            Some(left) => {
                let message = format!("not asked: the API asked to be left alone for another {} s", left.as_secs() + 1);
                let error = PortError::new(ErrorKind::Unavailable, action, message);
                // Nobody waits for the end of the silence within a request.
                Err(Deferred { error, wait: Some(Duration::MAX) })
            }
        }
    }

    fn left_alone(&self, endpoint: Endpoint) -> std::sync::MutexGuard<'_, Option<Instant>> {
        let [archive, forecast] = &self.left_alone;
        let of = if endpoint == Endpoint::Archive { archive } else { forecast };
        of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer that is a refusal. Open-Meteo tells of a wrong key with status 400.
fn refused(
    status: reqwest::StatusCode,
    body: &[u8],
    asked: Option<Duration>,
    action: &str,
    key: Option<&str>,
    now: DateTime<Utc>,
) -> Deferred {
    let reason = answer::reason(body).unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
    let of_key = status.as_u16() == 400 && reason.to_ascii_lowercase().contains("api key");
    let kind = if of_key { ErrorKind::Denied } else { kind_of_status(status.as_u16()) };
    let wait = if status.as_u16() == 429 { asked.or_else(|| quota_returns_in(&reason, now)) } else { asked };
    let mut message = format!("answered {status}");
    if !reason.is_empty() {
        message.push_str(": ");
        message.push_str(&excerpt(&reason, key));
    }
    if let Some(wait) = wait {
        message.push_str(&format!("; it may be asked again in {} s", wait.as_secs()));
    }
    if kind == ErrorKind::Denied {
        message.push_str("; check weather.open_meteo.api_key");
    }
    Deferred { error: PortError::new(kind, action, message), wait }
}

/// When a spent quota comes back. Open-Meteo sends no `Retry-After`: its reason
/// names the quota, and its counters start over with each full minute, hour and
/// day (UTC).
fn quota_returns_in(reason: &str, now: DateTime<Utc>) -> Option<Duration> {
    let period = match reason.split_whitespace().next()? {
        "Minutely" => TimeDelta::minutes(1),
        "Hourly" => TimeDelta::hours(1),
        "Daily" => TimeDelta::days(1),
        _ => return None,
    };
    let next = now.duration_trunc(period).ok()? + period;
    // One second more, because no two clocks agree.
    (next - now + TimeDelta::seconds(1)).to_std().ok()
}

/// The beginning of what the other side said, without our key should it be in it.
fn excerpt(text: &str, key: Option<&str>) -> String {
    let text = key.filter(|key| !key.is_empty()).map_or_else(|| text.to_owned(), |key| text.replace(key, "***"));
    text.chars().take(EXCERPT_CHARS).collect()
}

/// How a weather API in Open-Meteo's format is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OpenMeteoSettings {
    /// Base URL of `/v1/archive` (reanalysis of the past).
    pub archive_url: String,
    /// Base URL of `/v1/forecast` (the newest days).
    pub forecast_url: String,
    /// Key of a customer, sent as `apikey`; none for the free API.
    pub api_key: Secret,
    /// Days until a day is in the archive; younger days come from the forecast. 0 asks the archive for all.
    pub archive_lag_days: u32,
    /// Minutes after which a day that may still change is asked again.
    pub refresh_minutes: u32,
    /// Days after which an archived day with missing hours is taken as it is.
    pub settle_days: u32,
    /// Answers are kept under this prefix of the object store.
    pub cache_prefix: String,
    /// Months of one place that are kept in memory, at most.
    pub months_in_memory: usize,
    /// Places in one request.
    pub places_per_call: usize,
    /// Days in one request.
    pub days_per_call: u32,
    /// Calls per minute, counted as Open-Meteo counts them.
    pub calls_per_minute: u32,
    /// Requests at a time.
    pub concurrency: usize,
    /// Attempts of one request.
    pub attempts: u32,
    /// Seconds before the second attempt; doubled for each later one.
    pub retry_pause_secs: f64,
    /// No pause is longer; where the API asks for more (`Retry-After`), it is left alone and the request fails.
    pub longest_pause_secs: f64,
    /// Seconds until one answer must be complete.
    pub request_timeout_secs: u64,
    /// Connections.
    pub http: HttpClientSettings,
}

impl Default for OpenMeteoSettings {
    fn default() -> Self {
        Self {
            archive_url: "https://archive-api.open-meteo.com".to_owned(),
            forecast_url: "https://api.open-meteo.com".to_owned(),
            api_key: Secret::default(),
            archive_lag_days: 7,
            refresh_minutes: 60,
            settle_days: 30,
            cache_prefix: "weather-cache/".to_owned(),
            months_in_memory: 500,
            places_per_call: 50,
            days_per_call: 92,
            calls_per_minute: 500,
            concurrency: 4,
            attempts: 4,
            retry_pause_secs: 0.5,
            longest_pause_secs: 90.0,
            request_timeout_secs: 120,
            http: HttpClientSettings::default(),
        }
    }
}

impl OpenMeteoSettings {
    /// Every value that cannot be, by its key below `prefix`.
    #[must_use]
    pub fn faults(&self, prefix: &str) -> Vec<Fault> {
        let mut faults = Faults::of(prefix);
        for (key, url) in [("archive_url", &self.archive_url), ("forecast_url", &self.forecast_url)] {
            faults.check(is_base_url(url), key, "(not shown)", "an http or https URL without a query");
        }
        for (key, found, from, to) in [
            ("archive_lag_days", u64::from(self.archive_lag_days), 0, 90),
            ("refresh_minutes", u64::from(self.refresh_minutes), 1, 1440),
            ("settle_days", u64::from(self.settle_days), 1, 3650),
            ("months_in_memory", self.months_in_memory as u64, 1, 100_000),
            ("places_per_call", self.places_per_call as u64, 1, 500),
            ("days_per_call", u64::from(self.days_per_call), 1, 366),
            ("calls_per_minute", u64::from(self.calls_per_minute), 1, 1_000_000),
            ("concurrency", self.concurrency as u64, 1, 64),
            ("attempts", u64::from(self.attempts), 1, 20),
            ("request_timeout_secs", self.request_timeout_secs, 1, 3600),
        ] {
            faults.check((from..=to).contains(&found), key, found, &format!("{from} to {to}"));
        }
        for (key, secs) in
            [("retry_pause_secs", self.retry_pause_secs), ("longest_pause_secs", self.longest_pause_secs)]
        {
            faults.check((0.0..=3600.0).contains(&secs), key, secs, "seconds from 0 to 3600");
        }
        let prefix_fits = delayd_core::ports::check_prefix("checking", &self.cache_prefix).is_ok();
        faults.check(
            prefix_fits && self.cache_prefix.ends_with('/'),
            "cache_prefix",
            &self.cache_prefix,
            "a prefix that ends in /",
        );
        faults.found
    }
}

/// Without a query: what is asked is appended.
fn is_base_url(text: &str) -> bool {
    reqwest::Url::parse(text)
        .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spent_quota_comes_back_with_the_next_period() {
        let now = "2013-07-15T22:58:20Z".parse().unwrap();
        for (reason, secs) in [
            ("Minutely API request limit exceeded. Please try again in one minute.", Some(41)),
            ("Hourly API request limit exceeded. Please try again in the next hour.", Some(101)),
            ("Daily API request limit exceeded. Please try again tomorrow.", Some(3701)),
            ("Too many concurrent requests", None),
            ("", None),
        ] {
            assert_eq!(quota_returns_in(reason, now), secs.map(Duration::from_secs), "{reason}");
        }
    }

    #[test]
    fn a_wrong_key_is_told_as_such_whatever_the_status() {
        let now = "2013-07-15T22:58:20Z".parse().unwrap();
        let body = br#"{"error":true,"reason":"The supplied API key is invalid."}"#;
        let status = reqwest::StatusCode::BAD_REQUEST;
        let failed = refused(status, body, None, "asking", Some("k3y"), now);
        assert_eq!(failed.error.kind(), ErrorKind::Denied);
        assert!(failed.error.to_string().contains("weather.open_meteo.api_key"), "{}", failed.error);
        let other = br#"{"error":true,"reason":"Parameter 'end_date' is out of range for k3y"}"#;
        let failed = refused(status, other, None, "asking", Some("k3y"), now);
        assert_eq!(failed.error.kind(), ErrorKind::Invalid);
        assert!(failed.error.to_string().contains("range for ***"), "{}", failed.error);
    }
}

#[cfg(test)]
mod settings_tests {
    use super::*;

    #[test]
    fn the_defaults_can_be_used_and_every_wrong_value_is_told_by_its_key() {
        assert!(OpenMeteoSettings::default().faults("weather.open_meteo").is_empty());
        let wrong = OpenMeteoSettings {
            archive_url: "ftp://x".into(),
            forecast_url: "https://x/?a=b".into(),
            archive_lag_days: 91,
            refresh_minutes: 0,
            settle_days: 0,
            cache_prefix: "weather".into(),
            months_in_memory: 0,
            places_per_call: 0,
            days_per_call: 0,
            calls_per_minute: 0,
            concurrency: 0,
            attempts: 0,
            retry_pause_secs: f64::NAN,
            longest_pause_secs: -1.0,
            request_timeout_secs: 0,
            ..OpenMeteoSettings::default()
        };
        let faults = wrong.faults("weather.open_meteo");
        assert_eq!(faults.len(), 15, "{faults:?}");
        assert!(faults.iter().any(|fault| fault.key == "weather.open_meteo.days_per_call"));
    }
}
