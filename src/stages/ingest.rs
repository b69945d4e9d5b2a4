//! Taking in new flight logs: canonical parts and outcomes, quarantine, and the alerts about what was rejected.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use serde::{Deserialize, Serialize};

use super::reference::{ReferenceDocuments, ReferenceLibrary};
use crate::config::Settings;
use crate::env::Env;
use crate::supervision::Request;
use delayd_core::error::ErrorKind;
use delayd_core::failure::StepFailure;
use delayd_core::ids::Digest;
use delayd_core::ports::Severity;
use delayd_data::contract::Contract;
use delayd_data::ingest::{
    IngestOptions, KnownObject, ObjectNews, ObjectReport, TakenObject, listed_digest, new_objects, take_in,
};
use delayd_data::parts::{Part, SourceJudge};
use delayd_data::validation::{QuarantinedRow, quarantine_csv};
use delayd_data::{DataError, FlightRecord, ObjectReader, ReferenceData, TrainingSet};
use delayd_ledger::{IngestedObject, KnownOutcome, NewAlert, ObjectStatus, ObjectsLooked};
use tokio::sync::Mutex;

/// Flights of which the records are written together: a restart repeats no more than these.
const BATCH_ROWS: usize = 100_000;
/// Objects of which the records are written together.
const BATCH_OBJECTS: usize = 256;

/// Ingestion and datasets. Training and verification read datasets through it too.
#[derive(Clone)]
pub struct DataStage {
    pub(super) env: Env,
    pub(super) settings: Arc<Settings>,
    contract: Arc<Contract>,
    library: ReferenceLibrary,
    reader: ObjectReader,
    /// The dataset that was read last.
    pub(super) set: Arc<Mutex<Option<TrainingSet>>>,
}

impl DataStage {
    /// The stage, with its contract read.
    ///
    /// # Errors
    /// When the contract is malformed, or says of a column that features read that it is known too late.
    pub fn new(env: Env, settings: Arc<Settings>) -> Result<Self, DataError> {
        let contract = Contract::configured(&settings.ingestion.contract_path)?;
        let library = ReferenceLibrary::new(env.clone(), settings.clone(), ReferenceDocuments::default());
        let reader = ObjectReader::new(settings.ingestion.limits, env.ledger.path().and_then(Path::parent));
        Ok(Self { env, settings, contract: Arc::new(contract), library, reader, set: Arc::default() })
    }

    /// The same stage, with reference data that are fetched from documents.
    #[must_use]
    pub fn with_documents(mut self, documents: ReferenceDocuments) -> Self {
        self.library = ReferenceLibrary::new(self.env.clone(), self.settings.clone(), documents);
        self
    }

    /// Airports and holidays, fetched again where that is due.
    ///
    /// # Errors
    /// When a configured object is missing or malformed, or a document has no copy
    /// yet and cannot be fetched.
    pub async fn reference(&self) -> Result<ReferenceData, StepFailure> {
        self.library.read().await
    }

    /// Parses and judges flight logs by the contract and the airports of this moment.
    pub(super) async fn judge(&self) -> Result<Arc<SourceJudge>, StepFailure> {
        let airports = self.reference().await?.airports;
        let mapping = self.settings.ingestion.column_mapping.clone();
        Ok(Arc::new(SourceJudge::new(Contract::clone(&self.contract), airports, mapping, self.reader.clone())?))
    }

    /// Takes in the new flight logs under a prefix.
    async fn ingest_under(
        &self,
        prefix: String,
        judge: &Arc<SourceJudge>,
        at: DateTime<Utc>,
        summary: &mut FlightsIngested,
    ) -> Result<(), StepFailure> {
        let options = IngestOptions {
            prefix,
            max_concurrent_fetches: self.settings.ingestion.concurrency,
            ..IngestOptions::default()
        };
        let store = &self.env.object_store;
        let mut known = self.known_objects().await?;
        let before = known.clone();
        let fresh = new_objects(store, &known, &options, &self.reader.limits).await?;
        let mut taken = pin!(take_in(store, fresh, &before, &options, judge.clone(), at));
        let mut batch = Vec::new();
        while let Some(object) = taken.next().await {
            batch.push(object);
            if batch.len() >= BATCH_OBJECTS
                || batch.iter().map(|taken| taken.accepted.len()).sum::<usize>() >= BATCH_ROWS
            {
                self.record(std::mem::take(&mut batch), &mut known, at, summary).await?;
            }
        }
        self.record(batch, &mut known, at, summary).await
    }

