//! Trains in Jobs of a Kubernetes cluster: the pool of workers behind
//! [`WorkerTrainer`]. One Job per trial of a search and one for the training, named by
//! run and part, so that a daemon that starts again finds its own.
//!
//! It sends documents' keys and no data: pods read and write the object store. What a
//! Job computes, and which trial goes on, is decided elsewhere. Kubernetes tries a pod
//! that failed again; a Job that failed is left for people to look at until the run is
//! asked for again or forgotten.

mod manifest;
mod settings;
mod state;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, PostParams};

pub use self::settings::{KubernetesTrainerSettings, Toleration};
use super::kubernetes::KubernetesSettings;
use super::kubernetes::client::KubernetesClient;
use crate::worker_trainer::{WaitPolicy, Worker, WorkerPool, WorkerState, WorkerTrainer};
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ids::RunId;
use delayd_core::ports::ObjectStore;

/// How long pods may take to leave: the grace period that Kubernetes gives by
/// default (30 s), and the time for the controllers to notice.
const REMOVAL_LIMIT: Duration = Duration::from_secs(120);

/// The trainer of `kind = "kubernetes_job"`. Connects to nobody yet.
///
/// # Errors
/// When the system gives no thread for the client.
pub fn open(
    settings: &KubernetesTrainerSettings,
    cluster: &KubernetesSettings,
    store: Arc<dyn ObjectStore>,
) -> Result<WorkerTrainer<JobPool>, PortError> {
    let policy = WaitPolicy {
        split_search: true,
        parallel_trials: settings.parallel_trials,
        poll: Duration::from_secs(settings.poll_secs),
        start_deadline: Duration::from_secs(settings.start_deadline_secs),
    };
    Ok(WorkerTrainer::new(store, JobPool::new(settings, cluster)?, policy))
}

/// Workers as Jobs.
#[derive(Debug)]
pub struct JobPool {
    settings: KubernetesTrainerSettings,
    client: KubernetesClient,
    poll: Duration,
}

impl JobPool {
    fn new(settings: &KubernetesTrainerSettings, cluster: &KubernetesSettings) -> Result<Self, PortError> {
        let own = Some(settings.namespace.clone()).filter(|namespace| !namespace.is_empty());
        let namespace = own.unwrap_or_else(|| cluster.namespace.clone());
        let client = KubernetesClient::new(&KubernetesSettings { namespace, ..cluster.clone() })?;
        Ok(Self { settings: settings.clone(), client, poll: Duration::from_secs(settings.poll_secs) })
    }

    async fn job(&self, name: String) -> Result<Option<Job>, PortError> {
        let action = format!("reading Job {name}");
        let found = self.client.call(&action, move |connection| {
            let name = name.clone();
            async move { Api::<Job>::namespaced(connection.client, &connection.namespace).get_opt(&name).await }
        });
        found.await
    }

    async fn job_of(&self, worker: &Worker) -> Result<Option<Job>, PortError> {
        self.job(manifest::job_name(&self.settings, worker)).await
    }

    async fn jobs(&self, selector: String) -> Result<Vec<Job>, PortError> {
        let action = format!("listing Jobs with {selector}");
        let found = self.client.call(&action, move |connection| {
            let only = ListParams::default().labels(&selector);
            async move { Api::<Job>::namespaced(connection.client, &connection.namespace).list(&only).await }
        });
        Ok(found.await?.items)
    }

    /// The pods of a Job, of this one and not of an earlier one of the same name.
    async fn pods(&self, worker: &Worker, job: &Job) -> Result<Vec<Pod>, PortError> {
        let selector = format!("{}={}", manifest::JOB, manifest::job_name(&self.settings, worker));
        let action = format!("listing pods with {selector}");
        let found = self.client.call(&action, move |connection| {
            let only = ListParams::default().labels(&selector);
            async move { Api::<Pod>::namespaced(connection.client, &connection.namespace).list(&only).await }
        });
        let mut pods = found.await?.items;
        let uid = job.metadata.uid.clone().unwrap_or_default();
        pods.retain(|pod| pod.metadata.owner_references.iter().flatten().any(|owner| owner.uid == uid));
        Ok(pods)
    }

