//! Between rollouts: keeps the service as it was applied, and alerts on what operators should know about it.

use std::collections::VecDeque;
use std::sync::PoisonError;

use chrono::{DateTime, Duration, Utc};

use super::deploy::DeploymentStage;
use super::live_service::live_service;
use crate::supervision::Request;
use delayd_core::failure::StepFailure;
use delayd_core::ids::Digest;
use delayd_core::ports::Severity;

/// Restarts are added up over this time.
const RESTART_WINDOW: Duration = Duration::hours(1);
/// This many within the window raise an alert.
const ALERTED_RESTARTS: u64 = 3;

/// Restarts dead replicas, adopts running ones, and repairs what someone else changed. Alerts on repairs, on replicas
/// that keep dying, and on a live model that is not being served: each at most once a day, because two parties
/// that both insist would fill the outbox.
#[derive(Debug, Clone)]
pub struct ReconcileReplicas;

impl Request for ReconcileReplicas {
    type Stage = DeploymentStage;
    type Answer = ();

    async fn run(self, stage: &DeploymentStage) -> Result<(), StepFailure> {
        let repairs = stage.env.cluster.reconcile().await?;
        stage.alert_restarts().await?;
        stage.alert_repairs(&repairs).await?;
        stage.alert_unless_live_is_served().await
    }
}

impl DeploymentStage {
    async fn alert_repairs(&self, repairs: &[String]) -> Result<(), StepFailure> {
        if repairs.is_empty() {
            return Ok(());
        }
        let lines = repairs.join("\n");
        tracing::warn!(repairs = lines, "the cluster differed from what was applied, and was repaired");
        let day = self.env.now().date_naive();
        let key = format!("cluster/repaired/{day}/{}", Digest::of(lines.as_bytes()).short());
        let body = format!(
            "{lines}\nThe live model keeps serving. Find out who did it: a change that is meant to stay belongs \
             in the configuration or the templates."
        );
        Ok(self.env.alert(Severity::Warning, key, "the service's objects were changed by someone else", body).await?)
    }

    /// A dead replica is replaced by itself, so nobody would notice one that dies again and again.
    async fn alert_restarts(&self) -> Result<(), StepFailure> {
        let (replicas, now) = (self.env.cluster.replicas().await?, self.env.now());
        let restarts = replicas.iter().map(|replica| u64::from(replica.restarts)).sum();
        let recent = self.restarts.lock().unwrap_or_else(PoisonError::into_inner).count(restarts, now);
        if recent < ALERTED_RESTARTS {
            return Ok(());
        }
        let reasons: Vec<String> = replicas
            .iter()
            .filter_map(|replica| Some(format!("{}: {}", replica.name, replica.reason.as_deref()?)))
            .collect();
        let body = format!(
            "Each is replaced automatically, and the others answer meanwhile. {}\nLook into the replicas' logs; \
             `delayd deployments` names them, `delayd rollback` goes back to the previous release.",
            reasons.join("; ")
        );
        let title = format!("replicas keep dying: {recent} restarts within an hour");
        let key = format!("replicas/restarts/{}", now.date_naive());
        Ok(self.env.alert(Severity::Warning, key, title, body).await?)
    }

    async fn alert_unless_live_is_served(&self) -> Result<(), StepFailure> {
        let Some(found) = live_service(&self.env).await?.filter(|found| !found.served) else { return Ok(()) };
        tracing::error!(model.version = %found.live, "{}", found.text);
        let day = self.env.now().date_naive();
        let key = format!("live/not-served/{day}/{}", Digest::of(found.text.as_bytes()).short());
        let title = format!("{} is live but not being served", found.live);
        Ok(self.env.alert(Severity::Critical, key, title, found.text).await?)
    }
}

/// Counts the restarts of the last hour. Kept in memory only: a restarted daemon counts from zero.
#[derive(Debug, Default)]
pub struct RestartCounter {
    /// The restarts of all present replicas at the last check.
    last: Option<u64>,
    /// How many were added at each check.
    added: VecDeque<(DateTime<Utc>, u64)>,
}

