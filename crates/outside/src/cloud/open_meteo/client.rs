//! The HTTP side: one request with its pace, deadline and attempts.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use tokio::time::Instant;

use super::answer::{self, Hour, Misread, UNITS, VARIABLES};
use super::pace::Pacer;
use super::plan::{Endpoint, Request};
use super::settings::OpenMeteoSettings;
use delayd_core::blocking;
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::http_client::{kind_of_status, read_limited, retry_after, transport_error};
use delayd_core::retry::{Deferred, RetryPolicy};

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
    /// # Errors
    /// When the CA file cannot be read.
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
            self.respect_silence(request.endpoint, &action)?;
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
            .map_err(|error| PortError::new(ErrorKind::Invalid, action, format!("{name} is no URL: {error}")))?;
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
                    let message = format!("the answer is no whole JSON document ({found}): {said}");
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
    fn respect_silence(&self, endpoint: Endpoint, action: &str) -> Result<(), Deferred> {
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
/// names the quota, and its counters begin anew with each full minute, hour and
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
