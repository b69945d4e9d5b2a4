//! Rolling to a release, waiting for it, and going back when it does not work.
//!
//! What is about to happen is recorded first, so that a daemon that dies in the
//! middle finds its way: the same `apply` again continues, and reconciliation ends
//! what nobody continues.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::KubernetesCluster;
use super::diagnosis::{self, Evidence, Trouble};
use super::pods::RolloutStatus;
use super::record::Record;
use super::settings::{Manifest, ServiceObject};
use super::templates::{self, Surroundings};
use delayd_core::blocking;
use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::ports::{Release, ReplicaState, RolloutProgress};

type Progress<'a> = &'a (dyn Fn(RolloutProgress) + Send + Sync);

/// How a rollout ended that did not succeed.
pub(super) enum Failure {
    /// The API server is unavailable: nothing can be done, not even rolling back.
    Outage(PortError),
    /// The release does not work, or is not let in.
    Broken(PortError),
}

impl Failure {
    pub(super) fn of(error: PortError) -> Self {
        if error.kind().is_outage() { Self::Outage(error) } else { Self::Broken(error) }
    }
}

pub(super) struct Planned {
    pub(super) release: Release,
    pub(super) manifests: Vec<Manifest>,
}

impl KubernetesCluster {
    pub(super) async fn apply_release(
        &self,
        release: &Release,
        deadline: Instant,
        progress: Progress<'_>,
    ) -> Result<(), PortError> {
        let action = || format!("rolling to {} ({})", release.model, release.deployment);
        check(release).map_err(|message| PortError::new(ErrorKind::Invalid, action(), message))?;
        self.forget_versions().await;
        let mut record = self.claim().await?;
        let before = self.plan_before(&record).await?;
        let interrupted = record.rolling.take().filter(|rolling| rolling != release);
        let left_behind = match &interrupted {
            Some(rolling) => self.kept_manifests(rolling).await?.unwrap_or_default(),
            None => Vec::new(),
        };
        let planned = self.plan(release).await?;
        if record.applied.as_ref() != Some(release) || interrupted.is_some() {
            record.rolling = Some(release.clone());
            self.write_record(&mut record).await?;
        }
        let cause = match self.roll(&planned, deadline, progress).await {
            Ok(()) => {
                let mut surplus = before.map(|before| before.manifests).unwrap_or_default();
                surplus.extend(left_behind);
                return self.finish(&mut record, &planned, &surplus).await;
            }
            Err(Failure::Outage(error)) => {
                let message = format!("{}; it resumes when the API server is back", chain(&error));
                return Err(PortError::new(error.kind(), action(), message));
            }
            Err(Failure::Broken(cause)) => cause,
        };
        let outcome = match before {
            Some(before) if before.release == *release => "it ran before, and is left as it is".to_owned(),
            before => self.roll_back_reporting(&mut record, &planned, before).await,
        };
        Err(PortError::new(cause.kind(), action(), format!("{}; {outcome}", chain(&cause))))
    }

    /// The release that runs, with the manifests that it was applied with.
    pub(super) async fn plan_before(&self, record: &Record) -> Result<Option<Planned>, PortError> {
        let Some(release) = record.applied.clone() else { return Ok(None) };
        let manifests = match self.kept_manifests(&release).await? {
            Some(manifests) => manifests,
            None => self.rendered(&release).await?,
        };
        Ok(Some(Planned { release, manifests }))
    }

    /// The release's manifests: those that it was applied with before, or made now and kept.
    async fn plan(&self, release: &Release) -> Result<Planned, PortError> {
        let manifests = match self.kept_manifests(release).await? {
            Some(manifests) => manifests,
            None => {
                let manifests = self.rendered(release).await?;
                self.keep_manifests(release, &manifests).await?;
                manifests
            }
        };
        Ok(Planned { release: release.clone(), manifests })
    }

    pub(super) async fn rendered(&self, release: &Release) -> Result<Vec<Manifest>, PortError> {
        let namespace = self.client.connection("looking for the namespace").await?.namespace;
        let (settings, versions, release) = (self.settings().clone(), self.versions().await?, release.clone());
        let (linger, ready) = (self.config.drain_linger.as_secs(), self.config.ready_deadline.as_secs());
        // Templates are read from files.
        let made = blocking("making manifests", move || {
            let around = Surroundings {
                settings: &settings,
                namespace: &namespace,
                drain_linger_secs: linger,
                progress_deadline_secs: ready,
                versions,
            };
            templates::render(&release, &around)
        });
        made.await
    }

