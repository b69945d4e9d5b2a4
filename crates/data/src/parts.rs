//! Canonical parts: every source is parsed and judged once, when it arrives, and what was accepted is kept as Parquet
//! beside its copy. Datasets are made of parts, so that a cycle costs what is new and not what was there before.
//!
//! In the object store: `parts/<source>-<part>.parquet`, each named by the digests of the bytes that it was made of and of its
//! own. A part is made again only when something that it depends on changed: the parser, the contract, the
//! configured columns, an airport that its rows name, or the present moment, for rows that were set aside as of the
//! future. Nothing here removes one: older datasets are made of them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use delayd_features::Airport;
use serde::{Deserialize, Serialize};

use super::contract::{Contract, UnknownColumns};
use super::error::DataError;
use super::flight::FlightRecord;
use super::formats::{ColumnMapping, Container, ParsedObject, parquet, parse_flights};
use super::local_time::TimeZones;
use super::reading::ObjectReader;
use super::validation::{Presence, QuarantinedRow, Validated, ValidationInput, ValidationReport, validate};
use delayd_core::error::PortError;
use delayd_core::ids::Digest;
use delayd_core::ports::ObjectStore;

/// Raised when the parser or the judgement reads the same bytes otherwise.
const PARSER_VERSION: u32 = 1;

/// Where the parts lie.
pub const PREFIX: &str = "parts/";

/// What was made of one source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The digest of the source's bytes.
    pub source: Digest,
    /// The digest of the part's own bytes.
    pub sha256: Digest,
    /// By which parser, contract and columns.
    pub rules: Digest,
    /// The airports that its rows name, and what was known of them.
    pub airports: BTreeSet<String>,
    /// The digest of that.
    pub airports_sha256: Digest,
    /// From when rows may be accepted that lay in the future.
    pub judge_again_at: Option<DateTime<Utc>>,
    /// Flights, each once.
    pub rows: u64,
    /// Flights that arrived.
    pub arrived: u64,
    /// First and last scheduled departure; none without flights.
    pub span: Option<(DateTime<Utc>, DateTime<Utc>)>,
    /// Airports that its flights leave from.
    pub origins: BTreeSet<String>,
    /// The last moment at which something in it became known.
    pub settled_at: DateTime<Utc>,
    /// What the contract says of it.
    pub report: ValidationReport,
    /// How complete its columns are.
    pub presence: BTreeMap<String, Presence>,
    /// What newer parts say again, as far as that was counted.
    pub superseded: Option<Superseded>,
}

/// What newer parts say again of a part's flights.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Superseded {
    /// The newer parts whose spans meet its own.
    pub by: Vec<Digest>,
    /// Flights that they hold too.
    pub rows: u64,
    /// Those of them that arrived.
    pub arrived: u64,
    /// Flights of which they say something else.
    pub conflicting: Vec<QuarantinedRow>,
}

impl Part {
    /// Where it lies.
    #[must_use]
    pub fn key(&self) -> String {
        part_key(&self.source, &self.sha256)
    }

    /// Whether a moment lies within its span.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        matches!((self.span, other.span), (Some((from, until)), Some((first, last))) if from <= last && first <= until)
    }
}

/// Where the part of a source lies.
#[must_use]
pub fn part_key(source: &Digest, sha256: &Digest) -> String {
    format!("{PREFIX}{}-{}.parquet", source.hex(), sha256.hex())
}

/// Parses and judges sources.
#[derive(Debug, Clone)]
pub struct SourceJudge {
    /// The contract.
    pub contract: Contract,
    airports: BTreeMap<String, Airport>,
    mapping: Option<ColumnMapping>,
    reader: ObjectReader,
    zones: TimeZones,
    rules: Digest,
}

/// A source that was parsed and judged.
#[derive(Debug)]
pub struct JudgedSource {
    /// How it was wrapped.
    pub container: Container,
    /// Which layout its columns have.
    pub layout: String,
    /// Flights and rows set aside.
    pub validated: Validated,
    /// Why it should be refused as a whole; empty where it can be taken in.
    pub refused: Vec<String>,
}

impl SourceJudge {
    /// A judge by a contract; `mapping` are the configured columns, `reader` bounds what is read.
    ///
    /// # Errors
    /// When an airport's time zone is unknown.
    pub fn new(
        contract: Contract,
        airports: BTreeMap<String, Airport>,
        mapping: Option<ColumnMapping>,
        reader: ObjectReader,
    ) -> Result<Self, DataError> {
        let zones = TimeZones::of(&airports)?;
        let rules = digest_of(&(PARSER_VERSION, contract.digest()?, &mapping))?;
        Ok(Self { contract, airports, mapping, reader, zones, rules })
    }

    /// The bounds of reading.
    #[must_use]
    pub fn reader(&self) -> &ObjectReader {
        &self.reader
    }

    /// Parses and judges a source's bytes. It blocks: call it where blocking is allowed.
    ///
    /// # Errors
    /// When it cannot be read at all. One that breaks the contract as a whole is told by [`JudgedSource::refused`].
    pub fn judge(
        &self,
        key: &str,
        sha256: &Digest,
        body: &Bytes,
        now: DateTime<Utc>,
    ) -> Result<JudgedSource, DataError> {
        let read = self.reader.read(key, sha256, |limits| {
            let parsed = parse_flights(key, body, &self.zones, self.mapping.as_ref(), limits)?;
            Ok(self.judge_parsed(key, parsed, now))
        });
        read.flatten()
    }

