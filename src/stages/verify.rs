//! Verifying a release: replay held-out rows at it, ask its replicas, judge.

use crate::supervision::Request;
use delayd_core::ids::{DeploymentId, Digest, ModelVersion};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use delayd_model::{Bundle, PredictScratch, Predictor};
use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;

use super::ingest::DataStage;
use crate::config::Settings;
use crate::env::Env;
use delayd_core::document::Document;
use delayd_core::error::ErrorKind;
use delayd_core::failure::{StepFailure, run_blocking};
use delayd_core::ports::ReplicaState;
use delayd_data::Example;
use delayd_judge::verification::{VerificationInputs, VerificationReport, verify};
use delayd_ledger::{DeploymentState, VerificationRecord};
use delayd_outside::bundles::BundleStore;
use delayd_outside::service::FlightQuestion;
use delayd_outside::service::Scraper;
use delayd_outside::service::{ProbePolicy, ProbeRow, replay};
use delayd_training_job::HoldoutSettings;
use delayd_training_job::policy::{Part, part_of};

/// The verification's work, apart from its actor.
#[derive(Clone)]
pub struct VerificationStage {
    /// Clock, ledger and ports.
    pub env: Env,
    /// Configuration.
    pub settings: Arc<Settings>,
    /// Bundles on this machine.
    pub bundles: BundleStore,
    /// Where the rows to replay come from.
    pub data: DataStage,
    /// Asks the replicas.
    pub scraper: Arc<Scraper>,
}

impl VerificationStage {
    /// The trace of the cycle that made the deployment, for the replicas' logs.
    async fn traceparent(&self, message: &VerifyDeployment) -> Result<Option<String>, StepFailure> {
        let ledger = &self.env.ledger;
        let Some(cycle) = ledger.deployment(message.deployment).await?.and_then(|found| found.cycle) else {
            return Ok(None);
        };
        Ok(ledger.cycle(cycle).await?.map(|cycle| cycle.trace_id().traceparent("verify")))
    }

    /// As many as the release was made with: the configuration may have changed since.
    async fn replicas_wanted(&self, message: &VerifyDeployment) -> Result<u32, StepFailure> {
        let known = self.env.ledger.deployment(message.deployment).await?;
        Ok(known.map_or(self.settings.cluster.replicas, |known| known.release.replicas))
    }

    async fn record(&self, report: &VerificationReport, restored: bool) -> Result<(), StepFailure> {
        let now = self.env.now();
        let record = VerificationRecord {
            deployment: report.deployment,
            at: now,
            passed: report.passed(),
            report: Document::of(report)?,
        };
        self.env.ledger.insert_verification(record).await?;
        if restored {
            return Ok(());
        }
        let state = if report.passed() { DeploymentState::Verified } else { DeploymentState::Failed };
        self.env.ledger.set_deployment_state(report.deployment, state, now).await?;
        Ok(())
    }

    /// The previous live release, measured the same way when it was verified.
    async fn baseline(&self, message: &VerifyDeployment) -> Result<Option<VerificationReport>, StepFailure> {
        let Some(deployment) = self.env.ledger.deployment(message.deployment).await? else { return Ok(None) };
        let Some(previous) = deployment.previous else { return Ok(None) };
        let records = self.env.ledger.verifications_of(previous).await?;
        let Some(last) = records.into_iter().filter(|record| record.passed).max_by_key(|record| record.at) else {
            return Ok(None);
        };
        last.report.read().map(Some).map_err(|error| {
            StepFailure::new(
                ErrorKind::Corrupt,
                format!("the verification of {previous} in the ledger cannot be read: {error}"),
            )
        })
    }

