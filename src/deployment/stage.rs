//! What rolling out and rolling back do.

use super::messages::{
    DeployModel, FinishRollback, ModelDeployed, ReconcileReplicas, RestoreRelease, RollBackToPrevious, RollbackVerified,
};
use super::rollback::RolledBack;
use crate::supervision::{Request, StageActor};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::restarts::RestartWatch;
use super::rollouts::Rollouts;
use super::serving;
use crate::config::Settings;
use crate::env::Env;
use delayd_core::error::ErrorKind;
use delayd_core::failure::StepFailure;
use delayd_core::ids::{DeploymentId, Digest};
use delayd_core::ports::{Release, Severity};
use delayd_ledger::{Alias, Deployment, DeploymentState, NewAlert};
use delayd_outside::bundles::BundleStore;

/// The stage's actor.
pub type DeploymentActor = StageActor<DeploymentStage>;

/// The deployment's work, apart from its actor.
#[derive(Clone)]
pub struct DeploymentStage {
    /// Clock, ledger and ports.
    pub env: Env,
    /// Configuration.
    pub settings: Arc<Settings>,
    /// Bundles on this machine.
    pub bundles: BundleStore,
    /// The rollouts under way, for whoever fetches the last counts of replicas that leave.
    pub rollouts: Rollouts,
    /// Whether replicas keep dying.
    pub restarts: Arc<Mutex<RestartWatch>>,
}

impl DeploymentStage {
    fn deadline(&self) -> Duration {
        Duration::from_secs(self.settings.cluster.ready_deadline_secs)
    }

    /// Rolls the service to a model. The release before it is remembered first,
    /// so that the way back is known whatever happens.
    pub(super) async fn deploy(&self, message: DeployModel) -> Result<ModelDeployed, StepFailure> {
        let release = Release {
            deployment: message.deployment,
            model: message.model,
            bundle: message.bundle.clone(),
            image: message.image,
            bundle_dir: self.bundles.path_of(&message.bundle),
            replicas: self.settings.cluster.replicas,
        };
        let known = self.env.ledger.deployment(message.deployment).await?;
        let replaced = match known {
            Some(record) => record.previous,
            None => self.replaced(message.deployment).await?,
        };
        let record = Deployment {
            id: message.deployment,
            cycle: Some(message.cycle),
            model: message.model,
            release: release.clone(),
            state: DeploymentState::Applying,
            previous: replaced,
            created_at: self.env.now(),
            changed_at: self.env.now(),
        };
        self.env.ledger.insert_deployment(record).await?;
        self.apply(&release).await?;
        self.env.ledger.set_deployment_state(message.deployment, DeploymentState::Applied, self.env.now()).await?;
        Ok(ModelDeployed {
            deployment: message.deployment,
            model: message.model,
            replaced,
            service_url: self.env.cluster.service_url(),
        })
    }

    /// The deployment to which a failure of `coming` leads back: what the cluster serves or, where the ledger does
    /// not know that (it was restored from an older back-up, or somebody else deployed), the live model's own.
    async fn replaced(&self, coming: DeploymentId) -> Result<Option<DeploymentId>, StepFailure> {
        let current = self.env.cluster.current().await?;
        if let Some(current) = &current {
            if serving::is_known(&self.env, current).await? {
                return Ok(Some(current.deployment));
            }
            let now = self.env.now();
            let body = format!(
                "It serves {} of {} (bundle {}), which is replaced by {coming}. Was an older back-up of the ledger \
                 restored, or does somebody else deploy here? If {coming} fails, the release that the ledger holds for \
                 live serves again.",
                current.deployment, current.model, current.bundle
            );
            tracing::warn!(deployment.id = %current.deployment, model.version = %current.model, "{body}");
            let alert = NewAlert {
                at: now,
                severity: Severity::Warning,
                dedup_key: format!("cluster/unknown/{}/{coming}", current.deployment),
                title: "the cluster serves a deployment this ledger does not know".to_owned(),
                body,
            };
            self.env.ledger.enqueue_alert(alert).await?;
        }
        let Some(live) = self.env.ledger.model_by_alias(Alias::Live).await? else { return Ok(None) };
        let own = self.env.ledger.approved_deployment_of(live.version).await?;
        Ok(own.map(|own| own.id))
    }

    pub(super) async fn apply(&self, release: &Release) -> Result<(), StepFailure> {
        let _under_way = self.rollouts.begin();
        let deployment = release.deployment;
        let progress = move |progress: delayd_core::ports::RolloutProgress| {
            tracing::info!(deployment.id = %deployment, replicas.updated = progress.updated, replicas.wanted = progress.wanted,
                "{}", progress.message);
        };
        self.env.cluster.apply(release, self.deadline(), &progress).await?;
        Ok(())
    }

