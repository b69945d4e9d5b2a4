//! What a Job and its pods say of a worker, in our words.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerState, Pod};

use crate::adapters::worker_trainer::{Worker, WorkerState};
use crate::error::{ErrorKind, PortError};

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
    let words = last_words(&ended.words);
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
fn last_words(words: &str) -> String {
    let words = words.trim();
    if words.is_empty() {
        return String::new();
    }
    let skipped = words.chars().count().saturating_sub(LAST_WORDS_CHARS);
    let tail: String = words.chars().skip(skipped).collect();
    format!("; its last words: {tail}")
}
