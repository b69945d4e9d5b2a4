//! Where data come from: objects by key, documents that others keep, weather observations by airport.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, PortError};
use crate::ids::InvalidId;

/// One object of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectMeta {
    /// The key, `/`-separated, relative to the store's root.
    pub key: String,
    pub size_bytes: u64,
    pub last_modified: DateTime<Utc>,
}

/// A store of immutable objects. Keys never contain `..`, a leading `/` or an empty part.
///
/// Contract (the suite in `crates/testkit/src/contracts/object_store.rs` runs it on every adapter):
/// a `put` is atomic and leaves either the old or the new object, so that it may be repeated; `get` of a missing key is
/// `NotFound`; `list` is sorted by key and never shows half-written objects. There is no write under a condition: keys
/// name their content, or belong to one writer.
#[async_trait]
pub trait ObjectStore: Send + Sync + std::fmt::Debug {
    /// Every object whose key starts with `prefix`, sorted by key.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, PortError>;
    async fn get(&self, key: &str) -> Result<Bytes, PortError>;
    async fn put(&self, key: &str, body: Bytes) -> Result<(), PortError>;
    /// Removes an object; one that is not there is no error.
    async fn delete(&self, key: &str) -> Result<(), PortError>;
    /// Whether the store can be reached and lets us in. Changes nothing; answers
    /// with one line about what is there.
    async fn probe(&self) -> Result<String, PortError>;
}

#[async_trait]
impl<S: ObjectStore + ?Sized> ObjectStore for Arc<S> {
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, PortError> {
        self.as_ref().list(prefix).await
    }

    async fn get(&self, key: &str) -> Result<Bytes, PortError> {
        self.as_ref().get(key).await
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<(), PortError> {
        self.as_ref().put(key, body).await
    }

    async fn delete(&self, key: &str) -> Result<(), PortError> {
        self.as_ref().delete(key).await
    }

    async fn probe(&self) -> Result<String, PortError> {
        self.as_ref().probe().await
    }
}

/// Longest key in bytes: S3's limit, so that what one store takes every store takes.
const MAX_KEY_BYTES: usize = 1024;

/// Refuses an invalid key: empty, too long, absolute, with `.`, `..` or an empty
/// part, or with a control character or backslash. `action` goes into the error.
pub fn check_key(action: &str, key: &str) -> Result<(), PortError> {
    let fault = if key.is_empty() {
        "is empty"
    } else if key.len() > MAX_KEY_BYTES {
        "is longer than 1024 bytes"
    } else if key.chars().any(|c| c.is_control() || c == '\\') {
        "contains a control character or a backslash"
    } else if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
        "is absolute or has a part that is empty, `.` or `..`"
    } else {
        return Ok(());
    };
    let message = format!("key {key:?} {fault}; keys look like `flights/2013-01-01.csv`");
    Err(PortError::new(ErrorKind::Invalid, action, message))
}

/// Refuses what cannot be the prefix of a key; the empty prefix and one that ends in `/` are fine.
pub fn check_prefix(action: &str, prefix: &str) -> Result<(), PortError> {
    match prefix.strip_suffix('/').unwrap_or(prefix) {
        "" if prefix.is_empty() => Ok(()),
        key => check_key(action, key),
    }
}

/// What distinguishes one version of a document from another (RFC 9110, 8.8); sent back
/// with the next question, so that an unchanged document is not sent again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Validators {
    /// The `ETag` header.
    pub etag: Option<String>,
    /// The `Last-Modified` header.
    pub last_modified: Option<String>,
}

/// The answer to a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchedDocument {
    /// It is the version that the validators name.
    Unchanged,
    /// A version, whole.
    Changed {
        body: Bytes,
        /// Sent back with the next fetch.
        validators: Validators,
    },
}

