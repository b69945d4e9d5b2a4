//! Reference data: airports, holidays and events, as the object store has them.
//!
//! Each counts by one object. Where a URL is configured, that object is the last
//! good copy of the document behind it: fetched conditionally now and then, and
//! replaced only by something that can be read and has not shrunk suspiciously;
//! while the URL is away or tells nonsense, the copy goes on to count, and somebody
//! is told. However an object came to change, the change is noticed, recorded in
//! the ledger and told, and every version's copy stays under `reference/versions/`.
//!
//! It deliberately merges nothing: what is not in the newest version is gone.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use delayd_features::HolidayCalendar;
use tokio::sync::Mutex;

use crate::config::Settings;
use crate::env::Env;
use delayd_core::document::Document;
use delayd_core::error::{ErrorKind, chain};
use delayd_core::failure::StepFailure;
use delayd_core::ids::Digest;
use delayd_core::ports::ReferenceKind;
use delayd_core::ports::{DocumentSource, FetchedDocument, ObjectMeta, ObjectStore, Severity, Validators};
use delayd_data::DataError;
use delayd_data::ObjectReader;
use delayd_data::holidays::extend_calendar;
use delayd_data::reference::stored::{
    FetchedCopy, get_if_there, note_of, parsed, store_copy, stored_meta, version_key,
};
use delayd_data::reference::{Content, ParsedContent, ReferenceChanges, ReferenceData, refused};
use delayd_ledger::{NewAlert, NewReferenceVersion, ReferenceOrigin};

/// Where the copy of the holidays' URL lies when no key is configured.
const HOLIDAYS_COPY: &str = "reference/holidays.ics";

/// The documents that reference data are fetched from; none where a file in the
/// store is all there is.
#[derive(Debug, Clone, Default)]
pub struct ReferenceDocuments {
    /// Airports by URL.
    pub airports: Option<Arc<dyn DocumentSource>>,
    /// Holidays by URL, an iCalendar.
    pub holidays: Option<Arc<dyn DocumentSource>>,
}

impl ReferenceDocuments {
    fn of(&self, kind: ReferenceKind) -> Option<&Arc<dyn DocumentSource>> {
        match kind {
            ReferenceKind::Airports => self.airports.as_ref(),
            ReferenceKind::Holidays => self.holidays.as_ref(),
            ReferenceKind::Events => None,
        }
    }
}

/// Keeps reference data up to date and reads them, again only when they change.
#[derive(Clone)]
pub struct ReferenceLibrary {
    env: Env,
    settings: Arc<Settings>,
    documents: ReferenceDocuments,
    reader: ObjectReader,
    shelf: Arc<Mutex<Shelf>>,
}

#[derive(Default)]
struct Shelf {
    kept: HashMap<ReferenceKind, Kept>,
    asked: HashMap<ReferenceKind, Asked>,
}

struct Kept {
    meta: ObjectMeta,
    digest: Digest,
    content: Arc<Content>,
}

/// When a document was asked for last, and whether that failed.
#[derive(Clone, Copy)]
struct Asked {
    at: DateTime<Utc>,
    failed: bool,
}

impl ReferenceLibrary {
    /// A library over the environment's object store.
    #[must_use]
    pub fn new(env: Env, settings: Arc<Settings>, documents: ReferenceDocuments) -> Self {
        let reader = ObjectReader::new(settings.ingestion.limits, env.ledger.path().and_then(Path::parent));
        Self { env, settings, documents, reader, shelf: Arc::default() }
    }

    /// Airports, holidays and events, fetched anew where that is due.
    ///
    /// # Errors
    /// When a configured object is missing or malformed, and when a document has
    /// no copy yet and cannot be fetched.
    pub async fn read(&self) -> Result<ReferenceData, StepFailure> {
        let mut shelf = self.shelf.lock().await;
        let airports = match self.content(&mut shelf, ReferenceKind::Airports).await?.as_deref() {
            Some(Content::Airports(airports)) => airports.clone(),
            _ => BTreeMap::new(),
        };
        let mut holidays = HolidayCalendar::us_federal();
        for kind in [ReferenceKind::Holidays, ReferenceKind::Events] {
            if let Some(Content::Days(days)) = self.content(&mut shelf, kind).await?.as_deref() {
                extend_calendar(&mut holidays, days.clone());
            }
        }
        Ok(ReferenceData { airports, holidays })
    }

