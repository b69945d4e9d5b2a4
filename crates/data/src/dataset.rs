//! Dataset versions: what exactly a model learnt from. A version is the digest of
//! a manifest that names every source by digest, the contract, the window and the
//! rows, so that the dataset can be rebuilt from its sources years later and
//! anybody can tell whether it is the same.
//!
//! In the object store: `datasets/<hex>/flights.parquet` and, written last,
//! `datasets/<hex>/manifest.json`; a dataset without its manifest does not exist.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use delayd_features::Airport;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::contract::{Contract, UnknownColumns};
use super::error::DataError;
use super::flight::FlightRecord;
use super::formats::{ColumnMapping, ParseLimits, parquet, parse_flights};
use super::local_time::TimeZones;
use super::sources::{SourceVersion, read_source};
use super::validation::{LeftOutSource, QuarantinedRow, SourcedRecord, ValidationInput, ValidationReport, validate};
use delayd_core::Stored;
use delayd_core::error::chain;
use delayd_core::ids::Digest;
use delayd_core::ports::ObjectStore;

/// One object that a dataset was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetSource {
    /// Its key in the object store.
    pub key: String,
    /// The digest of its bytes.
    pub sha256: Digest,
    /// How many of its rows are in the dataset.
    pub rows_accepted: u64,
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
    /// Digest over the flights, independent of how they are stored.
    pub rows_sha256: Digest,
}

impl Stored for DatasetManifest {
    const NAME: &'static str = "dataset manifest";
}

impl DatasetManifest {
    /// The format this build writes and reads.
    pub const FORMAT: u32 = 1;

    /// The dataset's version: the digest of the manifest's JSON, whose fields have
    /// a fixed order.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn version(&self) -> Result<Digest, DataError> {
        Ok(Digest::of(&self.json()?))
    }

    fn json(&self) -> Result<Vec<u8>, DataError> {
        serde_json::to_vec(self).map_err(|error| DataError::Internal(format!("dataset manifest: {error}")))
    }
}

/// Digest over flights in their order.
///
/// # Errors
/// When a flight cannot be written as JSON.
pub fn rows_digest(records: &[FlightRecord]) -> Result<Digest, DataError> {
    let mut hasher = sha2::Sha256::new();
    for record in records {
        let line = serde_json::to_vec(record).map_err(|error| DataError::Internal(format!("flight: {error}")))?;
        hasher.update(&line);
        hasher.update(b"\n");
    }
    let text = format!("sha256:{}", hex::encode(hasher.finalize()));
    text.parse().map_err(|error| DataError::Internal(format!("digest: {error}")))
}

fn keys_of(version: &Digest) -> (String, String) {
    let folder = format!("datasets/{}", version.hex());
    (format!("{folder}/flights.parquet"), format!("{folder}/manifest.json"))
}

/// Stores a dataset; storing it again changes nothing.
///
/// # Errors
/// When the rows are not those of the manifest, or the store fails.
pub async fn store_dataset(
    store: &dyn ObjectStore,
    manifest: &DatasetManifest,
    records: &[FlightRecord],
) -> Result<Digest, DataError> {
    let version = manifest.version()?;
    let found = rows_digest(records)?;
    if found != manifest.rows_sha256 || records.len() as u64 != manifest.rows {
        let difference = format!("{} rows with digest {found} are not those of the manifest", records.len());
        return Err(DataError::DatasetDiffers { dataset: version.to_string(), differences: vec![difference] });
    }
    let (rows_key, manifest_key) = keys_of(&version);
    store.put(&rows_key, Bytes::from(parquet::write_flights(records)?)).await?;
    store.put(&manifest_key, Bytes::from(manifest.json()?)).await?;
    Ok(version)
}

/// Reads the manifest of a dataset and checks that it is the one asked for.
///
/// # Errors
/// When it is not there, cannot be read, or has another digest.
pub async fn load_manifest(store: &dyn ObjectStore, version: &Digest) -> Result<DatasetManifest, DataError> {
    let (_, key) = keys_of(version);
    let body = store.get(&key).await?;
    let differs =
        |difference: String| DataError::DatasetDiffers { dataset: version.to_string(), differences: vec![difference] };
    let found = Digest::of(&body);
    if found != *version {
        return Err(differs(format!("{key} has the digest {found}; restore it from a backup")));
    }
    serde_json::from_slice(&body).map_err(|error| differs(format!("{key} is no manifest: {error}")))
}

