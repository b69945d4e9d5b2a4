//! Deployment: rolls a release out, and back as a whole.
//!
//! Builds the [`Release`] of a model, has the cluster apply it, and remembers in the ledger which
//! release came before. It deliberately judges nothing: whether a release is good is the verification's business.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::live_service::is_known;
use super::reconcile::RestartCounter;
use crate::config::Settings;
use crate::env::Env;
use crate::supervision::Request;
use delayd_core::error::ErrorKind;
use delayd_core::failure::StepFailure;
use delayd_core::ids::{CycleId, DeploymentId, Digest, ModelVersion};
use delayd_core::ports::{Release, RolloutProgress, Severity};
use delayd_ledger::{Alias, Deployment, DeploymentState};
use delayd_outside::bundles::BundleStore;

/// What deploying needs.
#[derive(Clone)]
pub struct DeploymentStage {
    pub env: Env,
    pub settings: Arc<Settings>,
    /// Bundles on this machine.
    pub bundles: BundleStore,
    /// The rollouts under way, for the timer that fetches the last counts of draining replicas.
    pub rollouts: Rollouts,
    /// Counts replica restarts, see [`super::reconcile`].
    pub restarts: Arc<Mutex<RestartCounter>>,
}

impl DeploymentStage {
    pub(super) async fn apply(&self, release: &Release) -> Result<(), StepFailure> {
        let _under_way = self.rollouts.begin();
        let deployment = release.deployment;
        let log = move |progress: RolloutProgress| {
            let RolloutProgress { updated, wanted, message } = progress;
            tracing::info!(deployment.id = %deployment, replicas.updated = updated, replicas.wanted = wanted, "{message}");
        };
        let deadline = Duration::from_secs(self.settings.cluster.ready_deadline_secs);
        Ok(self.env.cluster.apply(release, deadline, &log).await?)
    }

    pub(super) async fn release_of(&self, deployment: DeploymentId) -> Result<Release, StepFailure> {
        let record = self.env.ledger.deployment(deployment).await?;
        record
            .map(|record| record.release)
            .ok_or_else(|| StepFailure::new(ErrorKind::NotFound, format!("{deployment} is not in the ledger")))
    }

    /// The deployment to which a failure of `coming` leads back: what the cluster serves or, where the ledger does
    /// not know that (it was restored from an older backup, or someone else deployed), the live model's own.
    async fn replaced_by(&self, coming: DeploymentId) -> Result<Option<DeploymentId>, StepFailure> {
        if let Some(current) = self.env.cluster.current().await? {
            if is_known(&self.env, &current).await? {
                return Ok(Some(current.deployment));
            }
            let body = format!(
                "It serves {} of {} (bundle {}), which {coming} now replaces. Was the ledger restored from an older \
                 backup, or does someone else deploy here? If {coming} fails, the cluster goes back to the release of \
                 the model that the ledger has as live.",
                current.deployment, current.model, current.bundle
            );
            tracing::warn!(deployment.id = %current.deployment, model.version = %current.model, "{body}");
            let key = format!("cluster/unknown/{}/{coming}", current.deployment);
            self.env
                .alert(Severity::Warning, key, "the cluster serves a deployment unknown to this ledger", body)
                .await?;
        }
        let Some(live) = self.env.ledger.model_by_alias(Alias::Live).await? else { return Ok(None) };
        Ok(self.env.ledger.approved_deployment_of(live.version).await?.map(|own| own.id))
    }
}

/// Rolls the service to a model. The release before it is recorded first,
/// so that the way back is known whatever happens.
#[derive(Debug, Clone)]
pub struct DeployModel {
    pub cycle: CycleId,
    /// Minted with the cycle.
    pub deployment: DeploymentId,
    pub model: ModelVersion,
    pub bundle: Digest,
    /// The model's image, by digest.
    pub image: String,
}

/// Every replica runs the new release.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ModelDeployed {
    pub deployment: DeploymentId,
    pub model: ModelVersion,
    /// The release that it replaced.
    pub replaced: Option<DeploymentId>,
    /// Where clients reach the service.
    pub service_url: String,
}

impl Request for DeployModel {
    type Stage = DeploymentStage;
    type Answer = ModelDeployed;

    async fn run(self, stage: &DeploymentStage) -> Result<ModelDeployed, StepFailure> {
        let Self { cycle, deployment, model, bundle, image } = self;
        let (env, bundle_dir) = (&stage.env, stage.bundles.path_of(&bundle));
        let release =
            Release { deployment, model, bundle, image, bundle_dir, replicas: stage.settings.cluster.replicas };
        let replaced = match env.ledger.deployment(deployment).await? {
            Some(record) => record.previous,
            None => stage.replaced_by(deployment).await?,
        };
        let record = Deployment {
            id: deployment,
            cycle: Some(cycle),
            model,
            release: release.clone(),
            state: DeploymentState::Applying,
            previous: replaced,
            created_at: env.now(),
            changed_at: env.now(),
        };
        env.ledger.insert_deployment(record).await?;
        stage.apply(&release).await?;
        env.ledger.set_deployment_state(deployment, DeploymentState::Applied, env.now()).await?;
        Ok(ModelDeployed { deployment, model, replaced, service_url: env.cluster.service_url() })
    }
}

/// Undo of [`DeployModel`]: goes back to the release before `failed` as a whole; with none before it, the service
/// is stopped. Answers which release serves again, if any does.
#[derive(Debug, Clone)]
pub struct RestoreRelease {
    pub failed: DeploymentId,
}

impl Request for RestoreRelease {
    type Stage = DeploymentStage;
    type Answer = Option<DeploymentId>;

    async fn run(self, stage: &DeploymentStage) -> Result<Option<DeploymentId>, StepFailure> {
        let env = &stage.env;
        let Some(failed) = env.ledger.deployment(self.failed).await? else { return Ok(None) };
        match failed.previous {
            Some(previous) => stage.apply(&stage.release_of(previous).await?).await?,
            None => env.cluster.tear_down().await?,
        }
        env.ledger.set_deployment_state(self.failed, DeploymentState::RolledBack, env.now()).await?;
        Ok(failed.previous)
    }
}

/// The number of rollouts under way; clones share it. While there is one, replicas drain.
#[derive(Debug, Clone)]
pub struct Rollouts(Arc<watch::Sender<usize>>);

impl Default for Rollouts {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Rollouts {
    /// A rollout begins; it ends when the answer is dropped.
    pub fn begin(&self) -> RolloutGuard {
        self.0.send_modify(|under_way| *under_way += 1);
        RolloutGuard(self.clone())
    }

    pub fn any_under_way(&self) -> bool {
        *self.0.borrow() > 0
    }

    /// Changes with every begin and end.
    pub fn watch(&self) -> watch::Receiver<usize> {
        self.0.subscribe()
    }
}

/// A rollout under way, until it is dropped.
#[derive(Debug)]
pub struct RolloutGuard(Rollouts);

impl Drop for RolloutGuard {
    fn drop(&mut self) {
        self.0.0.send_modify(|under_way| *under_way = under_way.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_rollout_is_under_way_until_its_guard_is_dropped_and_each_change_is_seen() {
        let rollouts = Rollouts::default();
        let mut changes = rollouts.watch();
        let first = rollouts.begin();
        let second = rollouts.clone().begin();
        assert!(changes.has_changed().unwrap());
        drop(first);
        assert!(rollouts.any_under_way());
        drop(second);
        assert!(!rollouts.any_under_way());
        changes.changed().await.unwrap();
        assert_eq!(*changes.borrow_and_update(), 0);
    }
}