    /// The object that counts; `None` where nothing is configured.
    fn key(&self, kind: ReferenceKind) -> Option<&str> {
        let ingestion = &self.settings.ingestion;
        let key = match kind {
            ReferenceKind::Airports => &ingestion.airports_key,
            ReferenceKind::Holidays => &ingestion.holidays_key,
            ReferenceKind::Events => &ingestion.events_key,
        };
        match (key.is_empty(), kind, self.documents.of(kind)) {
            (false, ..) => Some(key),
            (true, ReferenceKind::Holidays, Some(_)) => Some(HOLIDAYS_COPY),
            (true, ..) => None,
        }
    }

    async fn parse(&self, kind: ReferenceKind, key: &str, body: Bytes) -> Result<ParsedContent, DataError> {
        parsed(kind, key, body, &self.settings.ingestion.time_zones, &self.reader).await
    }

    async fn content(&self, shelf: &mut Shelf, kind: ReferenceKind) -> Result<Option<Arc<Content>>, StepFailure> {
        let Some(key) = self.key(kind) else { return Ok(None) };
        if let Some(document) = self.documents.of(kind) {
            self.refresh(shelf, kind, key, document.as_ref()).await?;
        }
        let store = self.env.object_store.as_ref();
        let meta = stored_meta(store, key).await?;
        if let (Some(meta), Some(kept)) = (&meta, shelf.kept.get(&kind))
            && *meta == kept.meta
        {
            return Ok(Some(kept.content.clone()));
        }
        self.reader.limits.check_stored(key, meta.as_ref().map_or(0, |meta| meta.size_bytes))?;
        let body = store.get(key).await?;
        let digest = Digest::of(&body);
        let content = match shelf.kept.remove(&kind) {
            Some(kept) if kept.digest == digest => kept.content,
            _ => {
                let parsed = self.parse(kind, key, body.clone()).await?;
                parsed.faults.iter().for_each(|fault| tracing::warn!(object.key = key, "{fault}"));
                self.notice(kind, body, &digest, &parsed).await?;
                Arc::new(parsed.content)
            }
        };
        if let Some(meta) = meta {
            shelf.kept.insert(kind, Kept { meta, digest, content: content.clone() });
        }
        Ok(Some(content))
    }

    /// Records a version that is not the newest known one, and tells what changed.
    async fn notice(
        &self,
        kind: ReferenceKind,
        body: Bytes,
        digest: &Digest,
        parsed: &ParsedContent,
    ) -> Result<(), StepFailure> {
        let newest = self.env.ledger.newest_reference(kind).await?;
        if newest.as_ref().is_some_and(|newest| newest.version.digest == *digest) {
            return Ok(());
        }
        let (store, now) = (&self.env.object_store, self.env.now());
        let object_key = version_key(kind, digest);
        store.put(&object_key, body).await?;
        let changes = match newest {
            None => ReferenceChanges::First,
            Some(newest) => self.changes(kind, &newest.version.object_key, &parsed.content).await?,
        };
        let alert = changes.told(kind).map(|(severity, title, body)| NewAlert {
            at: now,
            severity,
            dedup_key: format!("reference-changed/{kind}/{}/{}", digest.short(), now.timestamp()),
            title,
            body,
        });
        let origin = if self.documents.of(kind).is_some() { ReferenceOrigin::Url } else { ReferenceOrigin::Store };
        let changes = Document::of(&changes)?;
        let (digest, entries) = (digest.clone(), parsed.entries);
        let version = NewReferenceVersion { kind, digest, object_key, origin, entries, changes, noticed_at: now };
        tracing::info!(reference.kind = %kind, reference.digest = version.digest.short(), entries, "new reference data");
        self.env.ledger.record_reference(version, alert).await?;
        Ok(())
    }

    async fn changes(
        &self,
        kind: ReferenceKind,
        before_key: &str,
        after: &Content,
    ) -> Result<ReferenceChanges, StepFailure> {
        let unknown = |why: String| ReferenceChanges::Unknown { why };
        let Some(body) = get_if_there(self.env.object_store.as_ref(), before_key).await? else {
            return Ok(unknown(format!("the copy {before_key} is gone")));
        };
        Ok(match self.parse(kind, before_key, body).await {
            Ok(before) => after.changes_since(&before.content),
            Err(error) => unknown(chain(&error)),
        })
    }