    /// Applies every object and waits until the release serves, alone.
    pub(super) async fn roll(
        &self,
        planned: &Planned,
        deadline: Instant,
        progress: Progress<'_>,
    ) -> Result<(), Failure> {
        self.put_all(planned).await.map_err(Failure::of)?;
        self.await_ready(&planned.release, deadline, progress).await?;
        self.await_service(&planned.release, deadline).await
    }

    pub(super) async fn put_all(&self, planned: &Planned) -> Result<(), PortError> {
        self.forget_verified();
        for manifest in &planned.manifests {
            self.refuse_foreign(manifest).await?;
        }
        for manifest in &planned.manifests {
            let manifest = self.scaled(manifest, &planned.manifests).await?;
            let live = self.put(&manifest, &planned.release, false).await?;
            if manifest.object == ServiceObject::Service {
                self.addresses.note_service(&live);
            }
        }
        Ok(())
    }

    /// With an autoscaler, the Deployment keeps the number of pods that it has.
    pub(super) async fn scaled(&self, manifest: &Manifest, all: &[Manifest]) -> Result<Manifest, PortError> {
        let mut manifest = manifest.clone();
        let autoscaled = all.iter().any(|other| other.object == ServiceObject::HorizontalPodAutoscaler);
        if manifest.object == ServiceObject::Deployment
            && autoscaled
            && let Some(live) = self.live(&manifest).await?
            && let Some(chosen) = live.pointer("/spec/replicas")
        {
            manifest.body["spec"]["replicas"] = chosen.clone();
        }
        Ok(manifest)
    }

    async fn await_ready(&self, release: &Release, deadline: Instant, progress: Progress<'_>) -> Result<(), Failure> {
        let (begun, mut told) = (Instant::now(), None);
        loop {
            let look = self.check_rollout(release).await;
            let late = Instant::now() >= deadline;
            match look {
                Ok(standing) => {
                    let message = standing.message(release);
                    if told.as_ref() != Some(&message) {
                        progress(RolloutProgress {
                            updated: standing.ready,
                            wanted: standing.wanted,
                            message: message.clone(),
                        });
                        told = Some(message);
                    }
                    if standing.done {
                        return Ok(());
                    }
                    if late || standing.is_broken() {
                        return Err(Failure::Broken(self.explained(standing, release, Some(begun.elapsed())).await));
                    }
                }
                Err(error) if error.kind().is_outage() => {
                    if late {
                        return Err(Failure::Outage(error));
                    }
                    tracing::warn!(error = chain(&error), "the rollout cannot be watched at the moment");
                }
                Err(error) => return Err(Failure::Broken(error)),
            }
            sleep(self.poll_interval()).await;
        }
    }

    pub(super) async fn check_rollout(&self, release: &Release) -> Result<RolloutStatus, PortError> {
        let deployment = self.live_deployment().await?.ok_or_else(|| {
            let message = "it is gone: it was deleted";
            PortError::new(ErrorKind::NotFound, format!("checking Deployment {}", self.settings().name), message)
        })?;
        Ok(RolloutStatus::of(&deployment, &self.pods().await?, release))
    }

    /// Why it does not become ready, with what events and logs tell.
    pub(super) async fn explained(
        &self,
        standing: RolloutStatus,
        release: &Release,
        waited: Option<Duration>,
    ) -> PortError {
        let mut troubles = Vec::new();
        let message = standing.message(release);
        for trouble in standing.troubles {
            troubles.push(self.with_evidence(trouble).await);
        }
        let (kind, reason) =
            diagnosis::told(troubles).unwrap_or_else(|| (ErrorKind::Timeout, "no pod says what is wrong".to_owned()));
        let waited = waited.map(|waited| format!("after {} s ", waited.as_secs())).unwrap_or_default();
        PortError::new(kind, format!("{waited}{message}"), reason)
    }

    /// What cannot be fetched is left out: the trouble itself is known.
    async fn with_evidence(&self, trouble: Trouble) -> Trouble {
        let left_out = |error: PortError| {
            tracing::warn!(
                pod.name = trouble.pod,
                error = chain(&error),
                "the reason is reported without events and log"
            );
        };
        match trouble.evidence.clone() {
            Evidence::None => trouble,
            Evidence::Events => match self.events_of(&trouble.pod).await {
                Ok(events) => trouble.with_events(&events),
                Err(error) => {
                    left_out(error);
                    trouble
                }
            },
            Evidence::Log { container, previous } => match self.log_tail(&trouble.pod, &container, previous).await {
                Ok(log) => trouble.with_log(&log),
                Err(error) => {
                    left_out(error);
                    trouble
                }
            },
        }
    }

