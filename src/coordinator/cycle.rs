//! The cycle: the one readable list of steps and undos.
//!
//! ```text
//! ingest -> dataset -> train -> gate -> register -> (build) -> package -> push -> deploy -> verify -> approve
//! ```
//!
//! Every step asks the actor of its stage and is journaled by the saga. The
//! first cycle has no live model: its gate compares with the lookup table alone.
//! `build` happens only where the service is built from its source.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::config::{ApprovalMode, Settings};
use crate::coordinator::restored::verify_restored;
use crate::data::messages::{BuildDataset, DatasetBuilt, FlightsIngested, IngestFlights};
use crate::env::Env;
use crate::saga::steps::{APPROVE, BUILD, DATASET, DEPLOY, GATE, INGEST, PACKAGE, PUSH, REGISTER, TRAIN, VERIFY};
use crate::saga::{Saga, StepObserver};
use crate::stages::Stages;
use crate::stages::deploy::{DeployModel, ModelDeployed, RestoreRelease};
use crate::stages::package::{
    BuildService, DiscardImage, ImagePushed, ModelPackaged, PackageModel, PushImage, ServiceBuilt, WithdrawImage,
};
use crate::stages::register::{DemoteModel, ModelRegistered, PromoteModel, RegisterModel, WithdrawModel};
use crate::training::messages::{CompareWithLive, DiscardRun, GateAnswered, ModelTrained, TrainModel};
use crate::verification::messages::{DeploymentVerified, VerifyDeployment};
use delayd_core::error::ErrorKind;
use delayd_core::failure::StepFailure;
use delayd_core::ids::ModelVersion;
use delayd_ledger::{Cycle, CycleOutcome, UndoCause, Undoing};
use delayd_outside::packaging::SourceKind;

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

/// Runs a cycle from wherever the ledger says it is to its end: forward, or, once
/// its undoing has been noted, only back.
///
/// # Errors
/// Only when the ledger itself fails: everything else is an outcome.
pub async fn run(context: &CycleContext, cycle: &Cycle) -> Result<CycleEnd, StepFailure> {
    let saga = Saga::new(context.env.clone(), cycle.id, context.settings.daemon.step_retry(), context.observer.clone());
    let undoing = match &cycle.undoing {
        Some(undoing) => undoing.clone(),
        None => match forward(context, &saga, cycle).await {
            Ok(end) => return Ok(end),
            Err(failure) => {
                let undoing = why_undone(context, cycle, failure).await?;
                context.env.ledger.begin_undo(cycle.id, undoing.clone()).await?;
                undoing
            }
        },
    };
    let Undoing { cause, why } = undoing;
    tracing::warn!(cause = cause.as_str(), why, "the cycle is undone");
    // Not whether there is still something to undo: that would be forgotten by a crash in the middle.
    let release_touched = saga.begun(DEPLOY).await?;
    let (outcome, detail) = match undo(context, &saga, cycle).await? {
        Undone::Whole { restored } => {
            let outcome = match (cause, release_touched) {
                (UndoCause::Cancelled, _) => CycleOutcome::Cancelled,
                (UndoCause::Failed, false) => CycleOutcome::Failed,
                (UndoCause::Failed, true) | (UndoCause::Rejected, _) => CycleOutcome::RolledBack,
            };
            (outcome, restored.map_or(why.clone(), |restored| format!("{why}; {restored}")))
        }
        Undone::Stuck(stuck) => (CycleOutcome::Stuck, format!("{why}; and undoing it failed: {}", stuck.message)),
    };
    Ok(CycleEnd::Finished { outcome, detail })
}

/// The failure as the reason to undo the cycle; of a cancelled one, who cancelled it.
async fn why_undone(context: &CycleContext, cycle: &Cycle, failure: StepFailure) -> Result<Undoing, StepFailure> {
    if failure.kind != ErrorKind::Cancelled {
        return Ok(Undoing { cause: UndoCause::Failed, why: failure.message });
    }
    let request = context.env.ledger.cycle(cycle.id).await?.and_then(|cycle| cycle.cancel);
    Ok(Undoing { cause: UndoCause::Cancelled, why: request.map_or(failure.message, |request| request.to_string()) })
}

