//! Taking in new flight logs: what lies under a prefix and was not seen in this
//! form is fetched, parsed and judged, each object by itself, and kept as a canonical part. One bad object never stops
//! the others, and nothing is remembered here: the caller keeps what was seen in the ledger.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::error::DataError;
use super::flight::FlightRecord;
use super::formats::{Container, ParseLimits};
use super::parts::{JudgedSource, Part, SourceJudge, store_part};
use super::sources::keep_copy;
use super::validation::QuarantinedRow;
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
}

impl Default for IngestOptions {
    fn default() -> Self {
        Self {
            prefix: "flights/".into(),
            max_concurrent_fetches: 4,
            max_attempts: 5,
            retry_pause: Duration::from_millis(200),
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

/// One object that was looked at, with what it brought.
#[derive(Debug)]
pub struct TakenObject {
    /// What happened.
    pub report: ObjectReport,
    /// What was made of it, where it was taken in.
    pub part: Option<Part>,
    /// Its accepted flights, in time order.
    pub accepted: Vec<FlightRecord>,
    /// Its rows that were set aside.
    pub quarantined: Vec<QuarantinedRow>,
    /// What to remember of it, so that it is not looked at until it changes; nothing where trying again may help.
    pub seen: Option<KnownObject>,
}

/// The objects under the prefix that were not seen in this form, oldest first.
///
/// # Errors
/// When the prefix cannot be listed.
pub async fn new_objects(
    store: &Arc<dyn ObjectStore>,
    known: &BTreeMap<String, KnownObject>,
    options: &IngestOptions,
    limits: &ParseLimits,
) -> Result<Vec<ObjectMeta>, DataError> {
    let mut fresh = retrying(options, || store.list(&options.prefix)).await?;
    fresh.retain(|meta| known.get(&meta.key).is_none_or(|seen| seen.meta != *meta || seen.may_fit(limits)));
    fresh.sort_by(|a, b| (a.last_modified, &a.key).cmp(&(b.last_modified, &b.key)));
    Ok(fresh)
}

/// Takes in objects, in their order, several at a time. What is taken in is kept: its copy, and its canonical part.
pub fn take_in<'a>(
    store: &'a Arc<dyn ObjectStore>,
    fresh: Vec<ObjectMeta>,
    known: &'a BTreeMap<String, KnownObject>,
    options: &'a IngestOptions,
    judge: Arc<SourceJudge>,
    now: DateTime<Utc>,
) -> impl Stream<Item = TakenObject> + 'a {
    let memory = Memory::of(&judge.reader().limits);
    let taker = Arc::new(Taker { memory, options: options.clone(), judge, now });
    let newest_known = known.values().map(|object| object.meta.last_modified).max();
    futures::stream::iter(fresh)
        .map(move |meta| {
            let taker = Arc::clone(&taker);
            let before = known.get(&meta.key).cloned();
            let late = newest_known.is_some_and(|newest| meta.last_modified < newest);
            async move { taker.take(store, meta, before, late).await }
        })
        .buffered(options.max_concurrent_fetches.max(1))
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

struct Taker {
    memory: Memory,
    options: IngestOptions,
    judge: Arc<SourceJudge>,
    now: DateTime<Utc>,
}

/// An object that was read.
enum Read {
    /// Its bytes are those that were seen.
    Unchanged,
    /// It was judged, and its part made, where it can be taken in.
    Judged(Box<JudgedSource>, Option<Box<(Part, Bytes)>>),
}

impl Taker {
    /// Fetches one object and reads it off the async threads.
    async fn take(
        self: Arc<Self>,
        store: &Arc<dyn ObjectStore>,
        meta: ObjectMeta,
        before: Option<KnownObject>,
        late: bool,
    ) -> TakenObject {
        let mut taken = TakenObject::of(meta);
        let (key, size_bytes) = (taken.report.meta.key.clone(), taken.report.meta.size_bytes);
        let limits = self.judge.reader().limits;
        if let Err(error) = limits.check_stored(&key, size_bytes) {
            taken.report.sha256 = Some(listed_digest(&taken.report.meta));
            return taken.refused(chain(&error), true, limits);
        }
        let _room = self.memory.take(size_bytes).await;
        let body = match retrying(&self.options, || store.get(&key)).await {
            Ok(body) => body,
            Err(error) => return taken.unread(&error),
        };
        let sha256 = Digest::of(&body);
        let known = before.is_some();
        let same = before.is_some_and(|seen| !seen.may_fit(&limits) && seen.sha256 == sha256);
        let (taker, bytes, digest, name) = (Arc::clone(&self), body.clone(), sha256.clone(), key.clone());
        let read = delayd_core::spans::spawn_blocking(move || taker.read(&name, &digest, &bytes, same)).await;
        let read = match read {
            Ok(read) => read,
            Err(panicked) => {
                taken.report.error = Some(format!("{key}: reading it failed inside: {panicked}"));
                return taken;
            }
        };
        if let Ok(Read::Judged(_, Some(made))) = &read {
            let (part, bytes) = made.as_ref();
            // Flights count only once their log cannot be lost any more.
            let kept = retrying(&self.options, || async {
                keep_copy(store.as_ref(), &sha256, body.clone()).await?;
                store_part(store.as_ref(), part, bytes.clone()).await
            });
            if let Err(error) = kept.await {
                return taken.unread(&error);
            }
        }
        taken.report.news = Some(match &read {
            Ok(Read::Unchanged) => ObjectNews::Unchanged,
            _ if known => ObjectNews::Changed,
            _ if late => ObjectNews::Late,
            _ => ObjectNews::New,
        });
        taken.report.sha256 = Some(sha256);
        match read {
            Ok(Read::Unchanged) => taken.remembered(None),
            Ok(Read::Judged(judged, part)) => taken.judged(*judged, part.map(|made| made.0)),
            Err(error) if matches!(error, DataError::Port(_)) => {
                taken.report.retryable = true;
                taken.report.error = Some(chain(&error));
                taken
            }
            Err(error) => {
                let too_large = matches!(error, DataError::TooLarge { .. });
                taken.refused(chain(&error), too_large, limits)
            }
        }
    }

    fn read(&self, key: &str, sha256: &Digest, body: &Bytes, same: bool) -> Result<Read, DataError> {
        if same {
            return Ok(Read::Unchanged);
        }
        let judged = self.judge.judge(key, sha256, body, self.now)?;
        let part = match judged.refused.is_empty() {
            true => Some(Box::new(self.judge.part(sha256, &judged.validated)?)),
            false => None,
        };
        Ok(Read::Judged(Box::new(judged), part))
    }
}

impl TakenObject {
    fn of(meta: ObjectMeta) -> Self {
        let report = ObjectReport {
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
        Self { report, part: None, accepted: Vec::new(), quarantined: Vec::new(), seen: None }
    }

    fn remembered(mut self, too_large_for: Option<ParseLimits>) -> Self {
        let meta = self.report.meta.clone();
        self.seen = self.report.sha256.clone().map(|sha256| KnownObject { meta, sha256, too_large_for });
        self
    }

    /// One that the store does not give, or whose copy it does not take.
    fn unread(mut self, error: &PortError) -> Self {
        self.report.retryable = error.is_retryable();
        self.report.error = Some(format!("{}: {}", self.report.meta.key, chain(error)));
        self
    }

    /// One that is not looked at again until it changes.
    fn refused(mut self, why: String, too_large: bool, limits: ParseLimits) -> Self {
        (self.report.error, self.report.too_large) = (Some(why), too_large);
        self.remembered(too_large.then_some(limits))
    }

    fn judged(mut self, judged: JudgedSource, part: Option<Part>) -> Self {
        let JudgedSource { container, layout, validated, refused } = judged;
        let report = &mut self.report;
        report.container = Some(container);
        report.layout = Some(layout);
        report.rows = validated.report.rows;
        report.rows_quarantined = validated.report.quarantined;
        report.unused_columns = validated.report.unused_columns;
        self.quarantined = validated.quarantined;
        if part.is_some() {
            report.rows_accepted = validated.report.accepted;
            report.rows_duplicate = validated.report.exact_duplicates;
            (self.accepted, self.part) = (validated.accepted, part);
        } else {
            report.error = Some(chain(&DataError::ContractBroken { failures: refused }));
        }
        self.remembered(None)
    }
}

/// What stands for the digest of an object whose bytes nobody read: another upload under its key is another version.
pub fn listed_digest(meta: &ObjectMeta) -> Digest {
    Digest::of(format!("{}\n{}\n{}", meta.key, meta.size_bytes, meta.last_modified).as_bytes())
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
