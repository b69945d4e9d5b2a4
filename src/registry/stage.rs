//! What registering, promoting and withdrawing a model do.

use super::messages::{DemoteModel, ModelRegistered, PromoteModel, RegisterModel, WithdrawModel};
use crate::env::Env;
use crate::supervision::{Request, StageActor};
use delayd_core::error::ErrorKind;
use delayd_core::failure::{StepFailure, run_blocking};
use delayd_ledger::{Alias, DeploymentState, Model};
use delayd_outside::bundles::BundleStore;
use delayd_outside::bundles::{bundle_prefix, upload_bundle};

/// The stage's actor.
pub type RegistryActor = StageActor<RegistryStage>;

/// The registry's work, apart from its actor.
#[derive(Clone)]
pub struct RegistryStage {
    /// Clock, ledger and ports.
    pub env: Env,
    /// Bundles on this machine.
    pub bundles: BundleStore,
}

impl RegistryStage {
    /// Takes the run's bundle in, verifies it, and records `model_vN`.
    pub(super) async fn register(&self, message: RegisterModel) -> Result<ModelRegistered, StepFailure> {
        let RegisterModel { cycle, trained, dataset } = message;
        let digest = trained.bundle.clone();
        let (bundles, from, wanted) = (self.bundles.clone(), trained.path.clone(), digest.clone());
        let bundle = run_blocking(move || {
            bundles.take_in(&wanted, &from)?;
            bundles.read(&wanted)
        })
        .await?
        .map_err(|error| StepFailure::of(error.kind(), &error))?;
        let store = self.env.object_store.as_ref();
        upload_bundle(store, &self.bundles.path_of(&digest), &bundle_prefix(&digest)).await?;
        let parent = self.env.ledger.model_by_alias(Alias::Live).await?.map(|model| model.version);
        let record = Model {
            version: cycle.model,
            bundle: digest.clone(),
            dataset,
            run: cycle.run,
            cycle: cycle.id,
            reason: Some(cycle.reason.to_string()),
            parent,
            metrics: bundle.metrics.into(),
            bundle_key: bundle_prefix(&digest),
            registered_at: self.env.now(),
        };
        self.env.ledger.register_model(record).await?;
        self.env.ledger.set_candidate(Some(cycle.model), self.env.now()).await?;
        Ok(ModelRegistered { version: cycle.model, bundle: digest })
    }

    /// Makes a model live whose release serves. Another one may serve by now, where somebody else had a hand in it:
    /// then nothing is promoted, because what is said to be live must be what serves.
    pub(super) async fn promote(&self, message: PromoteModel) -> Result<(), StepFailure> {
        let current = self.env.cluster.current().await?;
        if current.as_ref().map(|current| current.deployment) != Some(message.deployment) {
            let PromoteModel { version, deployment } = message;
            let serves = current
                .map_or_else(|| "nothing".to_owned(), |current| format!("{} of {}", current.deployment, current.model));
            let message =
                format!("{version} was not made live: the cluster does not serve {deployment} any more but {serves}");
            return Err(StepFailure::new(ErrorKind::Invalid, message));
        }
        let now = self.env.now();
        let PromoteModel { version, deployment } = message;
        let promoted = self.env.ledger.write_durably("promoting a model with its release", move |tx| {
            tx.promote(version, now)?;
            tx.set_deployment_state(deployment, DeploymentState::Approved, now)
        });
        Ok(promoted.await?)
    }

    pub(super) async fn demote(&self, message: DemoteModel) -> Result<(), StepFailure> {
        self.env.ledger.rollback_alias(message.version, self.env.now()).await?;
        Ok(())
    }

    pub(super) async fn withdraw(&self, message: WithdrawModel) -> Result<(), StepFailure> {
        let candidate = self.env.ledger.model_by_alias(Alias::Candidate).await?;
        if candidate.is_some_and(|model| model.version == message.version) {
            self.env.ledger.set_candidate(None, self.env.now()).await?;
        }
        Ok(())
    }
}

impl Request for RegisterModel {
    type Stage = RegistryStage;
    type Answer = ModelRegistered;

    async fn run(self, stage: &RegistryStage) -> Result<ModelRegistered, StepFailure> {
        stage.register(self).await
    }
}

impl Request for PromoteModel {
    type Stage = RegistryStage;
    type Answer = ();

    async fn run(self, stage: &RegistryStage) -> Result<(), StepFailure> {
        stage.promote(self).await
    }
}

impl Request for DemoteModel {
    type Stage = RegistryStage;
    type Answer = ();

    async fn run(self, stage: &RegistryStage) -> Result<(), StepFailure> {
        stage.demote(self).await
    }
}

impl Request for WithdrawModel {
    type Stage = RegistryStage;
    type Answer = ();

    async fn run(self, stage: &RegistryStage) -> Result<(), StepFailure> {
        stage.withdraw(self).await
    }
}
