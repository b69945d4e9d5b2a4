//! What a look at the flight logs leaves behind: records, outcomes, quarantine, and
//! the alerts that tell what was refused.

use std::collections::BTreeSet;

use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::messages::FlightsIngested;
use crate::data::DataStage;
use delayd_core::failure::StepFailure;
use delayd_core::ids::Digest;
use delayd_core::ports::Severity;
use delayd_data::FlightRecord;
use delayd_data::ingest::listed_digest;
use delayd_data::ingest::{Ingested, ObjectNews, ObjectReport};
use delayd_data::validation::{LeftOutSource, QuarantinedRow, quarantine_csv};
use delayd_ledger::{FlightKey, IngestedObject, KnownOutcome, NewAlert, ObjectStatus, ObjectsLooked};

impl DataStage {
    /// Quarantine first, so that the records can name it; then the ledger: objects
    /// with their alerts, outcomes, and what was seen. A crash in between only makes
    /// the next pass look at the same objects again.
    pub(super) async fn record(&self, ingested: &Ingested, at: DateTime<Utc>) -> Result<FlightsIngested, StepFailure> {
        let report = &ingested.report;
        let outcomes = known_outcomes(&ingested.accepted);
        let summary = FlightsIngested {
            objects: report.objects.len(),
            refused: report.objects.iter().filter_map(|object| object.error.clone()).collect(),
            accepted: ingested.accepted.len(),
            quarantined: ingested.quarantined.len(),
            outcomes: outcomes.len(),
        };
        if report.objects.is_empty() {
            return Ok(summary);
        }
        let name = at.format("%Y%m%dT%H%M%SZ").to_string();
        let quarantine = self.set_aside(&name, &ingested.quarantined).await?;
        let (unchanged, news): (Vec<&ObjectReport>, Vec<&ObjectReport>) =
            report.objects.iter().partition(|object| object.news == Some(ObjectNews::Unchanged));
        let told: BTreeSet<&str> = ingested.quarantined.iter().map(|row| row.object.as_str()).collect();
        let objects: Vec<IngestedObject> = news
            .into_iter()
            .map(|object| {
                let key = quarantine.clone().filter(|_| told.contains(object.meta.key.as_str()));
                ledger_object(object, key, at)
            })
            .collect();
        for refused in objects.iter().filter(|object| object.status != ObjectStatus::Ingested) {
            let why = refused.error.as_deref().unwrap_or_default();
            tracing::warn!(object.key = refused.key, object.status = %refused.status, "a flight log is refused: {why}");
        }
        let alerts = objects.iter().filter_map(refusal_alert).collect();
        let unchanged = unchanged.into_iter().map(|object| object.meta.key.clone()).collect();
        self.env.ledger.record_objects(ObjectsLooked { objects, unchanged, alerts, at }).await?;
        self.env.ledger.upsert_outcomes(outcomes).await?;
        let mut known = self.known_objects().await?;
        known.extend(ingested.seen.clone());
        self.env.ledger.set_setting("ingested_objects", known, at).await?;
        Ok(summary)
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

    /// Tells, once for each, which flight logs are not in a dataset any more.
    pub(super) async fn tell_left_out(&self, left_out: &[LeftOutSource]) -> Result<(), StepFailure> {
        for LeftOutSource { key, sha256, reason } in left_out {
            tracing::warn!(object.key = key, object.digest = sha256.short(), "a flight log is left out: {reason}");
            let alert = NewAlert {
                at: self.env.now(),
                severity: Severity::Warning,
                dedup_key: format!("source-left-out/{key}/{}", sha256.short()),
                title: format!("a flight log that was taken in cannot be read any more: {key}"),
                body: format!(
                    "{reason}. Its flights are not in datasets from now on; the loop goes on without them. To have them \
                     back, upload the log as it was ({sha256}) under the same key or another."
                ),
            };
            self.env.ledger.enqueue_alert(alert).await?;
        }
        Ok(())
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

/// One alert for each version of an object, however often it is looked at.
fn refusal_alert(object: &IngestedObject) -> Option<NewAlert> {
    let key = &object.key;
    let (title, advice) = match object.status {
        ObjectStatus::Ingested => return None,
        ObjectStatus::Rejected => (
            format!("a flight log was refused: {key}"),
            "None of its rows was taken; an earlier version that was taken in goes on to count. Repair it and upload it \
             again, under the same key or another",
        ),
        ObjectStatus::Failed => (
            format!("a flight log could not be read: {key}"),
            "It is tried again at every look. If it stays so, look at the store and at the daemon's rights to it",
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

fn known_outcomes(accepted: &[FlightRecord]) -> Vec<KnownOutcome> {
    let outcome = |record: &FlightRecord| {
        let outcome = delayd_data::outcome(record)?;
        Some(KnownOutcome {
            flight: FlightKey {
                carrier: record.carrier.clone(),
                flight_number: record.flight_number,
                origin: record.origin.clone(),
                dest: record.dest.clone(),
                scheduled_departure: record.scheduled_departure,
            },
            delayed: outcome.delayed,
            known_at: outcome.known_at,
        })
    };
    accepted.iter().filter_map(outcome).collect()
}
