//! The cycle: the one readable list of steps and undos.
//!
//! ```text
//! ingest -> dataset -> train -> gate -> register -> package -> push -> deploy -> verify -> approve
//! ```
//!
//! Every step asks the actor of its stage and is journaled by the saga. The
//! first cycle has no live model: its gate compares with the lookup table alone.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{ApprovalMode, Settings};
use crate::coordinator::stages::Stages;
use crate::data::messages::{BuildDataset, DatasetBuilt, FlightsIngested, IngestFlights};
use crate::deployment::messages::{DeployModel, ModelDeployed, RestoreRelease};
use crate::env::Env;
use crate::error::ErrorKind;
use crate::ids::ModelVersion;
use crate::ledger::{CycleOutcome, CycleRecord};
use crate::packaging::messages::{DiscardImage, ImagePushed, ModelPackaged, PackageModel, PushImage, WithdrawImage};
use crate::registry::messages::{ModelRegistered, PromoteModel, RegisterModel, WithdrawModel};
use crate::saga::{RetryPolicy, Saga, StepFailure, StepObserver};
use crate::training::messages::{CompareWithLive, DiscardRun, GateAnswered, ModelTrained, TrainModel};
use crate::verification::messages::{DeploymentVerified, VerifyDeployment};

/// Names of the steps, in order.
pub const STEPS: [&str; 10] =
    ["ingest", "dataset", "train", "gate", "register", "package", "push", "deploy", "verify", "approve"];

/// How a cycle ended, or that it waits for a person.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum CycleEnd {
    /// It is over.
    Finished {
        /// How.
        outcome: CycleOutcome,
        /// One sentence.
        detail: String,
    },
    /// Verified, and waiting for an administrator.
    WaitingForApproval,
}

/// What the last step records.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Approved {
    model: ModelVersion,
    by: String,
}

/// Everything a cycle needs.
#[derive(Clone)]
pub struct CycleContext {
    /// Clock, ledger and ports.
    pub env: Env,
    /// Configuration.
    pub settings: Arc<Settings>,
    /// The stages' actors.
    pub stages: Stages,
    /// Told of every step.
    pub observer: Arc<dyn StepObserver>,
}

/// Runs a cycle from wherever the ledger says it is to its end. `approved_by`
/// names who approved it where approval is manual.
///
/// # Errors
/// Only when the ledger itself fails: everything else is an outcome.
pub async fn run(context: &CycleContext, cycle: &CycleRecord, approved_by: Option<String>) -> Result<CycleEnd, StepFailure> {
    let saga = Saga::new(context.env.clone(), cycle.id, context.settings.daemon.step_retry(), context.observer.clone());
    match forward(context, &saga, cycle, approved_by).await {
        Ok(end) => Ok(end),
        Err(failure) => {
            let undone = undo(context, &saga, cycle).await;
            let cancelled = failure.kind == ErrorKind::Cancelled;
            Ok(match undone {
                Ok(restored) => {
                    let outcome = match (cancelled, restored) {
                        (true, _) => CycleOutcome::Cancelled,
                        (false, true) => CycleOutcome::RolledBack,
                        (false, false) => CycleOutcome::Failed,
                    };
                    CycleEnd::Finished { outcome, detail: failure.message }
                }
                Err(stuck) => CycleEnd::Finished {
                    outcome: CycleOutcome::Stuck,
                    detail: format!("{}; and undoing it failed: {}", failure.message, stuck.message),
                },
            })
        }
    }
}

