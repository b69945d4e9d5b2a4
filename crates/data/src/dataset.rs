//! Dataset versions: what exactly a model is trained on. A version is the digest of a manifest that names every canonical
//! part by digest, the contract and the window, so that anybody can tell years later whether it is the same. Making
//! one reads what is known of the parts; only those are read that the window or the present moment cuts.
//!
//! In the object store: `datasets/<hex>/manifest.json`. Datasets of format 1 hold their flights themselves, in
//! `datasets/<hex>/flights.parquet`; they are read like any other, and no longer written.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::contract::Contract;
use super::dataset_rows::{DatasetRows, flights_in};
use super::error::DataError;
use super::flight::FlightRecord;
pub use super::manifest::{DatasetManifest, DatasetPart, DatasetSource, load_manifest};
use super::manifest::{differs, flights_key, manifest_key};
use super::parts::{Part, SourceJudge, Superseded, read_part};
use super::sources::{SourceVersion, read_source};
use super::validation::{CONFLICTING, LeftOutSource, QuarantinedRow, ValidationReport, conflict};
use delayd_core::error::chain;
use delayd_core::ids::{Digest, FlightKey};
use delayd_core::ports::ObjectStore;

/// Stores a dataset; storing it again changes nothing.
///
/// # Errors
/// When the store fails.
pub async fn store_dataset(store: &dyn ObjectStore, manifest: &DatasetManifest) -> Result<Digest, DataError> {
    let version = manifest.version()?;
    store.put(&manifest_key(&version), Bytes::from(manifest.json()?)).await?;
    Ok(version)
}

/// Whether a dataset is still what it was, and whether its sources are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetVerification {
    /// The dataset.
    pub version: Digest,
    /// What differs in the stored flights.
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
    let mut rows = Vec::new();
    let mut sources = Vec::new();
    for source in &manifest.sources {
        if let Some(part) = &source.part {
            match read_part(store, &source.sha256, &part.sha256).await {
                Err(error) if error.is_retryable() => return Err(error),
                read => rows.extend(read.err().map(|error| chain(&error))),
            }
        }
        let wanted = SourceVersion { key: source.key.clone(), sha256: source.sha256.clone() };
        if let Err(reason) = read_source(store, &wanted).await? {
            sources.push(format!("{} of {}: {reason}", source.key, source.sha256));
        }
    }
    if let Some(wanted) = &manifest.rows_sha256 {
        match store.get(&flights_key(version)).await {
            Ok(body) => rows.extend(
                flights_in(&flights_key(version), &body)
                    .and_then(|flights| {
                        super::dataset_rows::rows_digest(&flights).map(|found| {
                            (found != *wanted)
                                .then(|| format!("the rows have the digest {found}; the manifest says {wanted}"))
                        })
                    })
                    .unwrap_or_else(|error| Some(chain(&error))),
            ),
            Err(error) if error.is_retryable() => return Err(error.into()),
            Err(error) => rows.push(chain(&error)),
        }
    }
    Ok(DatasetVerification { version: version.clone(), rows, sources })
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
    /// Flights with a known outcome.
    pub arrived: u64,
    /// Rows that a newer source contradicts.
    pub quarantined: Vec<QuarantinedRow>,
    /// What the contract says.
    pub report: ValidationReport,
    /// Parts of which more is known now.
    pub counted: Vec<Part>,
}

