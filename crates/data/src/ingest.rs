//! Taking in new flight logs: what lies under a prefix and was not seen in this
//! form is fetched, parsed and judged. One bad object never stops the others,
//! and nothing is remembered here: the caller keeps what was seen in the ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use delayd_features::Airport;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::contract::{Contract, UnknownColumns};
use super::error::DataError;
use super::flight::FlightRecord;
use super::formats::{ColumnMapping, Container, ParseLimits, ParsedObject, parse_flights};
use super::local_time::TimeZones;
use super::reading::ObjectReader;
use super::sources::keep_copy;
use super::validation::{QuarantinedRow, SourcedRecord, Validated, ValidationInput, ValidationReport, validate};
use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::ids::Digest;
use delayd_core::ports::{ObjectMeta, ObjectStore};

/// An object that was taken in before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownObject {
    /// What the listing told of it.
    pub meta: ObjectMeta,
    /// The digest of its bytes; where they were not read, of what the listing tells.
    pub sha256: Digest,
    /// The bounds that it passed, where it was refused for that.
    #[serde(default)]
    pub too_large_for: Option<ParseLimits>,
}

impl KnownObject {
    /// Whether other bounds are in force than those that it passed: it may fit now.
    fn may_fit(&self, limits: &ParseLimits) -> bool {
        self.too_large_for.is_some_and(|passed| passed != *limits)
    }
}

/// How to take in.
#[derive(Debug, Clone, PartialEq)]
pub struct IngestOptions {
    /// Where to look.
    pub prefix: String,
    /// How many objects are fetched at a time.
    pub max_concurrent_fetches: usize,
    /// How often a call to the store is tried.
    pub max_attempts: u32,
    /// The pause before the second attempt; it doubles each time.
    pub retry_pause: Duration,
    /// The configured columns.
    pub mapping: Option<ColumnMapping>,
    /// Reads an object, within bounds.
    pub reader: ObjectReader,
}

impl Default for IngestOptions {
    fn default() -> Self {
        Self {
            prefix: "flights/".into(),
            max_concurrent_fetches: 4,
            max_attempts: 5,
            retry_pause: Duration::from_millis(200),
            mapping: None,
            reader: ObjectReader::default(),
        }
    }
}

/// Why an object was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectNews {
    /// A key never seen.
    New,
    /// A key never seen, but written before the newest one that was: a late one.
    Late,
    /// A known key with other bytes.
    Changed,
    /// Written again with the same bytes.
    Unchanged,
}

/// What became of one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectReport {
    /// What the listing told.
    pub meta: ObjectMeta,
    /// Why it was looked at; `None` where it could not be fetched.
    pub news: Option<ObjectNews>,
    /// The digest of its bytes, where it could be fetched.
    pub sha256: Option<Digest>,
    /// How it was wrapped.
    pub container: Option<Container>,
    /// Which layout its columns have.
    pub layout: Option<String>,
    /// Rows in it.
    pub rows: u64,
    /// Rows of it that were accepted.
    pub rows_accepted: u64,
    /// Rows of it that were set aside.
    pub rows_quarantined: u64,
    /// Rows of it that said again what another row said.
    pub rows_duplicate: u64,
    /// Columns that nothing reads, where the contract wants them flagged.
    pub unused_columns: Vec<String>,
    /// Why it was not taken in, with what to do.
    pub error: Option<String>,
    /// Whether trying again later may help.
    pub retryable: bool,
    /// Whether it was not taken in because it passes a bound.
    #[serde(default)]
    pub too_large: bool,
}

/// What became of a whole pass.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct IngestReport {
    /// Objects listed under the prefix.
    pub listed: u64,
    /// Objects skipped because they were seen.
    pub seen_before: u64,
    /// Every object that was looked at, oldest first.
    pub objects: Vec<ObjectReport>,
    /// What the contract says of all rows together.
    pub validation: ValidationReport,
}

/// The fruits of a pass.
#[derive(Debug)]
pub struct Ingested {
    /// Accepted flights, sorted by key.
    pub accepted: Vec<FlightRecord>,
    /// Rows set aside.
    pub quarantined: Vec<QuarantinedRow>,
    /// What to remember: every object taken in, by key. Objects that failed for
    /// good are among them, so that they are not tried until they change.
    pub seen: BTreeMap<String, KnownObject>,
    /// What happened.
    pub report: IngestReport,
}

