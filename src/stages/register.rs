//! Registration: a trained bundle becomes `model_vN`, and a verified one becomes the live model.
//!
//! Bundles are immutable and named by digest: they move from the run's folder
//! into the bundle store in one rename, are read back and verified, and are
//! copied into the object store. Aliases (`candidate`, `live`, `previous`) are
//! rows in the ledger and move atomically.

use serde::{Deserialize, Serialize};

use super::live_service::served_instead_of;

use crate::env::Env;
use crate::stages::train::ModelTrained;
use crate::supervision::Request;
use delayd_core::error::ErrorKind;
use delayd_core::failure::{StepFailure, run_blocking};
use delayd_core::ids::{DeploymentId, Digest, ModelVersion};
use delayd_ledger::{Alias, Cycle, DeploymentState, Model};
use delayd_outside::bundles::{BundleStore, bundle_prefix, upload_bundle};

/// What registering needs.
#[derive(Clone)]
pub struct RegistryStage {
    pub env: Env,
    /// Bundles on this machine.
    pub bundles: BundleStore,
}

/// Takes a trained bundle in, verifies it, records it as `model_vN` and makes it the candidate.
#[derive(Debug, Clone)]
pub struct RegisterModel {
    /// The cycle, with the version minted for it and the reason of the retrain.
    pub cycle: Cycle,
    pub trained: ModelTrained,
    /// What it was trained on.
    pub dataset: Digest,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ModelRegistered {
    pub version: ModelVersion,
    pub bundle: Digest,
}

impl Request for RegisterModel {
    type Stage = RegistryStage;
    type Answer = ModelRegistered;

    async fn run(self, stage: &RegistryStage) -> Result<ModelRegistered, StepFailure> {
        let Self { cycle, trained, dataset } = self;
        let (ledger, digest) = (&stage.env.ledger, trained.bundle);
        let (bundles, wanted) = (stage.bundles.clone(), digest.clone());
        let bundle = run_blocking(move || {
            bundles.take_in(&wanted, &trained.path)?;
            bundles.read(&wanted)
        })
        .await?
        .map_err(|error| StepFailure::of(error.kind(), &error))?;
        let bundle_key = bundle_prefix(&digest);
        upload_bundle(stage.env.object_store.as_ref(), &stage.bundles.path_of(&digest), &bundle_key).await?;
        let record = Model {
            version: cycle.model,
            bundle: digest.clone(),
            dataset,
            run: cycle.run,
            cycle: cycle.id,
            reason: Some(cycle.reason.to_string()),
            parent: ledger.model_by_alias(Alias::Live).await?.map(|model| model.version),
            metrics: bundle.metrics.into(),
            bundle_key,
            registered_at: stage.env.now(),
        };
        ledger.register_model(record).await?;
        ledger.set_candidate(Some(cycle.model), stage.env.now()).await?;
        Ok(ModelRegistered { version: cycle.model, bundle: digest })
    }
}

/// Undo of [`RegisterModel`]: the version stays on record but is no longer the candidate.
#[derive(Debug, Clone)]
pub struct WithdrawModel {
    pub version: ModelVersion,
}

impl Request for WithdrawModel {
    type Stage = RegistryStage;
    type Answer = ();

    async fn run(self, stage: &RegistryStage) -> Result<(), StepFailure> {
        let candidate = stage.env.ledger.model_by_alias(Alias::Candidate).await?;
        if candidate.is_some_and(|model| model.version == self.version) {
            stage.env.ledger.set_candidate(None, stage.env.now()).await?;
        }
        Ok(())
    }
}

/// Makes a deployed and verified model the live one. If the cluster serves another release by now, because someone
/// else changed it, nothing is promoted: the live model must be the one being served.
#[derive(Debug, Clone)]
pub struct PromoteModel {
    pub version: ModelVersion,
    pub deployment: DeploymentId,
}

impl Request for PromoteModel {
    type Stage = RegistryStage;
    type Answer = ();

    async fn run(self, stage: &RegistryStage) -> Result<(), StepFailure> {
        let Self { version, deployment } = self;
        if let Some(other) = served_instead_of(&stage.env, deployment).await? {
            let message = format!("{version} was not promoted: the cluster serves {other} instead of {deployment}");
            return Err(StepFailure::new(ErrorKind::Invalid, message));
        }
        let now = stage.env.now();
        let promoted = stage.env.ledger.write_durably("promoting a model with its release", move |tx| {
            tx.promote(version, now)?;
            tx.set_deployment_state(deployment, DeploymentState::Approved, now)
        });
        Ok(promoted.await?)
    }
}

/// Undo of [`PromoteModel`]: the previous model is live again.
#[derive(Debug, Clone)]
pub struct DemoteModel {
    pub version: ModelVersion,
}

impl Request for DemoteModel {
    type Stage = RegistryStage;
    type Answer = ();

    async fn run(self, stage: &RegistryStage) -> Result<(), StepFailure> {
        stage.env.ledger.rollback_alias(self.version, stage.env.now()).await?;
        Ok(())
    }
}