async fn forward(
    context: &CycleContext,
    saga: &Saga,
    cycle: &CycleRecord,
    approved_by: Option<String>,
) -> Result<CycleEnd, StepFailure> {
    let stages = &context.stages;
    let _: FlightsIngested = saga.step(1, "ingest", || stages.data(IngestFlights { at: context.env.now() })).await?;
    let dataset: DatasetBuilt =
        saga.step(2, "dataset", || stages.data(BuildDataset { cycle: cycle.id, as_of: cycle.started_at })).await?;
    let trained: ModelTrained = saga
        .step(3, "train", || {
            stages.training(TrainModel { cycle: cycle.id, run: cycle.run, dataset: dataset.version.clone(), as_of: cycle.started_at })
        })
        .await?;
    let gate: GateAnswered = saga
        .step(4, "gate", || {
            stages.training(CompareWithLive {
                cycle: cycle.id,
                dataset: dataset.version.clone(),
                challenger: trained.bundle.clone(),
                as_of: cycle.started_at,
            })
        })
        .await?;
    if !gate.passed {
        stages.training(DiscardRun { run: cycle.run }).await?;
        return Ok(CycleEnd::Finished { outcome: CycleOutcome::KeptLive, detail: gate.reason });
    }
    let registered: ModelRegistered = saga
        .step(5, "register", || stages.registry(RegisterModel { cycle: cycle.clone(), trained: trained.clone(), dataset: dataset.version.clone() }))
        .await?;
    let packaged: ModelPackaged = saga
        .step(6, "package", || stages.packaging(PackageModel { model: registered.version, bundle: registered.bundle.clone(), dataset: dataset.version.clone() }))
        .await?;
    let pushed: ImagePushed =
        saga.step(7, "push", || stages.packaging(PushImage { model: registered.version, packaged: packaged.clone() })).await?;
    let deployed: ModelDeployed = saga
        .step(8, "deploy", || {
            stages.deployment(DeployModel {
                cycle: cycle.id,
                deployment: cycle.deployment,
                model: registered.version,
                bundle: registered.bundle.clone(),
                image: pushed.image.reference.clone(),
            })
        })
        .await?;
    let verified: DeploymentVerified = saga
        .step(9, "verify", || async {
            let answer: DeploymentVerified = stages
                .verification(VerifyDeployment {
                    deployment: deployed.deployment,
                    model: registered.version,
                    bundle: registered.bundle.clone(),
                    dataset: dataset.version.clone(),
                    as_of: cycle.started_at,
                })
                .await?;
            if answer.passed { Ok(answer) } else { Err(StepFailure::new(ErrorKind::Invalid, answer.reason)) }
        })
        .await?;
    let by = match (context.settings.approval.mode, approved_by) {
        (ApprovalMode::Automatic, _) => "the verification".to_owned(),
        (ApprovalMode::Manual, Some(person)) => person,
        (ApprovalMode::Manual, None) => return Ok(CycleEnd::WaitingForApproval),
    };
    let approved: Approved = saga
        .step(10, "approve", || async {
            let promote = PromoteModel { version: registered.version, deployment: deployed.deployment };
            stages.registry(promote).await?;
            Ok(Approved { model: registered.version, by: by.clone() })
        })
        .await?;
    Ok(CycleEnd::Finished {
        outcome: CycleOutcome::Deployed,
        detail: format!("{} is live, approved by {}: {}", approved.model, approved.by, verified.reason),
    })
}

/// Undoes in reverse what a failed cycle did. Answers whether a release had to
/// be rolled back.
async fn undo(context: &CycleContext, saga: &Saga, cycle: &CycleRecord) -> Result<bool, StepFailure> {
    let stages = &context.stages;
    let mut stuck = None;
    let mut keep_first = |result: Result<(), StepFailure>| {
        if let Err(failure) = result {
            stuck.get_or_insert(failure);
        }
    };
    let release_touched = saga.touched("deploy").await?;
    keep_first(saga.undo("approve", || stages.registry(crate::registry::messages::DemoteModel { version: cycle.model })).await);
    keep_first(saga.undo("deploy", || stages.deployment(RestoreRelease { failed: cycle.deployment })).await);
    keep_first(saga.undo("push", || stages.packaging(WithdrawImage { model: cycle.model })).await);
    keep_first(saga.undo("package", || stages.packaging(DiscardImage { model: cycle.model })).await);
    keep_first(saga.undo("register", || stages.registry(WithdrawModel { version: cycle.model })).await);
    keep_first(saga.undo("train", || stages.training(DiscardRun { run: cycle.run })).await);
    stuck.map_or(Ok(release_touched), Err)
}

/// Undoes a cycle that waited for approval and was rejected.
///
/// # Errors
/// When an undo is stuck or the ledger fails.
pub async fn reject(context: &CycleContext, cycle: &CycleRecord) -> Result<(), StepFailure> {
    let saga = Saga::new(context.env.clone(), cycle.id, RetryPolicy::default(), context.observer.clone());
    undo(context, &saga, cycle).await.map(|_| ())
}

/// How long a step may take before its stage is considered hung.
#[must_use]
pub fn step_deadline(step: &str) -> Duration {
    match step {
        "train" => Duration::from_secs(6 * 3600),
        "dataset" | "gate" | "ingest" => Duration::from_secs(1800),
        _ => Duration::from_secs(900),
    }
}