    fn judge_parsed(&self, key: &str, parsed: ParsedObject, now: DateTime<Utc>) -> JudgedSource {
        let ParsedObject { container, layout, flights, rejected, rejected_count, unused_columns } = parsed;
        let first_unreadable = rejected.first().map(|row| format!("line {}: {}", row.line, row.reasons.join("; ")));
        let mut refused = Vec::new();
        let unused_columns: Vec<String> = unused_columns.into_iter().collect();
        if self.contract.unknown_columns == UnknownColumns::Reject && !unused_columns.is_empty() {
            refused.push(format!("{key}: unknown columns {}", unused_columns.join(", ")));
        }
        let flagged = self.contract.unknown_columns == UnknownColumns::Flag;
        let input = ValidationInput {
            source: key.to_owned(),
            flights,
            unreadable: rejected.into_iter().map(|row| row.quarantined(key)).collect(),
            unreadable_count: rejected_count,
            unused_columns: if flagged { unused_columns } else { Vec::new() },
        };
        let validated = validate(input, &self.contract, &self.airports, now);
        if !validated.report.failures.is_empty() {
            refused.extend(validated.report.failures.iter().map(|failure| format!("{key}: {failure}")));
            refused.push(format!("violations: {:?}", validated.report.violations));
            refused.extend(first_unreadable.map(|row| format!("first unreadable row: {row}")));
        }
        JudgedSource { container, layout, validated, refused }
    }

    /// Whether a part is still what would be made of its source at `now`.
    ///
    /// # Errors
    /// When the airports cannot be written as JSON.
    pub fn upholds(&self, part: &Part, now: DateTime<Utc>) -> Result<bool, DataError> {
        Ok(part.rules == self.rules
            && part.judge_again_at.is_none_or(|at| at > now)
            && part.airports_sha256 == self.known_airports(&part.airports)?)
    }

    fn known_airports(&self, codes: &BTreeSet<String>) -> Result<Digest, DataError> {
        digest_of(&codes.iter().map(|code| (code, self.airports.get(code))).collect::<Vec<_>>())
    }

    /// The part of a judged source, with its bytes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn part(&self, source: &Digest, validated: &Validated) -> Result<(Part, Bytes), DataError> {
        let flights = &validated.accepted;
        let body = Bytes::from(parquet::write_flights(flights, Some(&validated.lines))?);
        // A row may be set aside because its airport is unknown: it counts as named too.
        let mut airports: BTreeSet<String> = validated.airports.clone();
        airports.extend(flights.iter().flat_map(|flight| [flight.origin.clone(), flight.dest.clone()]));
        let part = Part {
            source: source.clone(),
            sha256: Digest::of(&body),
            rules: self.rules.clone(),
            airports_sha256: self.known_airports(&airports)?,
            airports,
            judge_again_at: validated.judge_again_at,
            rows: flights.len() as u64,
            arrived: flights.iter().filter(|flight| flight.arrived_at.is_some()).count() as u64,
            span: flights.first().zip(flights.last()).map(|(a, b)| (a.scheduled_departure, b.scheduled_departure)),
            origins: flights.iter().map(|flight| flight.origin.clone()).collect(),
            settled_at: flights.iter().map(settled_at).max().unwrap_or(DateTime::UNIX_EPOCH),
            report: validated.report.clone(),
            presence: validated.presence.clone(),
            superseded: None,
        };
        Ok((part, body))
    }
}

/// The moment from which nothing about a flight changes any more, see [`FlightRecord::known_at`].
fn settled_at(flight: &FlightRecord) -> DateTime<Utc> {
    let planned = flight.scheduled_arrival.unwrap_or(flight.scheduled_departure);
    let given_up = planned.max(flight.scheduled_departure) + TimeDelta::hours(3);
    [flight.departed_at, flight.arrived_at].into_iter().flatten().fold(given_up, DateTime::max)
}

fn digest_of(value: &impl Serialize) -> Result<Digest, DataError> {
    let json = serde_json::to_vec(value).map_err(|error| DataError::Internal(format!("canonical part: {error}")))?;
    Ok(Digest::of(&json))
}

/// Stores a part; storing it again changes nothing.
///
/// # Errors
/// When the store fails.
pub async fn store_part(store: &dyn ObjectStore, part: &Part, body: Bytes) -> Result<(), PortError> {
    store.put(&part.key(), body).await
}

/// Reads the bytes of a part and checks them.
///
/// # Errors
/// When it is missing or damaged, or the store fails.
pub async fn read_part(store: &dyn ObjectStore, source: &Digest, sha256: &Digest) -> Result<Bytes, DataError> {
    let key = part_key(source, sha256);
    let body = store.get(&key).await?;
    let found = Digest::of(&body);
    if found == *sha256 {
        return Ok(body);
    }
    Err(DataError::Malformed {
        key,
        place: "the whole file".to_owned(),
        found: format!("bytes with the digest {found}"),
        expected: format!("those with the digest {sha256}"),
        advice: "Restore it from a backup, or delete it: the next dataset makes it again from the flight log's copy",
    })
}