/// Reads a stored dataset and checks its rows.
///
/// # Errors
/// When something is not there, or differs from the manifest.
pub async fn load_dataset(
    store: &dyn ObjectStore,
    version: &Digest,
) -> Result<(DatasetManifest, Vec<FlightRecord>), DataError> {
    let manifest = load_manifest(store, version).await?;
    let (key, _) = keys_of(version);
    let body = store.get(&key).await?;
    let limits = ParseLimits::of_own(manifest.rows);
    let parsed = parse_flights(&key, &body, &TimeZones::default(), None, &limits);
    let parsed = parsed.map_err(|error| match error {
        DataError::TooLarge { found, .. } => {
            let difference = format!("{found}; the manifest says {}", manifest.rows);
            DataError::DatasetDiffers { dataset: version.to_string(), differences: vec![difference] }
        }
        other => other,
    })?;
    let records: Vec<FlightRecord> = parsed.flights.into_iter().map(|(_, record)| record).collect();
    let differences = rows_differences(&manifest, &records)?;
    if differences.is_empty() {
        Ok((manifest, records))
    } else {
        Err(DataError::DatasetDiffers { dataset: version.to_string(), differences })
    }
}

fn rows_differences(manifest: &DatasetManifest, records: &[FlightRecord]) -> Result<Vec<String>, DataError> {
    let mut differences = Vec::new();
    if records.len() as u64 != manifest.rows {
        differences.push(format!("{} rows; the manifest says {}", records.len(), manifest.rows));
    }
    let found = rows_digest(records)?;
    if found != manifest.rows_sha256 {
        differences.push(format!("the rows have the digest {found}; the manifest says {}", manifest.rows_sha256));
    }
    Ok(differences)
}

/// Whether a dataset is still what it was, and whether its sources are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetVerification {
    /// The dataset.
    pub version: Digest,
    /// What differs in the stored rows.
    pub rows: Vec<String>,
    /// Which sources changed or are gone: it can be used, but not rebuilt.
    pub sources: Vec<String>,
}

impl DatasetVerification {
    /// Whether nothing differs.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.rows.is_empty() && self.sources.is_empty()
    }
}

/// Reads a dataset and all its sources again and compares every digest.
///
/// # Errors
/// When the store fails, or the manifest is gone or damaged.
pub async fn verify_dataset(store: &dyn ObjectStore, version: &Digest) -> Result<DatasetVerification, DataError> {
    let manifest = load_manifest(store, version).await?;
    let rows = match load_dataset(store, version).await {
        Ok(_) => Vec::new(),
        Err(DataError::DatasetDiffers { differences, .. }) => differences,
        Err(error) if error.is_retryable() => return Err(error),
        Err(error) => vec![error.to_string()],
    };
    let mut sources = Vec::new();
    for source in &manifest.sources {
        let wanted = SourceVersion { key: source.key.clone(), sha256: source.sha256.clone() };
        if let Err(reason) = read_source(store, &wanted).await? {
            sources.push(format!("{} of {}: {reason}", source.key, source.sha256));
        }
    }
    Ok(DatasetVerification { version: version.clone(), rows, sources })
}

/// What making a dataset needs besides its sources.
#[derive(Debug, Clone, Copy)]
pub struct BuildContext<'a> {
    /// The contract.
    pub contract: &'a Contract,
    /// Airports.
    pub airports: &'a BTreeMap<String, Airport>,
    /// The configured columns.
    pub mapping: Option<&'a ColumnMapping>,
    /// Bounds of reading.
    pub limits: &'a ParseLimits,
}

/// Which flights a dataset shall hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetWindow {
    /// First scheduled departure, inclusive.
    pub from: DateTime<Utc>,
    /// Last scheduled departure, exclusive.
    pub until: DateTime<Utc>,
    /// The moment of which it is a picture.
    pub as_of: DateTime<Utc>,
    /// Which rows training takes and how it weighs them, in words.
    pub policy: String,
}

/// A dataset that was just made, with the judgement of its sources.
#[derive(Debug)]
pub struct BuiltDataset {
    /// Its manifest.
    pub manifest: DatasetManifest,
    /// Its flights, sorted by key.
    pub records: Vec<FlightRecord>,
    /// Rows that were set aside.
    pub quarantined: Vec<QuarantinedRow>,
    /// What the contract says.
    pub report: ValidationReport,
}