    /// The release runs: what earlier ones had and it has not is taken away.
    pub(super) async fn finish(
        &self,
        record: &mut Record,
        planned: &Planned,
        earlier: &[Manifest],
    ) -> Result<(), PortError> {
        self.remove_surplus(earlier, &planned.manifests).await?;
        if record.applied.as_ref() != Some(&planned.release) || record.rolling.is_some() {
            record.applied = Some(planned.release.clone());
            record.rolling = None;
            self.write_record(record).await?;
        }
        self.remember(Some(planned.release.clone()));
        self.forget_old_releases(planned.release.deployment).await
    }

    async fn remove_surplus(&self, earlier: &[Manifest], wanted: &[Manifest]) -> Result<(), PortError> {
        for manifest in earlier {
            if !wanted.iter().any(|other| other.is_same_object(manifest)) {
                self.remove_object(manifest).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn roll_back_reporting(
        &self,
        record: &mut Record,
        failed: &Planned,
        before: Option<Planned>,
    ) -> String {
        match self.roll_back(record, failed, before).await {
            Ok(outcome) => outcome,
            Err(Failure::Outage(error) | Failure::Broken(error)) => {
                format!("and going back failed: {}; it is tried again by itself", chain(&error))
            }
        }
    }

    /// Back to the release that ran before, all of it; says what came of it.
    async fn roll_back(
        &self,
        record: &mut Record,
        failed: &Planned,
        before: Option<Planned>,
    ) -> Result<String, Failure> {
        let Some(before) = before else {
            for manifest in &failed.manifests {
                self.remove_object(manifest).await.map_err(Failure::of)?;
            }
            self.await_no_active_pods().await?;
            self.forget_record().await.map_err(Failure::of)?;
            self.remember(None);
            return Ok("there is no earlier release to serve, and nothing of it is left".to_owned());
        };
        self.roll(&before, Instant::now() + self.config.ready_deadline, &|_| ()).await?;
        self.remove_surplus(&failed.manifests, &before.manifests).await.map_err(Failure::of)?;
        self.keep_manifests(&before.release, &before.manifests).await.map_err(Failure::of)?;
        if failed.release.deployment != before.release.deployment {
            self.forget_manifests(failed.release.deployment).await.map_err(Failure::of)?;
        }
        record.applied = Some(before.release.clone());
        record.rolling = None;
        self.write_record(record).await.map_err(Failure::of)?;
        Ok(format!("{} still serves", before.release.model))
    }

    /// What was not ready goes quickly, but not at once.
    async fn await_no_active_pods(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + self.config.ready_deadline;
        loop {
            let pods = self.pods().await.map_err(Failure::of)?;
            let active = pods.iter().filter(|pod| super::pods::is_active(pod)).count();
            if active == 0 {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let message = format!("{active} pods are still there");
                return Err(Failure::Broken(PortError::new(ErrorKind::Timeout, "removing the release", message)));
            }
            sleep(self.poll_interval()).await;
        }
    }
}

/// Whether a cluster could run it at all.
fn check(release: &Release) -> Result<(), String> {
    if release.replicas == 0 {
        return Err("a release needs at least one replica; to stop the service, tear it down".to_owned());
    }
    let by_digest =
        release.image.rsplit_once('@').is_some_and(|(_, digest)| digest.parse::<delayd_core::ids::Digest>().is_ok());
    if release.image.starts_with("oci:") || !by_digest {
        return Err(format!(
            "nodes cannot pull `{}`; expected an image in a registry by digest, like \
             registry.example/delay-ml@sha256:…; choose a registry.kind other than \"layout\"",
            release.image
        ));
    }
    Ok(())
}

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
            self.remove_object(manifest).await?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use delayd_core::ids::{DeploymentId, Digest, ModelVersion};

    #[test]
    fn only_an_image_by_digest_in_a_registry_can_be_pulled() {
        let digest = Digest::of(b"image");
        let with = |image: String, replicas: u32| Release {
            deployment: DeploymentId(1),
            model: ModelVersion(1),
            bundle: Digest::of(b"bundle"),
            image,
            bundle_dir: "/b".into(),
            replicas,
        };
        assert_eq!(check(&with(format!("localhost:5000/delay-ml@{digest}"), 2)), Ok(()));
        for image in ["delay-ml:model_v1".to_owned(), format!("oci:/images@{digest}"), "r/x@sha256:1".to_owned()] {
            assert!(check(&with(image, 2)).unwrap_err().contains("by digest"));
        }
        assert!(check(&with(format!("r/x@{digest}"), 0)).unwrap_err().contains("at least one replica"));
    }
}