async fn forward(context: &CycleContext, saga: &Saga, cycle: &Cycle) -> Result<CycleEnd, StepFailure> {
    let stages = &context.stages;
    let _: FlightsIngested = saga.step(INGEST, || stages.data.ask(IngestFlights { at: context.env.now() })).await?;
    let dataset: DatasetBuilt =
        saga.step(DATASET, || stages.data.ask(BuildDataset { cycle: cycle.id, as_of: cycle.started_at })).await?;
    let trained: ModelTrained = saga
        .step(TRAIN, || {
            stages.training.ask(TrainModel {
                cycle: cycle.id,
                run: cycle.run,
                dataset: dataset.version.clone(),
                as_of: cycle.started_at,
            })
        })
        .await?;
    let gate: GateAnswered = saga
        .step(GATE, || {
            stages.training.ask(CompareWithLive {
                cycle: cycle.id,
                dataset: dataset.version.clone(),
                challenger: trained.bundle.clone(),
                as_of: cycle.started_at,
            })
        })
        .await?;
    if !gate.passed {
        stages.training.ask(DiscardRun { run: cycle.run }).await?;
        return Ok(CycleEnd::Finished { outcome: CycleOutcome::KeptLive, detail: gate.reason });
    }
    let registered: ModelRegistered = saga
        .step(REGISTER, || {
            stages.registry.ask(RegisterModel {
                cycle: cycle.clone(),
                trained: trained.clone(),
                dataset: dataset.version.clone(),
            })
        })
        .await?;
    let service = service(context, saga, cycle).await?;
    let packaged: ModelPackaged = saga
        .step(PACKAGE, || {
            stages.packaging.ask(PackageModel {
                model: registered.version,
                bundle: registered.bundle.clone(),
                dataset: dataset.version.clone(),
                service: service.clone(),
            })
        })
        .await?;
    let pushed: ImagePushed = saga
        .step(PUSH, || stages.packaging.ask(PushImage { model: registered.version, packaged: packaged.clone() }))
        .await?;
    let deployed: ModelDeployed = saga
        .step(DEPLOY, || {
            stages.deployment.ask(DeployModel {
                cycle: cycle.id,
                deployment: cycle.deployment,
                model: registered.version,
                bundle: registered.bundle.clone(),
                image: pushed.image.reference.clone(),
            })
        })
        .await?;
    let verified: DeploymentVerified = saga
        .step(VERIFY, || async {
            let answer: DeploymentVerified = stages
                .verification
                .ask(VerifyDeployment {
                    deployment: deployed.deployment,
                    model: registered.version,
                    bundle: registered.bundle.clone(),
                    dataset: dataset.version.clone(),
                    as_of: cycle.started_at,
                    restored: false,
                })
                .await?;
            if answer.passed { Ok(answer) } else { Err(StepFailure::new(ErrorKind::Invalid, answer.reason)) }
        })
        .await?;
    let by = match (context.settings.approval.mode, cycle.approved_by.clone()) {
        (ApprovalMode::Automatic, _) => "the verification".to_owned(),
        (ApprovalMode::Manual, Some(person)) => person,
        (ApprovalMode::Manual, None) => return Ok(CycleEnd::WaitingForApproval),
    };
    let approved: Approved = saga
        .step(APPROVE, || async {
            let promote = PromoteModel { version: registered.version, deployment: deployed.deployment };
            stages.registry.ask(promote).await?;
            Ok(Approved { model: registered.version, by: by.clone() })
        })
        .await?;
    Ok(CycleEnd::Finished {
        outcome: CycleOutcome::Deployed,
        detail: format!("{} is live, approved by {}: {}", approved.model, approved.by, verified.reason),
    })
}

/// The service's executable, built from its source where the configuration says
/// so; `None` for the one at hand. A cycle that was packaged already, perhaps by a
/// daemon that knew no such step, builds nothing any more.
async fn service(context: &CycleContext, saga: &Saga, cycle: &Cycle) -> Result<Option<ServiceBuilt>, StepFailure> {
    let wanted = context.settings.packaging.source.kind == SourceKind::Git;
    if let Some(built) = saga.output_of(BUILD).await? {
        return Ok(Some(built));
    }
    if !wanted || saga.output_of::<ModelPackaged>(PACKAGE).await?.is_some() {
        return Ok(None);
    }
    saga.step(BUILD, || context.stages.packaging.ask(BuildService { cycle: cycle.id })).await.map(Some)
}

/// How undoing a cycle ended.
enum Undone {
    /// Everything is taken back; what serves again, in words, where a release was.
    Whole { restored: Option<String> },
    /// An undo could not finish.
    Stuck(StepFailure),
}

/// Undoes in reverse what a cycle did. A release that was rolled back is verified too.
///
/// # Errors
/// Only when the ledger itself fails.
async fn undo(context: &CycleContext, saga: &Saga, cycle: &Cycle) -> Result<Undone, StepFailure> {
    let stages = &context.stages;
    let restored = Mutex::new(None);
    let mut stuck = None;
    let mut keep_first = |result: Result<(), StepFailure>| {
        if let Err(failure) = result {
            stuck.get_or_insert(failure);
        }
    };
    keep_first(saga.undo(APPROVE, || stages.registry.ask(DemoteModel { version: cycle.model })).await);
    let restore = || async {
        let to = stages.deployment.ask(RestoreRelease { failed: cycle.deployment }).await?;
        let Some(deployment) = to else { return Ok(()) };
        let verified = verify_restored(context, deployment, &cycle.id.to_string()).await?;
        *restored.lock().await = Some(verified.text);
        Ok(())
    };
    keep_first(saga.undo(DEPLOY, restore).await);
    keep_first(saga.undo(PUSH, || stages.packaging.ask(WithdrawImage { model: cycle.model })).await);
    keep_first(saga.undo(PACKAGE, || stages.packaging.ask(DiscardImage { model: cycle.model })).await);
    keep_first(saga.undo(REGISTER, || stages.registry.ask(WithdrawModel { version: cycle.model })).await);
    keep_first(saga.undo(TRAIN, || stages.training.ask(DiscardRun { run: cycle.run })).await);
    Ok(stuck.map_or_else(|| Undone::Whole { restored: restored.into_inner() }, Undone::Stuck))
}