/// Makes a dataset from flight logs, oldest first. Stores nothing.
///
/// A log that cannot be read any more is left out, and the report says so.
///
/// # Errors
/// When the store is away. Whether the rows may be learnt from is in the report's
/// failures.
pub async fn build_dataset(
    store: &dyn ObjectStore,
    wanted: &[SourceVersion],
    window: &DatasetWindow,
    context: BuildContext<'_>,
) -> Result<BuiltDataset, DataError> {
    let zones = TimeZones::of(context.airports)?;
    let mut input = ValidationInput::default();
    let mut sources = Vec::with_capacity(wanted.len());
    let mut left_out = Vec::new();
    let mut unused = BTreeSet::new();
    for source in wanted {
        let SourceVersion { key, sha256 } = source.clone();
        let parsed = match read_source(store, source).await? {
            Ok(body) => {
                parse_flights(&key, &body, &zones, context.mapping, context.limits).map_err(|error| chain(&error))
            }
            Err(reason) => Err(reason),
        };
        let parsed = match parsed {
            Ok(parsed) => parsed,
            Err(reason) => {
                left_out.push(LeftOutSource { key, sha256, reason });
                continue;
            }
        };
        let index = sources.len();
        input.sources.push(key.clone());
        input.records.extend(parsed.flights.into_iter().map(|(line, record)| SourcedRecord {
            source: index,
            line,
            record,
        }));
        input.unreadable_count += parsed.rejected_count;
        input.unreadable.extend(parsed.rejected.into_iter().map(|row| row.quarantined(&key)));
        if context.contract.unknown_columns == UnknownColumns::Flag {
            unused.extend(parsed.unused_columns);
        }
        sources.push(DatasetSource { key, sha256, rows_accepted: 0 });
    }
    input.unused_columns = unused.into_iter().collect();
    let mut validated = validate(input, context.contract, context.airports, window.as_of);
    if let (true, Some(first)) = (sources.is_empty(), left_out.first()) {
        let failure =
            format!("none of the {} flight logs can be read any more; {}: {}", left_out.len(), first.key, first.reason);
        validated.report.failures.push(failure);
    }
    validated.report.left_out = left_out;
    let inside =
        |record: &FlightRecord| record.scheduled_departure >= window.from && record.scheduled_departure < window.until;
    let mut records = Vec::new();
    for (record, source) in validated.accepted.iter().zip(&validated.accepted_sources) {
        if inside(record) {
            records.push(record.known_at(window.as_of));
            if let Some(source) = sources.get_mut(*source) {
                source.rows_accepted += 1;
            }
        }
    }
    let manifest = DatasetManifest {
        format: DatasetManifest::FORMAT,
        sources,
        contract: context.contract.digest()?,
        window_from: window.from,
        window_until: window.until,
        as_of: window.as_of,
        policy: window.policy.clone(),
        rows: records.len() as u64,
        rows_sha256: rows_digest(&records)?,
    };
    Ok(BuiltDataset { manifest, records, quarantined: validated.quarantined, report: validated.report })
}

/// Makes a stored dataset again from its sources and checks that it is the same.
///
/// # Errors
/// When a source, the contract or the outcome differs; every difference is told.
pub async fn rebuild_dataset(
    store: &dyn ObjectStore,
    version: &Digest,
    context: BuildContext<'_>,
) -> Result<Vec<FlightRecord>, DataError> {
    let old = load_manifest(store, version).await?;
    let of = |source: &DatasetSource| SourceVersion { key: source.key.clone(), sha256: source.sha256.clone() };
    let wanted: Vec<SourceVersion> = old.sources.iter().map(of).collect();
    let window =
        DatasetWindow { from: old.window_from, until: old.window_until, as_of: old.as_of, policy: old.policy.clone() };
    let built = build_dataset(store, &wanted, &window, context).await?;
    let mut differences = Vec::new();
    if built.manifest.contract != old.contract {
        differences.push(format!("the contract is {}; it was {}", built.manifest.contract, old.contract));
    }
    for lost in &built.report.left_out {
        differences.push(format!("{} of {} cannot be read any more: {}", lost.key, lost.sha256, lost.reason));
    }
    for new in &built.manifest.sources {
        let before = old.sources.iter().find(|old| old.key == new.key && old.sha256 == new.sha256);
        if let Some(before) = before.filter(|before| before.rows_accepted != new.rows_accepted) {
            differences.push(format!("{}: {} rows; it was {}", new.key, new.rows_accepted, before.rows_accepted));
        }
    }
    differences.extend(rows_differences(&old, &built.records)?);
    if differences.is_empty() {
        Ok(built.records)
    } else {
        Err(DataError::DatasetDiffers { dataset: version.to_string(), differences })
    }
}
