//! The cycle: the one table of steps, each with its action and its undo.
//!
//! ```text
//! ingest -> dataset -> train -> gate -> register -> (build) -> package -> push -> deploy -> verify -> approve
//! ```
//!
//! Every action asks the actor of its stage and is journaled by the saga. The
//! first cycle has no live model: its gate compares with the lookup table alone.
//! `build` happens only where the service is built from its source.

use std::cell::RefCell;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};

use super::restored::verify_restored;
use super::saga::{RetryPolicy, Saga, StepName, StepObserver};
use crate::config::{ApprovalMode, Settings};
use crate::env::Env;
use crate::stages::Stages;
use crate::stages::dataset::{BuildDataset, DatasetBuilt};
use crate::stages::deploy::{DeployModel, ModelDeployed, RestoreRelease};
use crate::stages::gate::{CompareWithLive, GateAnswered};
use crate::stages::ingest::{FlightsIngested, IngestFlights};
use crate::stages::package::{
    BuildService, DiscardImage, ImagePushed, ModelPackaged, PackageModel, PushImage, ServiceBuilt, WithdrawImage,
};
use crate::stages::register::{DemoteModel, ModelRegistered, PromoteModel, RegisterModel, WithdrawModel};
use crate::stages::train::{DiscardRun, ModelTrained, TrainModel};
use crate::stages::verify::{DeploymentVerified, VerifyDeployment};
use delayd_core::error::ErrorKind;
use delayd_core::failure::StepFailure;
use delayd_core::ids::{Digest, ModelVersion};
use delayd_ledger::{Cycle, CycleOutcome, UndoCause, Undoing};
use delayd_outside::packaging::SourceKind;

// A step's position is its place in the journal's key: it never changes, and a new step takes a number between two
// others (decision 0009).
pub const INGEST: StepName = StepName::new(10, "ingest");
pub const DATASET: StepName = StepName::new(20, "dataset");
pub const TRAIN: StepName = StepName::new(30, "train");
pub const GATE: StepName = StepName::new(40, "gate");
pub const REGISTER: StepName = StepName::new(50, "register");
pub const BUILD: StepName = StepName::new(55, "build");
pub const PACKAGE: StepName = StepName::new(60, "package");
pub const PUSH: StepName = StepName::new(70, "push");
pub const DEPLOY: StepName = StepName::new(80, "deploy");
pub const VERIFY: StepName = StepName::new(90, "verify");
pub const APPROVE: StepName = StepName::new(100, "approve");

type Action = for<'a> fn(&'a mut Run) -> LocalBoxFuture<'a, Result<Flow, StepFailure>>;
type Undo = for<'a> fn(&'a Run) -> LocalBoxFuture<'a, Result<(), StepFailure>>;

/// One row of the table.
#[derive(Clone, Copy)]
pub struct Step {
    pub step: StepName,
    action: Action,
    /// `None` where there is nothing to take back.
    undo: Option<Undo>,
}

const fn step(step: StepName, action: Action, undo: Option<Undo>) -> Step {
    Step { step, action, undo }
}

/// The steps, in order. The page's picture of the loop shows the same ones, which a test here holds.
pub const STEPS: [Step; 11] = [
    step(INGEST, |run| run.ingest().boxed_local(), None),
    step(DATASET, |run| run.build_dataset().boxed_local(), None),
    step(TRAIN, |run| run.train().boxed_local(), Some(|run| run.discard_run().boxed_local())),
    step(GATE, |run| run.compare_with_live().boxed_local(), None),
    step(REGISTER, |run| run.register().boxed_local(), Some(|run| run.withdraw_model().boxed_local())),
    step(BUILD, |run| run.build_service().boxed_local(), None),
    step(PACKAGE, |run| run.package().boxed_local(), Some(|run| run.discard_image().boxed_local())),
    step(PUSH, |run| run.push().boxed_local(), Some(|run| run.withdraw_image().boxed_local())),
    step(DEPLOY, |run| run.deploy().boxed_local(), Some(|run| run.restore_release().boxed_local())),
    step(VERIFY, |run| run.verify().boxed_local(), None),
    step(APPROVE, |run| run.approve().boxed_local(), Some(|run| run.demote().boxed_local())),
];

/// Whether the next step follows.
enum Flow {
    Continue,
    End(CycleEnd),
}

