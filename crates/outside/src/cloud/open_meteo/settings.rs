//! `[weather.open_meteo]`.

use serde::{Deserialize, Serialize};

use delayd_core::fault::Fault;
use delayd_core::http_client::HttpClientSettings;
use delayd_core::secret::Secret;

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
        let mut faults = Vec::new();
        let mut check = |holds: bool, key: &str, found: String, expected: &str| {
            if !holds {
                faults.push(Fault { key: format!("{prefix}.{key}"), found, expected: expected.to_owned() });
            }
        };
        for (key, url) in [("archive_url", &self.archive_url), ("forecast_url", &self.forecast_url)] {
            check(is_base_url(url), key, "not usable".to_owned(), "an http or https URL without a query");
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
            check((from..=to).contains(&found), key, found.to_string(), &format!("{from} to {to}"));
        }
        for (key, secs) in
            [("retry_pause_secs", self.retry_pause_secs), ("longest_pause_secs", self.longest_pause_secs)]
        {
            check((0.0..=3600.0).contains(&secs), key, secs.to_string(), "seconds from 0 to 3600");
        }
        let prefix_fits = delayd_core::ports::check_prefix("checking", &self.cache_prefix).is_ok();
        check(
            prefix_fits && self.cache_prefix.ends_with('/'),
            "cache_prefix",
            format!("`{}`", self.cache_prefix),
            "a prefix that ends in /",
        );
        faults
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
