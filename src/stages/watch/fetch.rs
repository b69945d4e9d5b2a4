//! Fetching from replicas: what they counted goes into the book of windows, what
//! they predicted into the ledger, and a replica that has drained and handed
//! everything over is released.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Duration, Utc};
use delayd_model::admin::{ReplicaPhase, ReplicaReport};
use serde::{Deserialize, Serialize};

use super::MonitorStage;
use super::memory::Memory;
use crate::supervision::Request;
use delayd_core::failure::StepFailure;
use delayd_core::ids::FlightKey;
use delayd_core::ports::{Replica, ReplicaState};
use delayd_ledger::ServedPrediction;

/// What some replicas answered.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    /// Replicas that answered.
    pub(super) answered: usize,
    /// Ready replicas that did not, with the reason. One that is starting, draining or failed may be silent.
    pub(super) silent: Vec<String>,
    /// Rows that are new.
    pub(super) rows: u64,
    /// Predictions that were overwritten before they could be fetched.
    pub(super) predictions_lost: u64,
    /// Replicas whose counts are final and all fetched.
    final_counts: Vec<Replica>,
}

/// What came of fetching predictions.
#[derive(Debug, Default)]
struct Predictions {
    lost: u64,
    /// Replicas of which some are left to fetch.
    incomplete: BTreeSet<String>,
}

/// Fetches the last counts of draining replicas, and releases them. They linger for seconds only, much shorter than
/// the monitor's interval, so this is done while a rollout is under way. Nothing is judged.
#[derive(Debug, Clone)]
pub struct CollectDraining;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Replicas that were draining or had drained.
    pub draining: usize,
    /// Those of them whose last counts were fetched: they leave now.
    pub released: usize,
    /// Rows that they had counted since the last check.
    pub rows: u64,
}

impl Request for CollectDraining {
    type Stage = MonitorStage;
    type Answer = Collected;

    async fn run(self, stage: &MonitorStage) -> Result<Collected, StepFailure> {
        let _alone = stage.checking.lock().await;
        let mut replicas = stage.env.cluster.replicas().await?;
        replicas.retain(|replica| replica.state == ReplicaState::Draining);
        if replicas.is_empty() {
            return Ok(Collected::default());
        }
        let now = stage.env.now();
        let mut memory = stage.recall().await?;
        let fetched = stage.fetch(&replicas, &mut memory, now).await?;
        stage.remember(memory, now).await?;
        let released = stage.release(&fetched).await;
        Ok(Collected { draining: replicas.len(), released, rows: fetched.rows })
    }
}

impl MonitorStage {
    /// Fetches counts and predictions of some replicas. They are safe once the memory is stored.
    pub(super) async fn fetch(
        &self,
        replicas: &[Replica],
        memory: &mut Memory,
        now: DateTime<Utc>,
    ) -> Result<Fetched, StepFailure> {
        let scraped = self.scraper.reports(replicas).await;
        let mut fetched = Fetched { answered: scraped.answers.len(), ..Fetched::default() };
        let ready = |name: &str| replicas.iter().any(|one| one.name == name && one.state == ReplicaState::Ready);
        for failure in &scraped.failures {
            if ready(&failure.replica) {
                tracing::warn!(error = %failure, "a ready replica did not report its counts; it is asked again at the next check");
                fetched.silent.push(failure.to_string());
            }
        }
        let mut processes = Vec::new();
        let mut drained = BTreeSet::new();
        for report in scraped.answers {
            let process = format!("{}@{}", report.replica, report.started_at.timestamp_micros());
            processes.push((report.replica.clone(), process.clone()));
            if report.phase == ReplicaPhase::Drained {
                drained.insert(report.replica.clone());
            }
            match memory.book.absorb(&restamped(report, now, &process, &mut memory.first_seen)) {
                Ok(absorbed) => fetched.rows += absorbed.rows,
                Err(error) => {
                    tracing::error!(error = %delayd_core::error::chain(&error), "a replica's counts were ignored")
                }
            }
        }
        let predictions = self.fetch_predictions(replicas, &processes, memory).await?;
        fetched.predictions_lost = predictions.lost;
        memory.predictions_lost += predictions.lost;
        if predictions.lost > 0 {
            tracing::warn!(predictions.lost, "predictions were overwritten before they could be fetched");
        }
        let is_final = |one: &&Replica| drained.contains(&one.name) && !predictions.incomplete.contains(&one.name);
        fetched.final_counts = replicas.iter().filter(is_final).cloned().collect();
        Ok(fetched)
    }