/// A document by its address.
///
/// Contract: an answer is the whole document or an error, never a part of it;
/// one that is unavailable is `Unavailable` or `Timeout`; one that is larger than its
/// bound is `Invalid`; the address, which may be a secret, is in no text.
#[async_trait]
pub trait DocumentSource: Send + Sync + std::fmt::Debug {
    /// The document, unless it still is the version that `known` names.
    async fn fetch(&self, known: &Validators) -> Result<FetchedDocument, PortError>;
    /// Whether the document can be reached and we may read it. Changes nothing;
    /// answers with one line about what is there.
    async fn probe(&self) -> Result<String, PortError>;
}

/// What a piece of reference data tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReferenceKind {
    /// Where airports are and what their clocks show.
    Airports,
    /// Holidays beyond the computed ones.
    Holidays,
    /// Events.
    Events,
}

impl ReferenceKind {
    /// Its name, as it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Airports => "airports",
            Self::Holidays => "holidays",
            Self::Events => "events",
        }
    }
}

impl std::fmt::Display for ReferenceKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for ReferenceKind {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let all = [Self::Airports, Self::Holidays, Self::Events];
        all.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| InvalidId {
            given: text.to_owned(),
            expected: "kind of reference data: airports, holidays or events",
        })
    }
}

/// One observation. A number that was not observed is `NaN`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WeatherObservation {
    pub airport: String,
    /// When it was observed, or published where it is a forecast.
    pub observed_at: DateTime<Utc>,
    pub temperature_c: f32,
    pub dew_point_c: f32,
    pub humidity_pct: f32,
    /// Direction from which the wind blows, degrees from north.
    pub wind_direction_deg: f32,
    pub wind_speed_kmh: f32,
    pub wind_gust_kmh: f32,
    /// Precipitation of the last hour in mm.
    pub precipitation_mm: f32,
    pub pressure_hpa: f32,
    pub visibility_km: f32,
}

impl WeatherObservation {
    /// An observation in which nothing was observed yet.
    pub fn missing(airport: impl Into<String>, observed_at: DateTime<Utc>) -> Self {
        Self {
            airport: airport.into(),
            observed_at,
            temperature_c: f32::NAN,
            dew_point_c: f32::NAN,
            humidity_pct: f32::NAN,
            wind_direction_deg: f32::NAN,
            wind_speed_kmh: f32::NAN,
            wind_gust_kmh: f32::NAN,
            precipitation_mm: f32::NAN,
            pressure_hpa: f32::NAN,
            visibility_km: f32::NAN,
        }
    }
}

/// What a source could answer while a part of it may be unavailable.
#[derive(Debug, Default)]
pub struct WeatherAnswer {
    /// The observations there are, sorted by airport and time.
    pub observations: Vec<WeatherObservation>,
    /// Why the others are not there; empty when the source answered all it knows.
    pub failures: Vec<PortError>,
}

/// Where observations come from.
///
/// Contract (the suite in `crates/testkit/src/contracts/weather.rs` runs it on every adapter):
/// answers every observation with `from <= observed_at < until` at the airports
/// asked for, sorted by airport and time, one per airport and moment; an airport
/// it does not know is no error and has none; an outage is `Unavailable` or
/// `Timeout`. A source that knows the present moment answers nothing that is yet
/// to come.
#[async_trait]
pub trait WeatherSource: Send + Sync + std::fmt::Debug {
    /// The observations of some airports in `[from, until)`.
    async fn observations(
        &self,
        airports: &[String],
        from: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<Vec<WeatherObservation>, PortError>;
    /// What there is of the observations of some airports in `[from, until)`, with
    /// the reasons where some cannot be had now.
    async fn available(&self, airports: &[String], from: DateTime<Utc>, until: DateTime<Utc>) -> WeatherAnswer {
        match self.observations(airports, from, until).await {
            Ok(observations) => WeatherAnswer { observations, failures: Vec::new() },
            Err(failure) => WeatherAnswer { observations: Vec::new(), failures: vec![failure] },
        }
    }
    /// Whether the source can be reached and lets us in. Changes nothing; answers
    /// with one line about what is there.
    async fn probe(&self) -> Result<String, PortError>;
}
