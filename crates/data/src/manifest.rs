//! What names a dataset: its manifest, and where that lies.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::error::DataError;
use super::flight::FlightRecord;
use delayd_core::Stored;
use delayd_core::ids::Digest;
use delayd_core::ports::ObjectStore;

/// One source that a dataset is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetSource {
    /// Its key in the object store.
    pub key: String,
    /// The digest of its bytes.
    pub sha256: Digest,
    /// How many of its flights are in the dataset.
    pub rows_accepted: u64,
    /// Its canonical part; none in format 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<DatasetPart>,
}

/// A part of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetPart {
    /// The digest of its bytes.
    pub sha256: Digest,
    /// First and last scheduled departure; none without flights.
    pub span: Option<(DateTime<Utc>, DateTime<Utc>)>,
}

/// What a dataset is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetManifest {
    /// Format of this structure.
    pub format: u32,
    /// The sources, oldest first: the newer wins where two tell different things.
    pub sources: Vec<DatasetSource>,
    /// Digest of the contract by which it was judged.
    pub contract: Digest,
    /// First scheduled departure, inclusive.
    pub window_from: DateTime<Utc>,
    /// Last scheduled departure, exclusive.
    pub window_until: DateTime<Utc>,
    /// The moment of which it is a picture: nothing that happened later is in it.
    pub as_of: DateTime<Utc>,
    /// Which rows training takes and how it weighs them, in words.
    pub policy: String,
    /// How many flights.
    pub rows: u64,
    /// First and last scheduled departure of its flights; not in format 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span: Option<(DateTime<Utc>, DateTime<Utc>)>,
    /// Airports that its sources' flights leave from; not in format 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<String>,
    /// Format 1: the digest over the flights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_sha256: Option<Digest>,
}

impl Stored for DatasetManifest {
    const NAME: &'static str = "dataset manifest";
}

impl DatasetManifest {
    /// The format this build writes. It reads format 1 too.
    pub const FORMAT: u32 = 2;

    /// The dataset's version: the digest of the manifest's JSON, whose fields have
    /// a fixed order.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn version(&self) -> Result<Digest, DataError> {
        Ok(Digest::of(&self.json()?))
    }

    pub(crate) fn json(&self) -> Result<Vec<u8>, DataError> {
        serde_json::to_vec(self).map_err(|error| DataError::Internal(format!("dataset manifest: {error}")))
    }

    /// A flight as the dataset has it; none where it lies outside.
    pub(crate) fn flight(&self, flight: &FlightRecord) -> Option<FlightRecord> {
        let inside = (self.window_from..self.window_until).contains(&flight.scheduled_departure);
        inside.then(|| flight.known_at(self.as_of))
    }
}

pub(crate) fn manifest_key(version: &Digest) -> String {
    format!("datasets/{}/manifest.json", version.hex())
}

/// Where a dataset of format 1 has its flights.
pub(crate) fn flights_key(version: &Digest) -> String {
    format!("datasets/{}/flights.parquet", version.hex())
}

pub(crate) fn differs(version: &Digest, differences: Vec<String>) -> DataError {
    DataError::DatasetDiffers { dataset: version.to_string(), differences }
}

/// Reads the manifest of a dataset and checks that it is the one asked for.
///
/// # Errors
/// When it is not there, cannot be read, or has another digest.
pub async fn load_manifest(store: &dyn ObjectStore, version: &Digest) -> Result<DatasetManifest, DataError> {
    let key = manifest_key(version);
    let body = store.get(&key).await?;
    let found = Digest::of(&body);
    if found != *version {
        return Err(differs(version, vec![format!("{key} has the digest {found}; restore it from a backup")]));
    }
    let manifest: DatasetManifest = serde_json::from_slice(&body)
        .map_err(|error| differs(version, vec![format!("{key} is not a manifest: {error}")]))?;
    if (1..=DatasetManifest::FORMAT).contains(&manifest.format) {
        return Ok(manifest);
    }
    let newest = DatasetManifest::FORMAT;
    Err(differs(version, vec![format!("{key} has format {}; this build reads up to {newest}", manifest.format)]))
}