    /// Goes back to what ran before `failed`; with nothing before it, the service
    /// is stopped. Answers which deployment serves again.
    pub(super) async fn restore(&self, message: RestoreRelease) -> Result<Option<DeploymentId>, StepFailure> {
        let Some(failed) = self.env.ledger.deployment(message.failed).await? else {
            return Ok(None);
        };
        match failed.previous {
            Some(previous) => self.apply(&self.release_of(previous).await?).await?,
            None => self.env.cluster.tear_down().await?,
        }
        self.env.ledger.set_deployment_state(message.failed, DeploymentState::RolledBack, self.env.now()).await?;
        Ok(failed.previous)
    }

    pub(super) async fn release_of(&self, deployment: DeploymentId) -> Result<Release, StepFailure> {
        let record = self.env.ledger.deployment(deployment).await?;
        let record = record
            .ok_or_else(|| StepFailure::new(ErrorKind::NotFound, format!("{deployment} is not in the ledger")))?;
        Ok(record.release)
    }

    /// Restarts dead replicas and adopts running ones. What somebody else changed
    /// is told, each thing once a day: two who both insist would fill the outbox.
    pub(super) async fn reconcile(&self) -> Result<(), StepFailure> {
        let repairs = self.env.cluster.reconcile().await?;
        self.tell_restarts().await?;
        self.tell_repairs(&repairs).await?;
        self.tell_unless_live_serves().await
    }

    async fn tell_repairs(&self, repairs: &[String]) -> Result<(), StepFailure> {
        if repairs.is_empty() {
            return Ok(());
        }
        let (now, lines) = (self.env.now(), repairs.join("\n"));
        tracing::warn!(repairs = lines, "the cluster was not as it was applied, and was put right");
        let alert = NewAlert {
            at: now,
            severity: Severity::Warning,
            dedup_key: format!("cluster/repaired/{}/{}", now.date_naive(), Digest::of(lines.as_bytes()).short()),
            title: "the service's objects were changed by somebody else".to_owned(),
            body: format!(
                "{lines}\nThe live model keeps serving. Find out who did it: a change that is meant to stay belongs \
                 into the configuration or the templates."
            ),
        };
        self.env.ledger.enqueue_alert(alert).await?;
        Ok(())
    }

    /// Tells once a day of replicas that die again and again: each is replaced by
    /// itself, and the service answers meanwhile.
    async fn tell_restarts(&self) -> Result<(), StepFailure> {
        let (replicas, now) = (self.env.cluster.replicas().await?, self.env.now());
        let restarts = replicas.iter().map(|replica| u64::from(replica.restarts)).sum();
        let lately = self.restarts.lock().unwrap_or_else(PoisonError::into_inner).look(restarts, now);
        let Some(lately) = lately else { return Ok(()) };
        let reasons: Vec<String> = replicas
            .iter()
            .filter_map(|replica| Some(format!("{}: {}", replica.name, replica.reason.as_deref()?)))
            .collect();
        let alert = NewAlert {
            at: now,
            severity: Severity::Warning,
            dedup_key: format!("replicas/restarts/{}", now.date_naive()),
            title: format!("replicas keep dying: {lately} restarts within an hour"),
            body: format!(
                "Each is replaced by itself, and the others answer meanwhile. {}\nLook into the replicas' logs; `delayd \
                 deployments` names them, `delayd rollback` goes back to the release before.",
                reasons.join("; ")
            ),
        };
        self.env.ledger.enqueue_alert(alert).await?;
        Ok(())
    }

    /// What serves and what is said to be live must be the same; where not, it is told once a day.
    async fn tell_unless_live_serves(&self) -> Result<(), StepFailure> {
        let Some(found) = serving::live_service(&self.env).await? else { return Ok(()) };
        if found.served {
            return Ok(());
        }
        let now = self.env.now();
        tracing::error!(model.version = %found.live, "{}", found.text);
        let alert = NewAlert {
            at: now,
            severity: Severity::Critical,
            dedup_key: format!("live/not-served/{}/{}", now.date_naive(), Digest::of(found.text.as_bytes()).short()),
            title: format!("{} is said to be live and does not serve", found.live),
            body: found.text,
        };
        self.env.ledger.enqueue_alert(alert).await?;
        Ok(())
    }
}

impl Request for DeployModel {
    type Stage = DeploymentStage;
    type Answer = ModelDeployed;

    async fn run(self, stage: &DeploymentStage) -> Result<ModelDeployed, StepFailure> {
        stage.deploy(self).await
    }
}

impl Request for RestoreRelease {
    type Stage = DeploymentStage;
    type Answer = Option<DeploymentId>;

    async fn run(self, stage: &DeploymentStage) -> Result<Option<DeploymentId>, StepFailure> {
        stage.restore(self).await
    }
}

impl Request for RollBackToPrevious {
    type Stage = DeploymentStage;
    type Answer = RolledBack;

    async fn run(self, stage: &DeploymentStage) -> Result<RolledBack, StepFailure> {
        stage.roll_back(self).await
    }
}

impl Request for FinishRollback {
    type Stage = DeploymentStage;
    type Answer = Option<RolledBack>;