    /// Rows to replay, each with the score that it must get.
    async fn rows(&self, message: &VerifyDeployment, bundle: &Bundle) -> Result<ReplayedRows, StepFailure> {
        let set = self.data.training_set(&message.dataset).await?;
        let needed = self.settings.verification.requests_needed() as usize + ProbePolicy::default().warm_up;
        let choice = Choice {
            needed,
            as_of: message.as_of,
            from: message.as_of - Duration::seconds((self.settings.training.reference_days * 86_400.0) as i64),
            holdout: self.settings.holdout.clone(),
        };
        let bundle = bundle.clone();
        let seed = message.deployment.0;
        run_blocking(move || {
            // Those that were trained on are gone through only where the others do not suffice.
            let mut examples = set.examples_that(|example| choice.is_held_out(example) || choice.is_recent(example))?;
            if !choice.suffices(&examples) {
                examples = set.examples_that(|_| true)?;
            }
            let (candidates, note) = choice.candidates(&examples);
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let chosen = index::sample(&mut random, candidates.len(), needed.min(candidates.len()));
            let predictor =
                Predictor::from_bundle(&bundle).map_err(|error| StepFailure::of(ErrorKind::Corrupt, &error))?;
            let mut scratch = PredictScratch::default();
            let rows = chosen.iter().map(|index| {
                let example = candidates[index];
                let body = serde_json::to_value(FlightQuestion::of(example))
                    .map_err(|error| StepFailure::of(ErrorKind::Internal, &error))?;
                let row = &example.row;
                Ok(ProbeRow {
                    label: format!(
                        "{}{} {}-{} {}",
                        row.carrier, row.flight_number, row.origin, row.dest, row.scheduled_departure
                    ),
                    body,
                    expected_score: Some(predictor.predict(row, &mut scratch).score),
                })
            });
            Ok(ReplayedRows { rows: rows.collect::<Result<_, StepFailure>>()?, note })
        })
        .await?
    }
}

/// Judges a release that was just rolled out: replays held-out rows against it, asks its replicas, and has the answers judged.
#[derive(Debug, Clone)]
pub struct VerifyDeployment {
    /// Which release.
    pub deployment: DeploymentId,
    /// The model that it must serve.
    pub model: ModelVersion,
    /// The bundle whose reference the scores are held against.
    pub bundle: Digest,
    /// Where held-out rows come from when there is too little live traffic.
    pub dataset: Digest,
    /// Rows are taken from before this moment.
    pub as_of: DateTime<Utc>,
    /// Whether it is one that serves again after a rollback: its state stays, and restarts before that do not count.
    pub restored: bool,
}

impl Request for VerifyDeployment {
    type Stage = VerificationStage;
    type Answer = DeploymentVerified;

    async fn run(self, stage: &VerificationStage) -> Result<DeploymentVerified, StepFailure> {
        let (bundles, digest) = (stage.bundles.clone(), self.bundle.clone());
        let bundle = run_blocking(move || bundles.read(&digest)).await?;
        let bundle = bundle.map_err(|error| StepFailure::of(error.kind(), &error))?;
        let ReplayedRows { rows, note } = stage.rows(&self, &bundle).await?;
        tracing::info!(deployment.id = %self.deployment, rows = rows.len(), "{note}");
        let mut probing = ProbePolicy::default();
        probing.headers.extend(stage.traceparent(&self).await?.map(|value| ("traceparent".to_owned(), value)));
        let probe = replay(&stage.env.cluster.service_url(), &rows, &probing).await;
        let probe = probe.map_err(|error| StepFailure::of(ErrorKind::Internal, &error))?;
        let replicas = stage.env.cluster.replicas().await?;
        let own: Vec<_> = replicas.iter().filter(|replica| replica.deployment == self.deployment).cloned().collect();
        let ready: Vec<_> = own.iter().filter(|replica| replica.state == ReplicaState::Ready).cloned().collect();
        let reports = stage.scraper.reports(&ready).await;
        let baseline = stage.baseline(&self).await?;
        let mut policy = stage.settings.verification.clone();
        if self.restored {
            // A replica that never stopped may have been restarted long before: that says nothing of the rollback.
            policy.maximum_restarts = u32::MAX;
        }
        let report = verify(
            &VerificationInputs {
                deployment: self.deployment,
                model: self.model,
                bundle: &self.bundle,
                replicas_wanted: stage.replicas_wanted(&self).await?,
                replicas: &own,
                reports: &reports.answers,
                probe: Some(&probe),
                baseline: baseline.as_ref().map(|report| &report.measured),
                reference: &bundle.reference,
                rows: &note,
            },
            &policy,
        );
        stage.record(&report, self.restored).await?;
        Ok(DeploymentVerified { passed: report.passed(), reason: report.reason, requests: rows.len() })
    }
}

/// The verdict, stored in the ledger.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeploymentVerified {
    /// Whether every check passed.
    pub passed: bool,
    /// One sentence.
    pub reason: String,
    /// Requests that were sent for it.
    pub requests: usize,
}

/// What is replayed, and where it is from.
struct ReplayedRows {
    rows: Vec<ProbeRow>,
    note: String,
}

/// Which rows are replayed.
struct Choice {
    needed: usize,
    as_of: DateTime<Utc>,
    /// Beginning of the days that the bundle's reference counted.
    from: DateTime<Utc>,
    holdout: HoldoutSettings,
}