/// Takes in what is new under the prefix.
///
/// # Errors
/// When the prefix cannot be listed or an airport's time zone is unknown; what
/// goes wrong with single objects is in the report.
pub async fn ingest_new(
    store: &Arc<dyn ObjectStore>,
    known: &BTreeMap<String, KnownObject>,
    options: &IngestOptions,
    contract: &Contract,
    airports: &BTreeMap<String, Airport>,
    now: DateTime<Utc>,
) -> Result<Ingested, DataError> {
    let reader = Arc::new(Reader {
        memory: Memory::of(&options.reader.limits),
        zones: TimeZones::of(airports)?,
        options: options.clone(),
        contract: contract.clone(),
        airports: airports.clone(),
        now,
    });
    let limits = &options.reader.limits;
    let listed = retrying(options, || store.list(&options.prefix)).await?;
    let mut report = IngestReport { listed: listed.len() as u64, ..IngestReport::default() };
    let newest_known = known.values().map(|object| object.meta.last_modified).max();
    let mut fresh: Vec<ObjectMeta> = listed
        .into_iter()
        .filter(|meta| known.get(&meta.key).is_none_or(|seen| seen.meta != *meta || seen.may_fit(limits)))
        .collect();
    report.seen_before = report.listed - fresh.len() as u64;
    fresh.sort_by(|a, b| (a.last_modified, &a.key).cmp(&(b.last_modified, &b.key)));
    let objects: Vec<(ObjectReport, Held)> = futures::stream::iter(fresh)
        .map(|meta| {
            let reader = Arc::clone(&reader);
            let before = known.get(&meta.key).cloned();
            let late = newest_known.is_some_and(|newest| meta.last_modified < newest);
            async move { reader.take(store, meta, before, late).await }
        })
        .buffered(options.max_concurrent_fetches.max(1))
        .collect()
        .await;
    Ok(conclude(objects, report, contract, airports, now, limits))
}

/// What an object held.
enum Held {
    /// Nothing that is new, or nothing that can be read.
    Nothing,
    /// Flights.
    Flights(ParsedObject),
    /// Too much that breaks the contract: only these rows are told.
    Refused(Vec<QuarantinedRow>),
}

fn conclude(
    objects: Vec<(ObjectReport, Held)>,
    mut report: IngestReport,
    contract: &Contract,
    airports: &BTreeMap<String, Airport>,
    now: DateTime<Utc>,
    limits: &ParseLimits,
) -> Ingested {
    let mut input = ValidationInput::default();
    let mut unused = BTreeSet::new();
    let mut refused_rows = Vec::new();
    for (index, (mut object, held)) in objects.into_iter().enumerate() {
        let key = object.meta.key.clone();
        match held {
            Held::Nothing => {}
            Held::Refused(rows) => refused_rows.extend(rows),
            Held::Flights(parsed) => {
                object.rows_quarantined = parsed.rejected_count - parsed.rejected.len() as u64;
                input.unreadable.extend(parsed.rejected.into_iter().map(|row| row.quarantined(&key)));
                input.unreadable_count += parsed.rejected_count;
                let flights = parsed.flights.into_iter();
                input.records.extend(flights.map(|(line, record)| SourcedRecord { source: index, line, record }));
                if contract.unknown_columns == UnknownColumns::Flag {
                    unused.extend(parsed.unused_columns.iter().cloned());
                    object.unused_columns = parsed.unused_columns.into_iter().collect();
                }
            }
        }
        input.sources.push(key);
        report.objects.push(object);
    }
    input.unused_columns = unused.into_iter().collect();
    let mut validated = validate(input, contract, airports, now);
    count_rows(&mut report.objects, &validated);
    validated.quarantined.extend(refused_rows);
    report.validation = validated.report;
    let remembered = report.objects.iter().filter(|object| !object.retryable);
    let seen = remembered
        .filter_map(|object| {
            let too_large_for = object.too_large.then_some(*limits);
            let known = KnownObject { meta: object.meta.clone(), sha256: object.sha256.clone()?, too_large_for };
            Some((object.meta.key.clone(), known))
        })
        .collect();
    Ingested { accepted: validated.accepted, quarantined: validated.quarantined, seen, report }
}