impl RestartCounter {
    /// Takes the restarts of all present replicas, added up; answers how many of them the last hour saw.
    fn count(&mut self, restarts: u64, now: DateTime<Utc>) -> u64 {
        // Fewer than before: other replicas, which start at zero.
        let added = self.last.map_or(0, |last| restarts.saturating_sub(last));
        self.last = Some(restarts);
        self.added.push_back((now, added));
        self.added.retain(|(at, _)| *at > now - RESTART_WINDOW);
        self.added.iter().map(|(_, added)| added).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::stages::deploy::Rollouts;
    use crate::testing::{FixedCluster, env};
    use delayd_core::clock::SystemClock;
    use delayd_core::ids::{DeploymentId, ModelVersion};
    use delayd_core::ports::{Replica, ReplicaState};
    use delayd_ledger::Page;
    use delayd_outside::bundles::BundleStore;

    fn stage(folder: &Path, cluster: Arc<FixedCluster>) -> DeploymentStage {
        DeploymentStage {
            env: env(folder, Arc::new(SystemClock), cluster),
            settings: Arc::default(),
            bundles: BundleStore::new(folder.join("bundles")),
            rollouts: Rollouts::default(),
            restarts: Arc::default(),
        }
    }

    fn dying(restarts: u32) -> Replica {
        Replica {
            name: format!("replica-{restarts}"),
            model: ModelVersion(1),
            deployment: DeploymentId(1),
            state: ReplicaState::Failed,
            admin_url: String::new(),
            restarts,
            memory_bytes: None,
            reason: Some("killed by signal 9".to_owned()),
        }
    }

    #[tokio::test]
    async fn what_someone_else_changed_raises_an_alert_once_a_day() {
        let folder = tempfile::tempdir().unwrap();
        let repairs = vec!["Service delay-ml was missing and was created again".to_owned()];
        let stage = stage(folder.path(), Arc::new(FixedCluster { repairs, ..FixedCluster::default() }));
        let day = stage.env.now().date_naive();
        ReconcileReplicas.run(&stage).await.unwrap();
        ReconcileReplicas.run(&stage).await.unwrap();
        let alerts = stage.env.ledger.alerts(Page { offset: 0, limit: 10 }).await.unwrap();
        // Midnight may lie between the two.
        let expected = if stage.env.now().date_naive() == day { 1 } else { 2 };
        assert_eq!(alerts.len(), expected);
        let alert = &alerts[0].alert;
        assert_eq!(alert.severity, Severity::Warning);
        assert!(alert.body.contains("Service delay-ml was missing"), "{}", alert.body);
    }

    #[tokio::test]
    async fn a_replica_that_dies_again_and_again_raises_an_alert() {
        let folder = tempfile::tempdir().unwrap();
        let cluster = Arc::new(FixedCluster::default());
        let stage = stage(folder.path(), cluster.clone());
        let raised = async || {
            let alerts = stage.env.ledger.alerts(Page { offset: 0, limit: 10 }).await.unwrap();
            alerts.into_iter().map(|one| one.alert).find(|alert| alert.dedup_key.starts_with("replicas/"))
        };
        for restarts in 0..3 {
            *cluster.replicas.lock().unwrap() = vec![dying(restarts)];
            ReconcileReplicas.run(&stage).await.unwrap();
        }
        assert!(raised().await.is_none(), "two restarts may happen");
        *cluster.replicas.lock().unwrap() = vec![dying(3)];
        ReconcileReplicas.run(&stage).await.unwrap();
        let alert = raised().await.unwrap();
        assert!(alert.title.contains("3 restarts") && alert.body.contains("killed by signal 9"), "{alert:?}");
    }

    fn at(minute: i64) -> DateTime<Utc> {
        "2013-03-01T06:00:00Z".parse::<DateTime<Utc>>().unwrap() + Duration::minutes(minute)
    }

    #[test]
    fn three_restarts_within_an_hour_are_counted_and_three_in_a_day_are_not() {
        let mut quick = RestartCounter::default();
        // What was restarted before the daemon started does not count.
        let counted: Vec<_> =
            [(0, 40), (5, 41), (10, 42), (15, 43), (74, 43), (75, 43)].map(|(m, n)| quick.count(n, at(m))).into();
        assert_eq!(counted, [0, 1, 2, 3, 1, 0]);
        let mut slow = RestartCounter::default();
        assert!((0..24).all(|hour| slow.count(hour, at(60 * hour as i64)) <= 1));
    }

    #[test]
    fn a_rollout_counts_from_zero_and_is_not_a_restart() {
        let mut counter = RestartCounter::default();
        counter.count(9, at(0));
        assert_eq!(counter.count(0, at(1)), 0);
        assert_eq!(counter.count(2, at(2)), 2);
        assert_eq!(counter.count(3, at(3)), 3);
    }
}