/// Makes a dataset of parts, oldest first. Stores nothing. `left_out` are sources of which there is no part any more.
///
/// # Errors
/// When a part that has to be read is missing or damaged, or the store fails. Whether the rows may be trained on is
/// in the report's failures.
pub async fn build_dataset(
    store: &dyn ObjectStore,
    parts: Vec<(String, Part)>,
    left_out: Vec<LeftOutSource>,
    window: &DatasetWindow,
    contract: &Contract,
) -> Result<BuiltDataset, DataError> {
    let mut manifest = DatasetManifest {
        format: DatasetManifest::FORMAT,
        sources: Vec::with_capacity(parts.len()),
        contract: contract.digest()?,
        window_from: window.from,
        window_until: window.until,
        as_of: window.as_of,
        policy: window.policy.clone(),
        rows: 0,
        span: None,
        origins: parts
            .iter()
            .flat_map(|(_, part)| &part.origins)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .cloned()
            .collect(),
        rows_sha256: None,
    };
    let (mut report, presence) = ValidationReport::sum(parts.iter().map(|(_, part)| (&part.report, &part.presence)));
    let (mut arrived, mut quarantined, mut counted) = (0, Vec::new(), Vec::new());
    for (index, (key, part)) in parts.iter().enumerate() {
        let newer: Vec<&(String, Part)> = parts.iter().skip(index + 1).filter(|(_, later)| part.meets(later)).collect();
        let superseded = match superseded(store, key, part, &newer).await? {
            Known::Already(superseded) => superseded,
            Known::Counted(superseded) => {
                counted.push(Part { superseded: Some(superseded.clone()), ..part.clone() });
                superseded
            }
        };
        let conflicting = superseded.conflicting.len() as u64;
        report.accepted -= superseded.rows;
        report.exact_duplicates += superseded.rows - conflicting;
        report.conflicting_duplicates += conflicting;
        report.quarantined += conflicting;
        if conflicting > 0 {
            *report.violations.entry(CONFLICTING.to_owned()).or_default() += conflicting;
        }
        let whole = part.settled_at <= window.as_of
            && part.span.is_none_or(|(first, last)| window.from <= first && last < window.until);
        let inside = if whole {
            Inside { rows: part.rows - superseded.rows, arrived: part.arrived - superseded.arrived, span: part.span }
        } else {
            inside(store, part, &newer, &manifest).await?
        };
        quarantined.extend(superseded.conflicting);
        arrived += inside.arrived;
        manifest.rows += inside.rows;
        if let Some((first, last)) = inside.span.filter(|_| inside.rows > 0) {
            let spanned = manifest.span.map_or((first, last), |(from, until)| (from.min(first), until.max(last)));
            manifest.span = Some(spanned);
        }
        manifest.sources.push(DatasetSource {
            key: key.clone(),
            sha256: part.source.clone(),
            rows_accepted: inside.rows,
            part: Some(DatasetPart { sha256: part.sha256.clone(), span: part.span }),
        });
    }
    report.judge(&presence, contract);
    if let (true, Some(first)) = (parts.is_empty(), left_out.first()) {
        let count = left_out.len();
        let failure = format!("none of the {count} flight logs can be read any more; {}: {}", first.key, first.reason);
        report.failures.push(failure);
    }
    report.left_out = left_out;
    Ok(BuiltDataset { manifest, arrived, quarantined, report, counted })
}

/// What lies inside a dataset's window.
struct Inside {
    rows: u64,
    arrived: u64,
    span: Option<(DateTime<Utc>, DateTime<Utc>)>,
}

/// Counts the flights of a part that the window or the present moment cuts.
async fn inside(
    store: &dyn ObjectStore,
    part: &Part,
    newer: &[&(String, Part)],
    manifest: &DatasetManifest,
) -> Result<Inside, DataError> {
    let again = flights_of(store, newer, part).await?;
    let mut inside = Inside { rows: 0, arrived: 0, span: None };
    let body = read_part(store, &part.source, &part.sha256).await?;
    for (_, flight) in flights_in(&part.key(), &body)? {
        let Some(flight) = manifest.flight(&flight).filter(|flight| !again.contains_key(&flight.key())) else {
            continue;
        };
        let departure = flight.scheduled_departure;
        inside.rows += 1;
        inside.arrived += u64::from(flight.arrived_at.is_some());
        inside.span = Some(inside.span.map_or((departure, departure), |(first, _)| (first, departure)));
    }
    Ok(inside)
}

/// What newer parts say again of a part.
enum Known {
    /// As it was counted before.
    Already(Superseded),
    /// Counted just now.
    Counted(Superseded),
}