/// How a cycle ended, or that it is waiting for a person.
#[derive(Debug, Clone, PartialEq)]
pub enum CycleEnd {
    Finished {
        outcome: CycleOutcome,
        detail: String,
    },
    /// Verified, and waiting for an administrator.
    WaitingForApproval,
}

/// Everything a cycle needs.
#[derive(Clone)]
pub struct CycleContext {
    pub env: Env,
    pub settings: Arc<Settings>,
    pub stages: Stages,
    pub observer: Arc<dyn StepObserver>,
}

/// Runs a cycle from wherever the ledger says it is to its end: forward, or, once
/// its undoing has been recorded, only back.
pub async fn run(context: &CycleContext, cycle: &Cycle) -> Result<CycleEnd, StepFailure> {
    let retry = RetryPolicy::of(&context.settings.daemon);
    let saga = Saga::new(context.env.clone(), cycle.id, retry, context.observer.clone());
    let mut run = Run {
        context: context.clone(),
        cycle: cycle.clone(),
        saga,
        done: Done::default(),
        restored: RefCell::default(),
    };
    let undoing = match &cycle.undoing {
        Some(undoing) => undoing.clone(),
        None => match run.forward().await {
            Ok(end) => return Ok(end),
            Err(failure) => {
                let undoing = run.why_undone(failure).await?;
                context.env.ledger.begin_undo(cycle.id, undoing.clone()).await?;
                undoing
            }
        },
    };
    run.back(undoing).await
}

/// A cycle under way.
struct Run {
    context: CycleContext,
    cycle: Cycle,
    saga: Saga,
    done: Done,
    /// What serves again after a release was taken back, in words.
    restored: RefCell<Option<String>>,
}

/// What the steps before have brought.
#[derive(Default)]
struct Done {
    dataset: Option<Digest>,
    trained: Option<ModelTrained>,
    service: Option<ServiceBuilt>,
    packaged: Option<ModelPackaged>,
    /// The image's reference by digest.
    image: Option<String>,
    /// The verification's reason.
    verified: Option<String>,
}

/// What the last step records.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Approved {
    model: ModelVersion,
    by: String,
}

/// What an earlier step of the table has brought.
fn brought<T: Clone>(output: &Option<T>) -> Result<T, StepFailure> {
    output.clone().ok_or_else(|| StepFailure::new(ErrorKind::Internal, "the table of steps is out of order"))
}

impl Run {
    async fn forward(&mut self) -> Result<CycleEnd, StepFailure> {
        for Step { action, .. } in STEPS {
            if let Flow::End(end) = action(self).await? {
                return Ok(end);
            }
        }
        Err(StepFailure::new(ErrorKind::Internal, "the last step did not end the cycle"))
    }

    /// Undoes in reverse what the cycle did. An undo that is stuck does not keep the others from running.
    async fn back(&self, Undoing { cause, why }: Undoing) -> Result<CycleEnd, StepFailure> {
        tracing::warn!(cause = cause.as_str(), why, "undoing the cycle");
        // Not whether there is still something to undo: that would be forgotten by a crash in the middle.
        let release_touched = self.saga.ever_started(DEPLOY).await?;
        let mut stuck: Option<StepFailure> = None;
        for Step { step, undo, .. } in STEPS.into_iter().rev() {
            if let Some(undo) = undo
                && let Err(failure) = self.saga.undo(step, || undo(self)).await
            {
                stuck.get_or_insert(failure);
            }
        }
        if let Some(stuck) = stuck {
            let detail = format!("{why}; undoing it failed: {}", stuck.message);
            return Ok(CycleEnd::Finished { outcome: CycleOutcome::Stuck, detail });
        }
        let outcome = match (cause, release_touched) {
            (UndoCause::Cancelled, _) => CycleOutcome::Cancelled,
            (UndoCause::Failed, false) => CycleOutcome::Failed,
            (UndoCause::Failed, true) | (UndoCause::Rejected, _) => CycleOutcome::RolledBack,
        };
        let detail = match self.restored.take() {
            Some(restored) => format!("{why}; {restored}"),
            None => why,
        };
        Ok(CycleEnd::Finished { outcome, detail })
    }