    /// Quarantine first, so that the records can name it; then the ledger: objects
    /// with their alerts, parts, outcomes, and what was seen. A crash in between only makes
    /// the next check read the same objects again.
    async fn record(
        &self,
        batch: Vec<TakenObject>,
        known: &mut BTreeMap<String, KnownObject>,
        at: DateTime<Utc>,
        summary: &mut FlightsIngested,
    ) -> Result<(), StepFailure> {
        if batch.is_empty() {
            return Ok(());
        }
        let (mut reports, mut parts, mut outcomes, mut quarantined) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for TakenObject { report, part, accepted, quarantined: rows, seen } in batch {
            outcomes.extend(accepted.iter().filter_map(known_outcome));
            summary.accepted += accepted.len();
            summary.refused.extend(report.error.clone());
            parts.extend(part);
            quarantined.extend(rows);
            known.extend(seen.map(|seen| (report.meta.key.clone(), seen)));
            reports.push(report);
        }
        summary.objects += reports.len();
        summary.quarantined += quarantined.len();
        summary.outcomes += outcomes.len();
        let name = at.format("%Y%m%dT%H%M%SZ").to_string();
        let quarantine = self.set_aside(&name, &quarantined).await?;
        let (unchanged, news): (Vec<&ObjectReport>, Vec<&ObjectReport>) =
            reports.iter().partition(|object| object.news == Some(ObjectNews::Unchanged));
        let set_aside: BTreeSet<&str> = quarantined.iter().map(|row| row.object.as_str()).collect();
        let objects: Vec<IngestedObject> = news
            .into_iter()
            .map(|object| {
                let key = quarantine.clone().filter(|_| set_aside.contains(object.meta.key.as_str()));
                ledger_object(object, key, at)
            })
            .collect();
        for refused in objects.iter().filter(|object| object.status != ObjectStatus::Ingested) {
            let why = refused.error.as_deref().unwrap_or_default();
            tracing::warn!(object.key = refused.key, object.status = %refused.status, "a flight log is rejected: {why}");
        }
        let alerts = objects.iter().filter_map(rejection_alert).collect();
        let unchanged = unchanged.into_iter().map(|object| object.meta.key.clone()).collect();
        self.save_parts(&parts).await?;
        self.env.ledger.record_objects(ObjectsLooked { objects, unchanged, alerts, at }).await?;
        self.env.ledger.upsert_outcomes(outcomes).await?;
        self.env.ledger.set_setting("ingested_objects", known.clone(), at).await?;
        Ok(())
    }

    pub(super) async fn save_parts(&self, parts: &[Part]) -> Result<(), StepFailure> {
        let text = |part: &Part| Ok((part.source.clone(), serde_json::to_string(part)?));
        let texts = parts.iter().map(text).collect::<Result<Vec<_>, serde_json::Error>>();
        let texts = texts.map_err(|error| StepFailure::of(ErrorKind::Internal, &error))?;
        Ok(self.env.ledger.save_parts(texts).await?)
    }

    /// What was taken in before, by key; of several versions the newest.
    async fn known_objects(&self) -> Result<BTreeMap<String, KnownObject>, StepFailure> {
        let listed = self.env.ledger.setting::<BTreeMap<String, KnownObject>>("ingested_objects").await?;
        Ok(listed.unwrap_or_default())
    }