async fn superseded(
    store: &dyn ObjectStore,
    key: &str,
    part: &Part,
    newer: &[&(String, Part)],
) -> Result<Known, DataError> {
    if newer.is_empty() {
        return Ok(Known::Already(Superseded::default()));
    }
    let by: Vec<Digest> = newer.iter().map(|(_, part)| part.sha256.clone()).collect();
    if let Some(known) = part.superseded.as_ref().filter(|known| known.by == by) {
        return Ok(Known::Already(known.clone()));
    }
    let again = flights_of(store, newer, part).await?;
    let mut superseded = Superseded { by, ..Superseded::default() };
    let body = read_part(store, &part.source, &part.sha256).await?;
    for (line, flight) in flights_in(&part.key(), &body)? {
        let Some((newer_key, newer_line, other)) = again.get(&flight.key()) else { continue };
        superseded.rows += 1;
        superseded.arrived += u64::from(flight.arrived_at.is_some());
        if *other != flight {
            let reasons = vec![conflict(&format!("{newer_key} line {newer_line}"))];
            let row = QuarantinedRow { object: key.to_owned(), line, key: flight.key().to_string(), reasons };
            superseded.conflicting.push(row);
        }
    }
    Ok(Known::Counted(superseded))
}

/// The flights of some parts within the span of another one, by key with where they were read; the newest counts.
async fn flights_of<'a>(
    store: &dyn ObjectStore,
    parts: &[&'a (String, Part)],
    within: &Part,
) -> Result<HashMap<FlightKey, (&'a str, u64, FlightRecord)>, DataError> {
    let mut flights = HashMap::new();
    let Some((first, last)) = within.span else { return Ok(flights) };
    for (key, part) in parts {
        let body = read_part(store, &part.source, &part.sha256).await?;
        let found = flights_in(&part.key(), &body)?.into_iter();
        let met = found.filter(|(_, flight)| (first..=last).contains(&flight.scheduled_departure));
        flights.extend(met.map(|(line, flight)| (flight.key(), (key.as_str(), line, flight))));
    }
    Ok(flights)
}

/// Makes the parts of a stored dataset again from its sources and checks that they are the same. Answers its flights.
///
/// # Errors
/// When a source, the contract or the outcome differs; every difference is told.
pub async fn rebuild_dataset(store: &dyn ObjectStore, version: &Digest, judge: &SourceJudge) -> Result<u64, DataError> {
    let old = load_manifest(store, version).await?;
    let mut differences = Vec::new();
    let contract = judge.contract.digest()?;
    if contract != old.contract {
        differences.push(format!("the contract is {contract}; it was {}", old.contract));
    }
    let mut bodies = HashMap::new();
    let mut again = DatasetManifest { sources: Vec::new(), ..old.clone() };
    for source in &old.sources {
        let wanted = SourceVersion { key: source.key.clone(), sha256: source.sha256.clone() };
        let made = match read_source(store, &wanted).await? {
            Ok(body) => judge
                .judge(&source.key, &source.sha256, &body, old.as_of)
                .and_then(|judged| judge.part(&source.sha256, &judged.validated))
                .map_err(|error| chain(&error)),
            Err(reason) => Err(reason),
        };
        let (part, body) = match made {
            Ok(made) => made,
            Err(reason) => {
                differences.push(format!("{} of {} cannot be read any more: {reason}", source.key, source.sha256));
                continue;
            }
        };
        match &source.part {
            Some(before) if before.sha256 != part.sha256 => {
                differences
                    .push(format!("{}: its flights are {}; they were {}", source.key, part.sha256, before.sha256));
            }
            Some(_) => {}
            None => {
                bodies.insert(part.sha256.clone(), body);
            }
        }
        let part = Some(DatasetPart { sha256: part.sha256, span: part.span });
        again.sources.push(DatasetSource { part, ..source.clone() });
    }
    if let Some(wanted) = &old.rows_sha256 {
        let fetch = move |source: &DatasetSource| {
            let part = source.part.as_ref().and_then(|part| bodies.get(&part.sha256));
            part.cloned().ok_or_else(|| DataError::Internal(format!("{}: it has no part", source.key)))
        };
        let flights = DatasetRows::of(again, Box::new(fetch)).collect::<Result<Vec<_>, _>>()?;
        let found = super::dataset_rows::rows_digest_of(&flights)?;
        if found != *wanted {
            differences.push(format!("the rows have the digest {found}; the manifest says {wanted}"));
        }
    }
    if differences.is_empty() { Ok(old.rows) } else { Err(differs(version, differences)) }
}
