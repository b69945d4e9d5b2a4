//! Taking the service away, all of it.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::KubernetesCluster;
use super::manifest::Manifest;
use super::templates;
use delayd_core::error::ErrorKind;
use delayd_core::error::PortError;
use delayd_core::ports::ReplicaState;

/// Beyond what pods may take to leave: the cluster's own part of it.
const MARGIN: Duration = Duration::from_secs(60);

impl KubernetesCluster {
    /// Deletes every object of every release kept, waits until the last pod has
    /// left, and forgets that the service was ours.
    pub(super) async fn remove_everything(&self) -> Result<(), PortError> {
        self.forget_verified();
        self.remember(None);
        if self.own_record().await?.is_none() {
            // A Deployment of somebody else is refused here.
            self.lost_release().await?;
            if self.live_deployment().await?.is_none() && self.kept_releases().await?.is_empty() {
                return Ok(());
            }
        }
        let record = self.claim().await?;
        let mut all: Vec<Manifest> = Vec::new();
        let kept = self.kept_releases().await?.into_iter().flat_map(|(_, manifests)| manifests);
        let running = self.plan_before(&record).await?.map(|planned| planned.manifests).unwrap_or_default();
        for manifest in kept.chain(running) {
            if !all.iter().any(|other| other.is_same_object(&manifest)) {
                all.push(manifest);
            }
        }
        for manifest in &all {
            self.take_away(manifest).await?;
        }
        self.await_no_pods().await?;
        self.forget_record().await
    }

    /// Nobody lingers: what they counted is not wanted any more.
    async fn await_no_pods(&self) -> Result<(), PortError> {
        let grace = templates::termination_grace_secs(self.settings(), self.config.drain_linger.as_secs());
        let deadline = Instant::now() + Duration::from_secs(grace) + MARGIN;
        loop {
            let replicas = self.observed_replicas().await?;
            if replicas.is_empty() {
                return Ok(());
            }
            for replica in replicas.iter().filter(|replica| replica.state == ReplicaState::Draining) {
                // It may be gone already, or not be done yet; the next look tells.
                let _ = self.http.post(format!("{}/admin/v1/collected", replica.admin_url)).send().await;
            }
            if Instant::now() >= deadline {
                let names: Vec<&str> = replicas.iter().map(|replica| replica.name.as_str()).collect();
                let message = format!("pods are still there: {}", names.join(", "));
                return Err(PortError::new(ErrorKind::Timeout, "stopping the service", message));
            }
            sleep(self.poll_interval()).await;
        }
    }
}
