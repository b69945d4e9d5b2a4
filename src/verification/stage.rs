//! Verifying a release: replay held-out rows at it, ask its replicas, judge.

use std::sync::Arc;

use chrono::Duration;
use delayd_model::{Bundle, PredictScratch, Predictor};
use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;

use super::messages::{DeploymentVerified, VerifyDeployment};
use super::probe::{ProbePolicy, ProbeRow, replay};
use super::verify::{VerificationInputs, VerificationReport, verify};
use crate::config::Settings;
use crate::data::{DataStage, Example};
use crate::env::Env;
use crate::error::ErrorKind;
use crate::ledger::{DeploymentState, VerificationRecord};
use crate::monitoring::scrape::Scraper;
use crate::ports::ReplicaState;
use crate::registry::BundleStore;
use crate::replay::FlightQuestion;
use crate::saga::{StepFailure, run_blocking};

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
    pub(super) async fn verify_deployment(&self, message: VerifyDeployment) -> Result<DeploymentVerified, StepFailure> {
        let (bundles, digest) = (self.bundles.clone(), message.bundle.clone());
        let bundle = run_blocking(move || bundles.read(&digest)).await?;
        let bundle = bundle.map_err(|error| StepFailure::of(error.kind(), &error))?;
        let rows = self.rows(&message, &bundle).await?;
        let mut policy = ProbePolicy::default();
        policy.headers.extend(self.traceparent(&message).await?.map(|value| ("traceparent".to_owned(), value)));
        let probe = replay(&self.env.cluster.service_url(), &rows, &policy).await;
        let probe = probe.map_err(|error| StepFailure::of(ErrorKind::Internal, &error))?;
        let replicas = self.env.cluster.replicas().await?;
        let own: Vec<_> = replicas.iter().filter(|replica| replica.deployment == message.deployment).cloned().collect();
        let ready: Vec<_> = own.iter().filter(|replica| replica.state == ReplicaState::Ready).cloned().collect();
        let reports = self.scraper.reports(&ready).await;
        let baseline = self.baseline(&message).await?;
        let report = verify(
            &VerificationInputs {
                deployment: message.deployment,
                model: message.model,
                bundle: &message.bundle,
                replicas_wanted: self.settings.cluster.replicas,
                replicas: &own,
                reports: &reports.answers,
                probe: Some(&probe),
                baseline: baseline.as_ref().map(|report| &report.measured),
                reference: &bundle.reference,
            },
            &self.settings.verification,
        );
        self.record(&report).await?;
        Ok(DeploymentVerified { passed: report.passed(), reason: report.reason, requests: rows.len() })
    }

    /// The trace of the cycle that made the deployment, for the replicas' logs.
    async fn traceparent(&self, message: &VerifyDeployment) -> Result<Option<String>, StepFailure> {
        let ledger = &self.env.ledger;
        let Some(cycle) = ledger.deployment(message.deployment).await?.and_then(|found| found.cycle) else {
            return Ok(None);
        };
        Ok(ledger.cycle(cycle).await?.map(|cycle| cycle.trace_id().traceparent("verify")))
    }

    async fn record(&self, report: &VerificationReport) -> Result<(), StepFailure> {
        let json = serde_json::to_value(report).map_err(|error| StepFailure::of(ErrorKind::Internal, &error))?;
        let now = self.env.now();
        let record =
            VerificationRecord { deployment: report.deployment, at: now, passed: report.passed(), report: json };
        self.env.ledger.insert_verification(record).await?;
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
        serde_json::from_value(last.report).map(Some).map_err(|error| {
            StepFailure::new(
                ErrorKind::Corrupt,
                format!("the verification of {previous} in the ledger cannot be read: {error}"),
            )
        })
    }

    /// Rows to replay, drawn from the days that the bundle's reference counted,
    /// each with the score that it must get.
    async fn rows(&self, message: &VerifyDeployment, bundle: &Bundle) -> Result<Vec<ProbeRow>, StepFailure> {
        let set = self.data.training_set(&message.dataset).await?;
        let needed = self.settings.verification.requests_needed() as usize + ProbePolicy::default().warm_up;
        let from = message.as_of - Duration::seconds((self.settings.training.reference_days * 86_400.0) as i64);
        let bundle = bundle.clone();
        let (seed, as_of) = (message.deployment.0, message.as_of);
        run_blocking(move || {
            let recent: Vec<&Example> = set
                .examples
                .iter()
                .filter(|example| example.prediction_time >= from && example.prediction_time < as_of)
                .collect();
            let candidates = if recent.len() >= needed { recent } else { set.examples.iter().collect() };
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let chosen = index::sample(&mut random, candidates.len(), needed.min(candidates.len()));
            let predictor =
                Predictor::from_bundle(&bundle).map_err(|error| StepFailure::of(ErrorKind::Corrupt, &error))?;
            let mut scratch = PredictScratch::default();
            chosen
                .iter()
                .map(|index| {
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
                })
                .collect::<Result<Vec<ProbeRow>, StepFailure>>()
        })
        .await?
    }
}
