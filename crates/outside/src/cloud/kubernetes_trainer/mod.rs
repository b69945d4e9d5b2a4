//! Trains in Jobs of a Kubernetes cluster: the pool of workers behind
//! [`WorkerTrainer`]. One Job per trial of a search and one for the training, named by
//! run and part, so that a daemon that starts again finds its own.
//!
//! It sends documents' keys and no data: pods read and write the object store. What a
//! Job computes, and which trial continues, is decided elsewhere. Kubernetes tries a pod
//! that failed again; a Job that failed is left for people to look at until the run is
//! asked for again or forgotten.

mod manifest;
mod settings;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerState, Pod};
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

    async fn job(&self, name: &str) -> Result<Option<Job>, PortError> {
        self.client.find(&format!("reading Job {name}"), name).await
    }

    async fn job_of(&self, worker: &Worker) -> Result<Option<Job>, PortError> {
        self.job(&manifest::job_name(&self.settings, worker)).await
    }

    async fn jobs(&self, selector: &str) -> Result<Vec<Job>, PortError> {
        self.client.list(&format!("listing Jobs with {selector}"), &ListParams::default().labels(selector)).await
    }

    /// The pods of a Job, of this one and not of an earlier one of the same name.
    async fn pods(&self, worker: &Worker, job: &Job) -> Result<Vec<Pod>, PortError> {
        let selector = format!("{}={}", manifest::JOB, manifest::job_name(&self.settings, worker));
        let action = format!("listing pods with {selector}");
        let mut pods: Vec<Pod> = self.client.list(&action, &ListParams::default().labels(&selector)).await?;
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

    async fn delete(&self, name: &str, dry_run: bool) -> Result<(), PortError> {
        // The Job stays until its last pod has left: what is gone does not run.
        let how = DeleteParams { dry_run, ..DeleteParams::foreground() };
        self.client.delete::<Job>(&format!("deleting Job {name}"), name, &how).await
    }

    /// Deletes Jobs and waits until their pods have left.
    async fn remove(&self, jobs: Vec<Job>, action: &str) -> Result<(), PortError> {
        let began = Instant::now();
        for job in jobs {
            let name = job.metadata.name.unwrap_or_default();
            self.delete(&name, false).await?;
            while self.job(&name).await?.is_some_and(|there| there.metadata.uid == job.metadata.uid) {
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

/// Whether a Job does this worker's work, and will keep doing it.
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
        Ok(worker_state(worker, &job, &pods))
    }

    async fn stop(&self, worker: &Worker) -> Result<(), PortError> {
        let jobs = self.job_of(worker).await?.into_iter().collect();
        self.remove(jobs, &worker.action()).await
    }

    async fn forget(&self, run: RunId) -> Result<(), PortError> {
        let jobs = self.jobs(&manifest::run_selector(&self.settings, run)).await?;
        self.remove(jobs, &format!("removing the Jobs of {run}")).await
    }

    /// Asks for every right by a call that changes nothing; the API server checks a
    /// whole Job on the way.
    async fn probe(&self) -> Result<String, PortError> {
        let probe = manifest::probe_job(&self.settings)?;
        let name = probe.metadata.name.clone().unwrap_or_default();
        self.create(probe, true).await?;
        self.delete(&name, true).await?;
        let jobs = self.jobs(&manifest::own_selector(&self.settings)).await?.len();
        let gpus = match self.settings.gpus {
            0 => String::new(),
            gpus => format!(", {gpus} {} each", self.settings.gpu_resource),
        };
        let namespace = self.client.connection("probing the trainer").await?.namespace;
        Ok(format!("Jobs in namespace {namespace}{gpus}, {jobs} of them there now; image {}", self.settings.image))
    }
}

/// The exit status of a process that the kernel killed for its memory (128 + SIGKILL).
const KILLED: i32 = 137;
/// The longest part of a pod's last words that goes into an error, in characters.
const LAST_WORDS_CHARS: usize = 1000;

/// How a worker is doing.
pub(super) fn worker_state(worker: &Worker, job: &Job, pods: &[Pod]) -> WorkerState {
    let status = job.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let holds = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True");
    if holds("Complete").is_some() {
        return WorkerState::Succeeded;
    }
    if let Some(failed) = holds("Failed") {
        let reason = failed.reason.as_deref().unwrap_or_default();
        let said = failed.message.as_deref().unwrap_or_default();
        return WorkerState::Failed(failure(worker, reason, said, pods));
    }
    let newest = newest(pods);
    match newest.and_then(waits_for) {
        Some(why) => WorkerState::Waiting(why),
        None if newest.is_none() => WorkerState::Waiting("its pod is not made yet".to_owned()),
        None => WorkerState::Running,
    }
}

fn newest(pods: &[Pod]) -> Option<&Pod> {
    pods.iter().max_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

/// Why a pod has not started; `None` when it has.
fn waits_for(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    if status.phase.as_deref() != Some("Pending") {
        return None;
    }
    let unscheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    if let Some(condition) = unscheduled {
        let reason = condition.reason.as_deref().unwrap_or("not scheduled");
        return Some(told(reason, condition.message.as_deref()));
    }
    let waiting = status
        .container_statuses
        .iter()
        .flatten()
        .find_map(|container| container.state.as_ref().and_then(|state| state.waiting.as_ref()));
    Some(match waiting {
        Some(waiting) => told(waiting.reason.as_deref().unwrap_or("waiting"), waiting.message.as_deref()),
        None => "its pod is being prepared by the node".to_owned(),
    })
}

fn told(reason: &str, message: Option<&str>) -> String {
    match message.map(str::trim).filter(|message| !message.is_empty()) {
        Some(message) => format!("{reason}: {message}"),
        None => reason.to_owned(),
    }
}

/// Why a Job failed: what became of its last pod says more than the Job itself.
fn failure(worker: &Worker, reason: &str, said: &str, pods: &[Pod]) -> PortError {
    let last = newest(pods).and_then(terminated);
    let job = told(reason, Some(said));
    let Some(ended) = last else {
        let kind = if reason == "DeadlineExceeded" { ErrorKind::Timeout } else { ErrorKind::Interrupted };
        return PortError::new(kind, worker.action(), format!("its Job failed ({job}) and left no pod to ask"));
    };
    let words = last_lines(&ended.words);
    let (kind, what) = if reason == "DeadlineExceeded" {
        (ErrorKind::Timeout, "it did not finish before trainer.kubernetes.deadline_secs".to_owned())
    } else if ended.reason == "OOMKilled" || ended.exit == KILLED {
        let what = format!(
            "its pod ran out of memory ({}, exit status {}); raise trainer.kubernetes.memory",
            ended.reason, ended.exit
        );
        (ErrorKind::Exhausted, what)
    } else {
        (ErrorKind::Interrupted, format!("its pod ended with exit status {} ({})", ended.exit, ended.reason))
    };
    PortError::new(kind, worker.action(), format!("{what}; the Job says {job}{words}"))
}

struct Ended {
    exit: i32,
    reason: String,
    words: String,
}

fn terminated(pod: &Pod) -> Option<Ended> {
    let status = pod.status.as_ref()?;
    let of = |state: &Option<ContainerState>| state.as_ref().and_then(|state| state.terminated.clone());
    let found = status
        .container_statuses
        .iter()
        .flatten()
        .find_map(|container| of(&container.state).or_else(|| of(&container.last_state)));
    match found {
        Some(ended) => Some(Ended {
            exit: ended.exit_code,
            reason: ended.reason.unwrap_or_else(|| "no reason".to_owned()),
            words: ended.message.unwrap_or_default(),
        }),
        // Evicted, or its node is gone: the pod itself knows why.
        None => status.reason.clone().map(|reason| Ended {
            exit: -1,
            reason: told(&reason, status.message.as_deref()),
            words: String::new(),
        }),
    }
}

/// The end of what a pod wrote.
fn last_lines(words: &str) -> String {
    let words = words.trim();
    if words.is_empty() {
        return String::new();
    }
    let skipped = words.chars().count().saturating_sub(LAST_WORDS_CHARS);
    let tail: String = words.chars().skip(skipped).collect();
    format!("; its last words: {tail}")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use delayd_core::ids::{Digest, RunId};
    use delayd_training_job::documents::Work;

    fn worker() -> Worker {
        let key = format!("training-jobs/run_7/training-{}/job.json", Digest::of(b"work").short());
        Worker { run: RunId(7), part: "training".to_owned(), work: Work::at_document(&key).unwrap(), trace: None }
    }

    fn state(job: Value, pods: &[Value]) -> WorkerState {
        let job: Job = serde_json::from_value(json!({ "status": job })).unwrap();
        let pods: Vec<Pod> = pods.iter().map(|pod| serde_json::from_value(pod.clone()).unwrap()).collect();
        worker_state(&worker(), &job, &pods)
    }

    fn pod(second: u32, status: Value) -> Value {
        json!({ "metadata": { "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z") }, "status": status })
    }

    fn ended(exit: i32, reason: &str, words: &str) -> Value {
        let terminated = json!({ "exitCode": exit, "reason": reason, "message": words });
        let status = json!({ "name": "training", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "terminated": terminated } });
        json!({ "phase": "Failed", "containerStatuses": [status] })
    }

    fn waits(reason: &str, message: &str) -> Value {
        let status = json!({ "name": "training", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "waiting": { "reason": reason, "message": message } } });
        json!({ "phase": "Pending", "containerStatuses": [status] })
    }

    fn failed(reason: &str) -> Value {
        let condition = json!({ "type": "Failed", "status": "True", "reason": reason, "message": "said the Job" });
        json!({ "conditions": [condition] })
    }

    #[test]
    fn a_worker_waits_for_its_pod_for_the_scheduler_and_for_its_image() {
        let unscheduled = json!({ "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "False",
            "reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu." }] });
        let cases = [
            (vec![], "its pod is not made yet"),
            (vec![pod(0, unscheduled)], "Unschedulable: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu."),
            (vec![pod(0, waits("ImagePullBackOff", "Back-off"))], "ImagePullBackOff: Back-off"),
            (vec![pod(0, waits("ContainerCreating", ""))], "ContainerCreating"),
            (vec![pod(0, json!({ "phase": "Pending" }))], "its pod is being prepared by the node"),
            // The second attempt counts, whatever order they are listed in.
            (vec![pod(9, waits("ErrImagePull", "no")), pod(1, ended(1, "Error", ""))], "ErrImagePull: no"),
        ];
        for (pods, expected) in cases {
            match state(json!({}), &pods) {
                WorkerState::Waiting(why) => assert_eq!(why, expected),
                other => panic!("{expected}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_worker_is_at_work_while_a_pod_runs_and_between_two_attempts() {
        for pods in [vec![pod(0, json!({ "phase": "Running" }))], vec![pod(0, ended(1, "Error", "no"))]] {
            assert!(matches!(state(json!({ "active": 1 }), &pods), WorkerState::Running));
        }
        let complete = json!({ "conditions": [{ "type": "Complete", "status": "True" }] });
        assert!(matches!(state(complete, &[]), WorkerState::Succeeded));
    }

    #[test]
    fn why_a_job_failed_is_told_by_its_last_pod() {
        let long = "x".repeat(5000) + " the end";
        let evicted = json!({ "phase": "Failed", "reason": "Evicted", "message": "The node was low on memory." });
        let backoff = || failed("BackoffLimitExceeded");
        let cases = [
            (backoff(), vec![pod(0, ended(137, "OOMKilled", ""))], ErrorKind::Exhausted, "trainer.kubernetes.memory"),
            (backoff(), vec![pod(0, ended(137, "Error", ""))], ErrorKind::Exhausted, "exit status 137"),
            (
                backoff(),
                vec![pod(0, ended(75, "Error", "delayd: no store"))],
                ErrorKind::Interrupted,
                "delayd: no store",
            ),
            (backoff(), vec![pod(0, ended(1, "Error", &long))], ErrorKind::Interrupted, "the end"),
            (backoff(), vec![pod(0, evicted)], ErrorKind::Interrupted, "low on memory"),
            (backoff(), vec![], ErrorKind::Interrupted, "left no pod"),
            (failed("DeadlineExceeded"), vec![], ErrorKind::Timeout, "said the Job"),
            (
                failed("DeadlineExceeded"),
                vec![pod(0, ended(143, "Error", ""))],
                ErrorKind::Timeout,
                "trainer.kubernetes.deadline_secs",
            ),
        ];
        for (job, pods, kind, words) in cases {
            match state(job, &pods) {
                WorkerState::Failed(error) => {
                    assert_eq!(error.kind(), kind, "{error}");
                    assert!(error.to_string().contains(words) && error.to_string().contains("said the Job"), "{error}");
                    assert!(error.to_string().len() < 1500, "{error}");
                }
                other => panic!("{words}: {other:?}"),
            }
        }
    }
}