    /// The failure as the reason to undo the cycle; of a cancelled one, who cancelled it.
    async fn why_undone(&self, failure: StepFailure) -> Result<Undoing, StepFailure> {
        if failure.kind != ErrorKind::Cancelled {
            return Ok(Undoing { cause: UndoCause::Failed, why: failure.message });
        }
        let request = self.context.env.ledger.cycle(self.cycle.id).await?.and_then(|cycle| cycle.cancel);
        Ok(Undoing { cause: UndoCause::Cancelled, why: request.map_or(failure.message, |request| request.to_string()) })
    }

    fn stages(&self) -> &Stages {
        &self.context.stages
    }

    async fn ingest(&mut self) -> Result<Flow, StepFailure> {
        let request = || IngestFlights { at: self.context.env.now() };
        let _: FlightsIngested = self.saga.step(INGEST, || self.stages().data.ask(request())).await?;
        Ok(Flow::Continue)
    }

    async fn build_dataset(&mut self) -> Result<Flow, StepFailure> {
        let request = || BuildDataset { cycle: self.cycle.id, as_of: self.cycle.started_at };
        let built: DatasetBuilt = self.saga.step(DATASET, || self.stages().data.ask(request())).await?;
        self.done.dataset = Some(built.version);
        Ok(Flow::Continue)
    }

    async fn train(&mut self) -> Result<Flow, StepFailure> {
        let Cycle { id: cycle, run, started_at: as_of, .. } = self.cycle;
        let request = TrainModel { cycle, run, dataset: brought(&self.done.dataset)?, as_of };
        let trained = self.saga.step(TRAIN, || self.stages().training.ask(request.clone())).await?;
        self.done.trained = Some(trained);
        Ok(Flow::Continue)
    }

    async fn discard_run(&self) -> Result<(), StepFailure> {
        self.stages().training.ask(DiscardRun { run: self.cycle.run }).await
    }

    async fn compare_with_live(&mut self) -> Result<Flow, StepFailure> {
        let request = CompareWithLive {
            cycle: self.cycle.id,
            dataset: brought(&self.done.dataset)?,
            challenger: brought(&self.done.trained)?.bundle,
            as_of: self.cycle.started_at,
        };
        let gate: GateAnswered = self.saga.step(GATE, || self.stages().training.ask(request.clone())).await?;
        if gate.passed {
            return Ok(Flow::Continue);
        }
        self.discard_run().await?;
        Ok(Flow::End(CycleEnd::Finished { outcome: CycleOutcome::KeptLive, detail: gate.reason }))
    }

    async fn register(&mut self) -> Result<Flow, StepFailure> {
        let request = RegisterModel {
            cycle: self.cycle.clone(),
            trained: brought(&self.done.trained)?,
            dataset: brought(&self.done.dataset)?,
        };
        let _: ModelRegistered = self.saga.step(REGISTER, || self.stages().registry.ask(request.clone())).await?;
        Ok(Flow::Continue)
    }

    async fn withdraw_model(&self) -> Result<(), StepFailure> {
        self.stages().registry.ask(WithdrawModel { version: self.cycle.model }).await
    }

    /// Builds the service's executable where the configuration says so. A cycle that was packaged already, perhaps by
    /// a daemon that knew no such step, builds nothing any more.
    async fn build_service(&mut self) -> Result<Flow, StepFailure> {
        let from_git = self.context.settings.packaging.source.kind == SourceKind::Git;
        self.done.service = match self.saga.output_of(BUILD).await? {
            Some(built) => Some(built),
            None if !from_git || self.saga.output_of::<ModelPackaged>(PACKAGE).await?.is_some() => None,
            None => {
                let request = BuildService { cycle: self.cycle.id };
                Some(self.saga.step(BUILD, || self.stages().packaging.ask(request.clone())).await?)
            }
        };
        Ok(Flow::Continue)
    }

    async fn package(&mut self) -> Result<Flow, StepFailure> {
        let request = PackageModel {
            model: self.cycle.model,
            bundle: brought(&self.done.trained)?.bundle,
            dataset: brought(&self.done.dataset)?,
            service: self.done.service.clone(),
        };
        let packaged = self.saga.step(PACKAGE, || self.stages().packaging.ask(request.clone())).await?;
        self.done.packaged = Some(packaged);
        Ok(Flow::Continue)
    }

    async fn discard_image(&self) -> Result<(), StepFailure> {
        self.stages().packaging.ask(DiscardImage { model: self.cycle.model }).await
    }