    async fn create(&self, job: Job, dry_run: bool) -> Result<(), PortError> {
        let name = job.metadata.name.clone().unwrap_or_default();
        let action = format!("creating Job {name}");
        let created = self.client.call(&action, move |connection| {
            let job = job.clone();
            let how = PostParams { dry_run, field_manager: Some("delayd".to_owned()) };
            async move { Api::namespaced(connection.client, &connection.namespace).create(&how, &job).await }
        });
        created.await.map(|_| ())
    }

    async fn delete(&self, name: String, dry_run: bool) -> Result<(), PortError> {
        let action = format!("deleting Job {name}");
        let deleted = self.client.call(&action, move |connection| {
            let name = name.clone();
            // The Job stays until its last pod has left: what is gone does not run.
            let how = DeleteParams { dry_run, ..DeleteParams::foreground() };
            async move {
                Api::<Job>::namespaced(connection.client, &connection.namespace).delete(&name, &how).await.map(|_| ())
            }
        });
        match deleted.await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    /// Deletes Jobs and waits until their pods have left.
    async fn remove(&self, jobs: Vec<Job>, action: &str) -> Result<(), PortError> {
        let began = Instant::now();
        for job in jobs {
            let name = job.metadata.name.unwrap_or_default();
            self.delete(name.clone(), false).await?;
            while self.job(name.clone()).await?.is_some_and(|there| there.metadata.uid == job.metadata.uid) {
                if began.elapsed() > REMOVAL_LIMIT {
                    let message = format!("the pods of Job {name} have not left after {} s", REMOVAL_LIMIT.as_secs());
                    return Err(PortError::new(ErrorKind::Timeout, action, message));
                }
                tokio::time::sleep(self.poll).await;
            }
        }
        Ok(())
    }
}

/// Whether a Job does this worker's work, and will go on doing it.
fn is_ours_and_alive(job: &Job, worker: &Worker) -> bool {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let failed = conditions.into_iter().any(|condition| condition.type_ == "Failed" && condition.status == "True");
    does_work_of(job, worker) && !failed
}

fn does_work_of(job: &Job, worker: &Worker) -> bool {
    let annotations = job.metadata.annotations.as_ref();
    let work = annotations.and_then(|annotations| annotations.get(manifest::WORK));
    work == Some(&worker.work.document_key()) && job.metadata.deletion_timestamp.is_none()
}

#[async_trait]
impl WorkerPool for JobPool {
    async fn start(&self, worker: &Worker) -> Result<(), PortError> {
        if let Some(job) = self.job_of(worker).await? {
            if is_ours_and_alive(&job, worker) {
                return Ok(());
            }
            self.remove(vec![job], &worker.action()).await?;
        }
        self.create(manifest::job(&self.settings, worker)?, false).await
    }

    async fn state(&self, worker: &Worker) -> Result<WorkerState, PortError> {
        let job = self.job_of(worker).await?.filter(|job| does_work_of(job, worker));
        let Some(job) = job else { return Ok(WorkerState::Absent) };
        let pods = self.pods(worker, &job).await?;
        Ok(state::worker_state(worker, &job, &pods))
    }

    async fn stop(&self, worker: &Worker) -> Result<(), PortError> {
        let jobs = self.job_of(worker).await?.into_iter().collect();
        self.remove(jobs, &worker.action()).await
    }

    async fn forget(&self, run: RunId) -> Result<(), PortError> {
        let jobs = self.jobs(manifest::run_selector(&self.settings, run)).await?;
        self.remove(jobs, &format!("removing the Jobs of {run}")).await
    }

    /// Asks for every right by a call that changes nothing; the API server checks a
    /// whole Job on the way.
    async fn probe(&self) -> Result<String, PortError> {
        let probe = manifest::probe_job(&self.settings)?;
        let name = probe.metadata.name.clone().unwrap_or_default();
        self.create(probe, true).await?;
        self.delete(name, true).await?;
        let jobs = self.jobs(manifest::own_selector(&self.settings)).await?.len();
        let gpus = match self.settings.gpus {
            0 => String::new(),
            gpus => format!(", {gpus} {} each", self.settings.gpu_resource),
        };
        let namespace = self.client.connection("probing the trainer").await?.namespace;
        Ok(format!("Jobs in namespace {namespace}{gpus}, {jobs} of them there now; image {}", self.settings.image))
    }
}