/// Every row of an object that was taken in is accepted, set aside, or was there before.
fn count_rows(objects: &mut [ObjectReport], validated: &Validated) {
    let mut set_aside: BTreeMap<&str, u64> = BTreeMap::new();
    for row in &validated.quarantined {
        *set_aside.entry(row.object.as_str()).or_default() += 1;
    }
    for source in &validated.accepted_sources {
        if let Some(object) = objects.get_mut(*source) {
            object.rows_accepted += 1;
        }
    }
    for object in objects.iter_mut().filter(|object| object.error.is_none()) {
        object.rows_quarantined += set_aside.get(object.meta.key.as_str()).copied().unwrap_or(0);
        object.rows_duplicate = object.rows.saturating_sub(object.rows_accepted + object.rows_quarantined);
    }
}

/// Objects are fetched several at a time as long as their bytes together are within the bound of one.
struct Memory {
    room: Semaphore,
    /// All of it.
    permits: u32,
}

/// Bytes that a permit stands for.
const PERMIT_BYTES: u64 = 1 << 20;

impl Memory {
    fn of(limits: &ParseLimits) -> Self {
        let permits = Self::permits(limits.max_object_bytes);
        Self { room: Semaphore::new(permits as usize), permits }
    }

    fn permits(bytes: u64) -> u32 {
        u32::try_from(bytes / PERMIT_BYTES + 1).unwrap_or(u32::MAX)
    }

    /// Waits for room for an object, at most for all there is.
    async fn take(&self, size_bytes: u64) -> Option<SemaphorePermit<'_>> {
        // It fails only for a semaphore that is closed, which this one never is.
        self.room.acquire_many(Self::permits(size_bytes).min(self.permits)).await.ok()
    }
}

struct Reader {
    memory: Memory,
    zones: TimeZones,
    options: IngestOptions,
    contract: Contract,
    airports: BTreeMap<String, Airport>,
    now: DateTime<Utc>,
}

impl Reader {
    /// Fetches one object and reads it off the async threads.
    async fn take(
        self: Arc<Self>,
        store: &Arc<dyn ObjectStore>,
        meta: ObjectMeta,
        before: Option<KnownObject>,
        late: bool,
    ) -> (ObjectReport, Held) {
        let mut report = ObjectReport {
            meta,
            news: None,
            sha256: None,
            container: None,
            layout: None,
            rows: 0,
            rows_accepted: 0,
            rows_quarantined: 0,
            rows_duplicate: 0,
            unused_columns: Vec::new(),
            error: None,
            retryable: false,
            too_large: false,
        };
        let size_bytes = report.meta.size_bytes;
        if let Err(error) = self.options.reader.limits.check_stored(&report.meta.key, size_bytes) {
            report.sha256 = Some(listed_digest(&report.meta));
            (report.error, report.too_large) = (Some(chain(&error)), true);
            return (report, Held::Nothing);
        }
        let _room = self.memory.take(size_bytes).await;
        let body = match retrying(&self.options, || store.get(&report.meta.key)).await {
            Ok(body) => body,
            Err(error) => return (unread(report, &error), Held::Nothing),
        };
        let key = report.meta.key.clone();
        let known = before.is_some();
        let limits = &self.options.reader.limits;
        let before = before.filter(|seen| !seen.may_fit(limits)).map(|seen| seen.sha256);
        let (reader, bytes) = (Arc::clone(&self), body.clone());
        let read = delayd_core::spans::spawn_blocking(move || reader.read(&key, &bytes, before.as_ref())).await;
        let (digest, parsed) = match read {
            Ok(read) => read,
            Err(panicked) => {
                report.error = Some(format!("{}: reading it failed inside: {panicked}", report.meta.key));
                return (report, Held::Nothing);
            }
        };
        if let Ok(Some(_)) = &parsed {
            // Flights count only once their log cannot be lost any more.
            let kept = retrying(&self.options, || keep_copy(store.as_ref(), &digest, body.clone())).await;
            if let Err(error) = kept {
                return (unread(report, &error), Held::Nothing);
            }
        }
        report.news = Some(match &parsed {
            Ok(None) => ObjectNews::Unchanged,
            _ if known => ObjectNews::Changed,
            _ if late => ObjectNews::Late,
            _ => ObjectNews::New,
        });
        report.sha256 = Some(digest);
        match parsed {
            Ok(None) => (report, Held::Nothing),
            Ok(Some(parsed)) => {
                report.rows = parsed.flights.len() as u64 + parsed.rejected_count;
                report.container = Some(parsed.container);
                report.layout = Some(parsed.layout.clone());
                (report, Held::Flights(parsed))
            }
            Err(refusal) => {
                (report.retryable, report.too_large) = (refusal.retryable, refusal.too_large);
                report.rows = refusal.rows;
                report.rows_quarantined = refusal.quarantined_count;
                report.error = Some(refusal.why);
                (report, Held::Refused(refusal.quarantined))
            }
        }
    }