    /// Releases replicas whose last counts are stored; answers how many. One that
    /// cannot be reached waits for its linger time, and loses nothing by that.
    pub(super) async fn release(&self, fetched: &Fetched) -> usize {
        let mut released = 0;
        for replica in &fetched.final_counts {
            match self.scraper.collected(replica).await {
                Ok(()) => released += 1,
                Err(error) => {
                    tracing::info!(error = %error, "a drained replica could not be released; it leaves by itself")
                }
            }
        }
        released
    }

    /// Fetches what was predicted since the last check into the ledger.
    async fn fetch_predictions(
        &self,
        replicas: &[Replica],
        processes: &[(String, String)],
        memory: &mut Memory,
    ) -> Result<Predictions, StepFailure> {
        let mut found = Predictions::default();
        let mut waiting: Vec<(Replica, String)> = Vec::new();
        for (name, process) in processes {
            if let Some(replica) = replicas.iter().find(|replica| replica.name == *name) {
                waiting.push((replica.clone(), process.clone()));
            }
        }
        while !waiting.is_empty() {
            let asked: Vec<(Replica, u64)> = waiting
                .iter()
                .map(|(replica, process)| (replica.clone(), memory.fetched.get(process).copied().unwrap_or(0)))
                .collect();
            let pages = self.scraper.predictions(&asked).await;
            for failure in &pages.failures {
                found.incomplete.insert(failure.replica.clone());
                tracing::warn!(error = %failure, "a replica's predictions could not be fetched; this is retried at the next check");
            }
            let mut more = Vec::new();
            for page in pages.answers {
                let Some((replica, process)) = waiting.iter().find(|(replica, _)| replica.name == page.replica) else {
                    continue;
                };
                found.lost += page.lost;
                let now = self.env.now();
                let rows =
                    page.predictions.iter().filter_map(|prediction| self.served(process, prediction, now)).collect();
                self.env.ledger.insert_predictions(rows).await?;
                memory.fetched.insert(process.clone(), page.next_after);
                if page.more {
                    more.push((replica.clone(), process.clone()));
                }
            }
            waiting = more;
        }
        Ok(found)
    }

    /// A prediction as the ledger keeps it; `None` where it names an unknown model.
    fn served(
        &self,
        process: &str,
        prediction: &delayd_model::admin::ServedPrediction,
        now: DateTime<Utc>,
    ) -> Option<ServedPrediction> {
        Some(ServedPrediction {
            replica: process.to_owned(),
            seq: prediction.seq,
            flight: FlightKey {
                carrier: prediction.carrier.clone(),
                flight_number: prediction.flight_number,
                origin: prediction.origin.clone(),
                dest: prediction.dest.clone(),
                scheduled_departure: prediction.scheduled_departure,
            },
            prediction_time: self.predicted_at(prediction, now),
            score: f64::from(prediction.score),
            model: prediction.model_version.parse().ok()?,
        })
    }

    /// When a prediction was made on the daemon's clock: a replica's own clock
    /// knows nothing of a replay, where flights are asked about at the horizon.
    fn predicted_at(&self, prediction: &delayd_model::admin::ServedPrediction, now: DateTime<Utc>) -> DateTime<Utc> {
        if prediction.received_at <= now {
            return prediction.received_at;
        }
        let horizon = Duration::minutes(i64::from(self.settings.ingestion.horizon_minutes));
        (prediction.scheduled_departure - horizon).min(now)
    }
}

/// A report with the daemon's time instead of the replica's.
fn restamped(
    mut report: ReplicaReport,
    now: DateTime<Utc>,
    process: &str,
    first_seen: &mut BTreeMap<String, DateTime<Utc>>,
) -> ReplicaReport {
    report.started_at = *first_seen.entry(process.to_owned()).or_insert(now);
    report.reported_at = now;
    report
}