    /// Fetches a document when that is due. What cannot replace the copy is told;
    /// it is a failure only while there is no copy.
    async fn refresh(
        &self,
        shelf: &mut Shelf,
        kind: ReferenceKind,
        key: &str,
        document: &dyn DocumentSource,
    ) -> Result<(), StepFailure> {
        let now = self.env.now();
        let copy = get_copy(self.env.object_store.as_ref(), key, !self.is_due(shelf, kind, now)).await?;
        let copy = match copy {
            Copy::NotWanted => return Ok(()),
            Copy::Missing => None,
            Copy::There(body, note) => Some((body, note)),
        };
        let outcome = self.fetch(kind, key, document, copy.as_ref()).await;
        shelf.asked.insert(kind, Asked { at: now, failed: outcome.is_err() });
        match outcome {
            Ok(()) => Ok(()),
            Err(failure) if copy.is_some() => self.tell_refused(kind, key, &failure).await,
            Err(failure) => {
                let message = format!(
                    "{failure}. There is no earlier copy in the object store under {key} that could count meanwhile: \
                     correct ingestion.{kind}_url, or put a file there"
                );
                Err(StepFailure::new(failure.kind, message))
            }
        }
    }

    fn is_due(&self, shelf: &Shelf, kind: ReferenceKind, now: DateTime<Utc>) -> bool {
        let policy = &self.settings.ingestion.reference;
        shelf.asked.get(&kind).is_none_or(|asked| {
            let minutes = if asked.failed { policy.retry_minutes } else { policy.refresh_minutes };
            now - asked.at >= TimeDelta::minutes(i64::from(minutes))
        })
    }

    async fn fetch(
        &self,
        kind: ReferenceKind,
        key: &str,
        document: &dyn DocumentSource,
        copy: Option<&(Bytes, Option<FetchedCopy>)>,
    ) -> Result<(), StepFailure> {
        // A copy that somebody changed by hand is not what its validators name.
        let known = copy
            .and_then(|(body, note)| note.as_ref().filter(|note| note.sha256 == Digest::of(body)))
            .map_or_else(Validators::default, |note| note.validators.clone());
        let (body, validators) = match document.fetch(&known).await? {
            FetchedDocument::Unchanged if known != Validators::default() => return Ok(()),
            FetchedDocument::Unchanged => {
                let text = format!("ingestion.{kind}_url answered that nothing changed, which was not asked");
                return Err(StepFailure::new(ErrorKind::Invalid, text));
            }
            FetchedDocument::Changed { body, validators } => (body, validators),
        };
        let sha256 = Digest::of(&body);
        if copy.is_none_or(|(copy, _)| Digest::of(copy) != sha256) {
            let before = match copy {
                Some((copy, _)) => self.parse(kind, key, copy.clone()).await.ok().map(|parsed| parsed.entries),
                None => None,
            };
            let fetched = self.parse(kind, key, body.clone()).await;
            if let Some(why) = refused(&fetched, before, self.settings.ingestion.reference.smallest_share) {
                let text = format!("what ingestion.{kind}_url answered is not taken: {why}");
                return Err(StepFailure::new(ErrorKind::Invalid, text));
            }
        }
        let note = FetchedCopy { sha256, validators, fetched_at: self.env.now() };
        Ok(store_copy(self.env.object_store.as_ref(), key, body, &note).await?)
    }

    async fn tell_refused(&self, kind: ReferenceKind, key: &str, failure: &StepFailure) -> Result<(), StepFailure> {
        tracing::warn!(reference.kind = %kind, error = %failure, "reference data cannot be refreshed; the copy counts");
        let (now, policy) = (self.env.now(), &self.settings.ingestion.reference);
        let body = format!(
            "{failure}. The last good copy ({key}) goes on to count; it is tried again every {} minutes. If the new \
             document is right although it is small, delete {key} from the object store: the next one is then taken \
             as the first.",
            policy.retry_minutes
        );
        let alert = NewAlert {
            at: now,
            severity: Severity::Warning,
            dedup_key: format!("reference-refused/{kind}/{}", now.date_naive()),
            title: format!("{kind} cannot be refreshed from their URL"),
            body,
        };
        self.env.ledger.enqueue_alert(alert).await?;
        Ok(())
    }
}

/// The copy of a document, as far as it is wanted.
enum Copy {
    /// It is there, and nothing is to be done.
    NotWanted,
    Missing,
    There(Bytes, Option<FetchedCopy>),
}

async fn get_copy(store: &dyn ObjectStore, key: &str, only_whether_it_is_there: bool) -> Result<Copy, StepFailure> {
    if only_whether_it_is_there && stored_meta(store, key).await?.is_some() {
        return Ok(Copy::NotWanted);
    }
    let Some(body) = get_if_there(store, key).await? else { return Ok(Copy::Missing) };
    let note = note_of(store, key).await?;
    Ok(Copy::There(body, note))
}