    async fn run(self, stage: &DeploymentStage) -> Result<Option<RolledBack>, StepFailure> {
        stage.finish_rollback().await
    }
}

impl Request for RollbackVerified {
    type Stage = DeploymentStage;
    type Answer = ();

    async fn run(self, stage: &DeploymentStage) -> Result<(), StepFailure> {
        stage.rollback_verified().await
    }
}

impl Request for ReconcileReplicas {
    type Stage = DeploymentStage;
    type Answer = ();

    async fn run(self, stage: &DeploymentStage) -> Result<(), StepFailure> {
        stage.reconcile().await
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use async_trait::async_trait;

    use super::*;
    use delayd_core::clock::SystemClock;
    use delayd_core::error::PortError;
    use delayd_core::ids::ModelVersion;
    use delayd_core::ports::{Cluster, ObjectStore, Replica, RolloutProgress};
    use delayd_ledger::{Ledger, Page};
    use delayd_outside::local::{FolderStore, LogNotifier, OciLayoutRegistry, WeatherCsv};

    /// A cluster in which somebody changes the same thing again and again, and whose
    /// only replica dies between any two looks.
    #[derive(Debug, Default)]
    struct Meddled(std::sync::atomic::AtomicU32);

    #[async_trait]
    impl Cluster for Meddled {
        async fn apply(
            &self,
            _: &Release,
            _: Duration,
            _: &(dyn Fn(RolloutProgress) + Send + Sync),
        ) -> Result<(), PortError> {
            Ok(())
        }
        async fn current(&self) -> Result<Option<Release>, PortError> {
            Ok(None)
        }
        async fn replicas(&self) -> Result<Vec<Replica>, PortError> {
            let restarts = self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Ok(vec![Replica {
                name: format!("replica-{restarts}"),
                model: ModelVersion(1),
                deployment: DeploymentId(1),
                state: delayd_core::ports::ReplicaState::Failed,
                admin_url: String::new(),
                restarts,
                memory_bytes: None,
                reason: Some("killed by signal 9".to_owned()),
            }])
        }
        async fn reconcile(&self) -> Result<Vec<String>, PortError> {
            Ok(vec!["Service delay-ml was gone and was made again".to_owned()])
        }
        fn service_url(&self) -> String {
            String::new()
        }
        async fn tear_down(&self) -> Result<(), PortError> {
            Ok(())
        }
        async fn probe(&self) -> Result<String, PortError> {
            Ok(String::new())
        }
    }

    fn stage(folder: &Path) -> DeploymentStage {
        let store: Arc<dyn ObjectStore> = Arc::new(FolderStore::open(&folder.join("store")).unwrap());
        let env = Env {
            clock: Arc::new(SystemClock),
            ledger: Ledger::open(&folder.join("ledger.sqlite")).unwrap(),
            weather: Arc::new(WeatherCsv::new(store.clone(), "weather/")),
            trainer: Arc::new(crate::testing::NoTrainer),
            object_store: store,
            image_registry: Arc::new(OciLayoutRegistry::open(&folder.join("images")).unwrap()),
            cluster: Arc::new(Meddled::default()),
            notifier: Arc::new(LogNotifier),
        };
        DeploymentStage {
            env,
            settings: Arc::default(),
            bundles: BundleStore::new(folder.join("bundles")),
            rollouts: Rollouts::default(),
            restarts: Arc::default(),
        }
    }

    #[tokio::test]
    async fn what_somebody_else_changed_is_told_once_a_day() {
        let folder = tempfile::tempdir().unwrap();
        let stage = stage(folder.path());
        let day = stage.env.now().date_naive();
        stage.reconcile().await.unwrap();
        stage.reconcile().await.unwrap();
        let alerts = stage.env.ledger.alerts(Page { offset: 0, limit: 10 }).await.unwrap();
        // Midnight may lie between the two.
        let expected = if stage.env.now().date_naive() == day { 1 } else { 2 };
        assert_eq!(alerts.len(), expected);
        let alert = &alerts[0].alert;
        assert_eq!(alert.severity, Severity::Warning);
        assert!(alert.body.contains("Service delay-ml was gone"), "{}", alert.body);
    }
    #[tokio::test]
    async fn a_replica_that_dies_again_and_again_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let stage = stage(folder.path());
        let told = async || {
            let alerts = stage.env.ledger.alerts(Page { offset: 0, limit: 10 }).await.unwrap();
            alerts.into_iter().map(|one| one.alert).find(|alert| alert.dedup_key.starts_with("replicas/"))
        };
        for _ in 0..3 {
            stage.reconcile().await.unwrap();
        }
        assert!(told().await.is_none(), "two restarts may happen");
        stage.reconcile().await.unwrap();
        let alert = told().await.unwrap();
        assert!(alert.title.contains("3 restarts") && alert.body.contains("killed by signal 9"), "{alert:?}");
    }
}