impl Choice {
    fn is_held_out(&self, example: &Example) -> bool {
        matches!(part_of(example, self.as_of, &self.holdout), Part::Recent | Part::Seasonal)
    }

    fn is_recent(&self, example: &Example) -> bool {
        example.prediction_time >= self.from && example.prediction_time < self.as_of
    }

    /// Whether these, held out or recent all of them, are enough to draw from.
    fn suffices(&self, examples: &[Example]) -> bool {
        let count = |wanted: fn(&Self, &Example) -> bool| examples.iter().filter(|row| wanted(self, row)).count();
        count(Self::is_held_out) >= self.needed || count(Self::is_recent) >= self.needed
    }

    /// The rows to draw from, with a note of what they are: those held out of training where they suffice, of the
    /// reference's days if possible (other seasons score otherwise); else those of these days, else all.
    fn candidates<'a>(&self, examples: &'a [Example]) -> (Vec<&'a Example>, String) {
        let needed = self.needed;
        let is_held_out = |example: &&Example| self.is_held_out(example);
        let is_recent = |example: &&Example| self.is_recent(example);
        let held_out: Vec<&Example> = examples.iter().filter(is_held_out).collect();
        let both: Vec<&Example> = held_out.iter().copied().filter(is_recent).collect();
        if both.len() >= needed {
            let note = format!("{needed} of {} rows of the reference's days, held out of training", both.len());
            return (both, note);
        }
        if held_out.len() >= needed {
            let note = format!("{needed} of all {} rows that were held out of training", held_out.len());
            return (held_out, note);
        }
        let why = format!("only {} rows were held out of training and {needed} are needed", held_out.len());
        let recent: Vec<&Example> = examples.iter().filter(is_recent).collect();
        if recent.len() >= needed {
            let note = format!("{needed} of {} rows of the reference's days, learnt from too: {why}", recent.len());
            return (recent, note);
        }
        let all: Vec<&Example> = examples.iter().collect();
        let note = if all.len() >= needed {
            format!("{needed} of all {} rows, learnt from too: {why}", all.len())
        } else {
            format!("too few rows: the dataset has {} and {needed} are needed to judge", all.len())
        };
        (all, note)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use delayd_data::Outcome;
    use delayd_features::FlightRow;

    fn choice(needed: usize, percent: u32) -> Choice {
        let as_of: DateTime<Utc> = "2013-03-10T00:00:00Z".parse().unwrap();
        let holdout = HoldoutSettings { seasonal_percent: percent, recent_days: 2 };
        Choice { needed, as_of, from: as_of - Duration::days(7), holdout }
    }

    /// One flight each hour of the 20 days before the retrain.
    fn examples() -> Vec<Example> {
        let end = choice(1, 10).as_of;
        (1..=480)
            .map(|hour| {
                let prediction_time = end - Duration::hours(hour);
                let departure = prediction_time + Duration::hours(2);
                let row = FlightRow::scheduled("B6", hour as u32, "JFK", "LAX", departure);
                let known_at = prediction_time + Duration::minutes(30);
                let outcome = Outcome { delayed: false, arrival_delay_minutes: 0, known_at };
                Example { row, prediction_time, outcome: Some(outcome) }
            })
            .collect()
    }

    #[test]
    fn rows_that_the_model_never_learnt_from_are_replayed_where_they_suffice() {
        let examples = examples();
        for (needed, part) in [(30, "rows of the reference's days, held out"), (70, "rows that were held out")] {
            let choice = choice(needed, 10);
            let (rows, note) = choice.candidates(&examples);
            assert!(rows.len() >= needed && rows.len() < 120, "two days and a tenth of the rest: {}", rows.len());
            for row in &rows {
                assert!(matches!(part_of(row, choice.as_of, &choice.holdout), Part::Recent | Part::Seasonal));
            }
            assert!(note.contains(part) && !note.contains("learnt from too"), "{note}");
        }
    }

    #[test]
    fn where_too_few_rows_were_held_out_others_are_replayed_and_the_note_says_so() {
        let examples = examples();
        for (needed, rows, part) in [
            (130, 167..=168, "rows of the reference's days, learnt from too: only"),
            (400, 480..=480, "of all 480 rows, learnt from too"),
            (500, 480..=480, "too few rows: the dataset has 480 and 500 are needed to judge"),
        ] {
            let (found, note) = choice(needed, 10).candidates(&examples);
            assert!(rows.contains(&found.len()) && note.contains(part), "{needed}: {} rows, {note}", found.len());
        }
    }
}