    /// Digest and rows; no rows where the bytes are those that were seen.
    fn read(
        &self,
        key: &str,
        body: &Bytes,
        before: Option<&Digest>,
    ) -> (Digest, Result<Option<ParsedObject>, Refusal>) {
        let digest = Digest::of(body);
        if before == Some(&digest) {
            return (digest, Ok(None));
        }
        let judged = self.options.reader.read(key, &digest, |limits| {
            let parsed = parse_flights(key, body, &self.zones, self.options.mapping.as_ref(), limits)?;
            self.judge_object(key, parsed)
        });
        let judged = judged.map_err(Refusal::from).flatten();
        (digest, judged.map(Some))
    }

    /// Refuses an object as a whole: too many bad rows, or columns nobody knows.
    fn judge_object(&self, key: &str, parsed: ParsedObject) -> Result<ParsedObject, Refusal> {
        if self.contract.unknown_columns == UnknownColumns::Reject && !parsed.unused_columns.is_empty() {
            let unknown = parsed.unused_columns.iter().cloned().collect::<Vec<_>>().join(", ");
            return Err(
                DataError::ContractBroken { failures: vec![format!("{key}: unknown columns {unknown}")] }.into()
            );
        }
        let records = parsed.flights.iter();
        let records = records.map(|(line, record)| SourcedRecord { source: 0, line: *line, record: record.clone() });
        let input = ValidationInput {
            sources: vec![key.to_owned()],
            records: records.collect(),
            unreadable_count: parsed.rejected_count,
            ..ValidationInput::default()
        };
        let validated = validate(input, &self.contract, &self.airports, self.now);
        let (report, mut quarantined) = (validated.report, validated.quarantined);
        if report.failures.is_empty() {
            return Ok(parsed);
        }
        let mut failures: Vec<String> = report.failures.iter().map(|failure| format!("{key}: {failure}")).collect();
        failures.push(format!("violations: {:?}", report.violations));
        if let Some(row) = parsed.rejected.first() {
            failures.push(format!("first unreadable row: line {}: {}", row.line, row.reasons.join("; ")));
        }
        quarantined.extend(parsed.rejected.into_iter().map(|row| row.quarantined(key)));
        let why = chain(&DataError::ContractBroken { failures });
        let (rows, quarantined_count) = (report.rows, report.quarantined);
        Err(Refusal { why, retryable: false, too_large: false, rows, quarantined_count, quarantined })
    }
}

/// Why an object is refused as a whole, with the rows that brought it to that.
struct Refusal {
    why: String,
    retryable: bool,
    too_large: bool,
    rows: u64,
    quarantined_count: u64,
    quarantined: Vec<QuarantinedRow>,
}

impl From<DataError> for Refusal {
    fn from(error: DataError) -> Self {
        Self {
            why: chain(&error),
            retryable: matches!(error, DataError::Port(_)),
            too_large: matches!(error, DataError::TooLarge { .. }),
            rows: 0,
            quarantined_count: 0,
            quarantined: Vec::new(),
        }
    }
}

/// What stands for the digest of an object whose bytes nobody read: another upload under its key is another version.
pub fn listed_digest(meta: &ObjectMeta) -> Digest {
    Digest::of(format!("{}\n{}\n{}", meta.key, meta.size_bytes, meta.last_modified).as_bytes())
}

/// An object that the store does not give, or whose copy it does not take.
fn unread(mut report: ObjectReport, error: &PortError) -> ObjectReport {
    report.retryable = error.is_retryable();
    report.error = Some(format!("{}: {}", report.meta.key, chain(error)));
    report
}

/// Calls a port until it answers, fails for good, or was tried often enough.
async fn retrying<T, F>(options: &IngestOptions, mut call: impl FnMut() -> F) -> Result<T, PortError>
where
    F: Future<Output = Result<T, PortError>>,
{
    let mut pause = options.retry_pause;
    let mut attempt = 1;
    loop {
        match call().await {
            Err(error)
                if error.kind() != ErrorKind::Conflict && error.is_retryable() && attempt < options.max_attempts =>
            {
                tracing::warn!(attempt, error = %chain(&error), pause_ms = pause.as_millis() as u64, "object store: trying again");
                tokio::time::sleep(pause).await;
                pause *= 2;
                attempt += 1;
            }
            outcome => return outcome,
        }
    }
}