    /// Writes rows that were set aside to the quarantine; answers where they lie. The
    /// same rows under the same name are the same object.
    pub(super) async fn set_aside(&self, name: &str, rows: &[QuarantinedRow]) -> Result<Option<String>, StepFailure> {
        if rows.is_empty() {
            return Ok(None);
        }
        let body = quarantine_csv(rows)?;
        let key = format!("quarantine/{name}-{}.csv", Digest::of(&body).short());
        self.env.object_store.put(&key, Bytes::from(body)).await?;
        Ok(Some(key))
    }
}

/// Fetches, parses and validates every flight log that is new, and alerts about those that are rejected.
#[derive(Debug, Clone)]
pub struct IngestFlights {
    /// The present moment: rows from the future are set aside.
    pub at: DateTime<Utc>,
}

/// What an ingestion brought.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct FlightsIngested {
    /// New objects that were read.
    pub objects: usize,
    /// Objects that could not be read at all, with the reason.
    pub refused: Vec<String>,
    /// Rows taken.
    pub accepted: usize,
    /// Rows in quarantine.
    pub quarantined: usize,
    /// Flights whose outcome became known.
    pub outcomes: usize,
}

impl Request for IngestFlights {
    type Stage = DataStage;
    type Answer = FlightsIngested;

    async fn run(self, stage: &DataStage) -> Result<FlightsIngested, StepFailure> {
        let judge = stage.judge().await?;
        let prefix = &stage.settings.ingestion.flights_prefix;
        let mut summary = FlightsIngested::default();
        // What was being read when an earlier process ended is read alone: if that ends this one too, it was the cause.
        for suspect in stage.reader.suspects(prefix) {
            stage.ingest_under(suspect, &judge, self.at, &mut summary).await?;
        }
        stage.ingest_under(prefix.clone(), &judge, self.at, &mut summary).await?;
        Ok(summary)
    }
}

fn status(object: &ObjectReport) -> ObjectStatus {
    match (&object.error, &object.sha256) {
        (None, _) => ObjectStatus::Ingested,
        (Some(_), Some(_)) if !object.retryable => ObjectStatus::Rejected,
        (Some(_), _) => ObjectStatus::Failed,
    }
}

fn ledger_object(object: &ObjectReport, quarantine_key: Option<String>, at: DateTime<Utc>) -> IngestedObject {
    let meta = &object.meta;
    IngestedObject {
        key: meta.key.clone(),
        digest: object.sha256.clone().unwrap_or_else(|| listed_digest(meta)),
        size_bytes: meta.size_bytes,
        rows_accepted: object.rows_accepted,
        rows_quarantined: object.rows_quarantined,
        rows_duplicate: object.rows_duplicate,
        unused_columns: object.unused_columns.clone(),
        quarantine_key,
        status: status(object),
        error: object.error.clone(),
        ingested_at: at,
        resolved_at: None,
    }
}

/// One alert for each version of an object, however often it is checked.
fn rejection_alert(object: &IngestedObject) -> Option<NewAlert> {
    let key = &object.key;
    let (title, advice) = match object.status {
        ObjectStatus::Ingested => return None,
        ObjectStatus::Rejected => (
            format!("a flight log was rejected: {key}"),
            "None of its rows was taken in; an earlier version of it still counts. Repair it and upload it again, under the \
             same key or another",
        ),
        ObjectStatus::Failed => (
            format!("a flight log could not be read: {key}"),
            "It is tried again at every check. If this persists, check the store and the daemon's permissions",
        ),
    };
    let rows =
        object.quarantine_key.as_ref().map_or_else(String::new, |rows| format!(" The rows in question: {rows}."));
    Some(NewAlert {
        at: object.ingested_at,
        severity: Severity::Warning,
        dedup_key: format!("object-{}/{key}/{}", object.status, object.digest.short()),
        title,
        body: format!("{}. {advice}.{rows} `delayd objects` lists all.", object.error.as_deref().unwrap_or_default()),
    })
}

fn known_outcome(record: &FlightRecord) -> Option<KnownOutcome> {
    let outcome = delayd_data::outcome(record)?;
    Some(KnownOutcome { flight: record.key(), delayed: outcome.delayed, known_at: outcome.known_at })
}