    async fn push(&mut self) -> Result<Flow, StepFailure> {
        let request = PushImage { model: self.cycle.model, packaged: brought(&self.done.packaged)? };
        let pushed: ImagePushed = self.saga.step(PUSH, || self.stages().packaging.ask(request.clone())).await?;
        self.done.image = Some(pushed.image.reference);
        Ok(Flow::Continue)
    }

    async fn withdraw_image(&self) -> Result<(), StepFailure> {
        self.stages().packaging.ask(WithdrawImage { model: self.cycle.model }).await
    }

    async fn deploy(&mut self) -> Result<Flow, StepFailure> {
        let Cycle { id: cycle, deployment, model, .. } = self.cycle;
        let (bundle, image) = (brought(&self.done.trained)?.bundle, brought(&self.done.image)?);
        let request = DeployModel { cycle, deployment, model, bundle, image };
        let _: ModelDeployed = self.saga.step(DEPLOY, || self.stages().deployment.ask(request.clone())).await?;
        Ok(Flow::Continue)
    }

    /// The release that serves again is verified like a new one.
    async fn restore_release(&self) -> Result<(), StepFailure> {
        let to = self.stages().deployment.ask(RestoreRelease { failed: self.cycle.deployment }).await?;
        let Some(deployment) = to else { return Ok(()) };
        let verified = verify_restored(&self.context, deployment, &self.cycle.id.to_string()).await?;
        self.restored.replace(Some(verified.text));
        Ok(())
    }

    async fn verify(&mut self) -> Result<Flow, StepFailure> {
        let request = VerifyDeployment {
            deployment: self.cycle.deployment,
            model: self.cycle.model,
            bundle: brought(&self.done.trained)?.bundle,
            dataset: brought(&self.done.dataset)?,
            as_of: self.cycle.started_at,
            restored: false,
        };
        let verified: DeploymentVerified = self
            .saga
            .step(VERIFY, || async {
                let answer = self.stages().verification.ask(request.clone()).await?;
                if answer.passed { Ok(answer) } else { Err(StepFailure::new(ErrorKind::Invalid, answer.reason)) }
            })
            .await?;
        self.done.verified = Some(verified.reason);
        Ok(Flow::Continue)
    }

    async fn approve(&mut self) -> Result<Flow, StepFailure> {
        let by = match (self.context.settings.approval.mode, &self.cycle.approved_by) {
            (ApprovalMode::Automatic, _) => "the verification".to_owned(),
            (ApprovalMode::Manual, Some(person)) => person.clone(),
            (ApprovalMode::Manual, None) => return Ok(Flow::End(CycleEnd::WaitingForApproval)),
        };
        let promote = PromoteModel { version: self.cycle.model, deployment: self.cycle.deployment };
        let Approved { model, by } = self
            .saga
            .step(APPROVE, || async {
                self.stages().registry.ask(promote.clone()).await?;
                Ok(Approved { model: self.cycle.model, by: by.clone() })
            })
            .await?;
        let detail = format!("{model} is live, approved by {by}: {}", brought(&self.done.verified)?);
        Ok(Flow::End(CycleEnd::Finished { outcome: CycleOutcome::Deployed, detail }))
    }

    async fn demote(&self) -> Result<(), StepFailure> {
        self.stages().registry.ask(DemoteModel { version: self.cycle.model }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_rise_and_a_step_that_changes_something_outside_has_an_undo() {
        assert!(STEPS.windows(2).all(|pair| pair[0].step.position < pair[1].step.position));
        let undone: Vec<&str> = STEPS.iter().filter(|row| row.undo.is_some()).map(|row| row.step.name).collect();
        assert_eq!(undone, ["train", "register", "package", "push", "deploy", "approve"]);
    }

    /// `watch` and `decide` are stations of the loop between two cycles; `build` is put in where it happened.
    #[test]
    fn the_pages_picture_of_the_loop_shows_these_steps() {
        let script = include_str!("../http/page/charts/diagrams.js");
        let names = |list: &str| -> Vec<&str> {
            let (_, rest) = script.split_once(&format!("const {list} = [")).unwrap();
            rest.split_once(']').unwrap().0.split(',').map(|name| name.trim().trim_matches('"')).collect()
        };
        let shown: Vec<&str> = names("AHEAD").into_iter().chain(names("BACK")).collect();
        let expected = STEPS.iter().map(|row| row.step.name).filter(|name| *name != "build");
        assert_eq!(shown, expected.chain(["watch", "decide"]).collect::<Vec<_>>());
    }
}
