//! The Job of one worker, as it is sent to Kubernetes.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::Job;
use serde_json::{Value, json};

use super::settings::KubernetesTrainerSettings;
use crate::worker_trainer::Worker;
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ids::{RunId, TraceId};
use delayd_core::spans::TRACEPARENT;

pub(super) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Label with the prefix of the daemon whose Jobs they are.
pub(super) const INSTANCE: &str = "app.kubernetes.io/instance";
pub(super) const RUN: &str = "delayd.dev/run";
/// Label with the Job's name, on its pods.
pub(super) const JOB: &str = "delayd.dev/job";
/// Annotation with the work's document: which work a Job of this name does.
pub(super) const WORK: &str = "delayd.dev/work";

/// The training worker, where the daemon's image has it.
const PROGRAM: &str = "/usr/bin/delayd-train";
const CONFIG_DIR: &str = "/etc/delayd";

/// The name of a worker's Job: `delayd-run-7-trial-2-round-0`.
pub(super) fn job_name(settings: &KubernetesTrainerSettings, worker: &Worker) -> String {
    format!("{}-run-{}-{}", settings.name_prefix, worker.run.0, worker.part)
}

/// Selects the Jobs of this daemon.
pub(super) fn own_selector(settings: &KubernetesTrainerSettings) -> String {
    format!("{MANAGED_BY}=delayd,{INSTANCE}={}", settings.name_prefix)
}

/// Selects the Jobs of a run.
pub(super) fn run_selector(settings: &KubernetesTrainerSettings, run: RunId) -> String {
    format!("{},{RUN}={run}", own_selector(settings))
}

fn labels(settings: &KubernetesTrainerSettings, worker: &Worker) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("app.kubernetes.io/name", "delayd-training".to_owned()),
        (MANAGED_BY, "delayd".to_owned()),
        (INSTANCE, settings.name_prefix.clone()),
        (RUN, worker.run.to_string()),
        (JOB, job_name(settings, worker)),
    ])
}

pub(super) fn job(settings: &KubernetesTrainerSettings, worker: &Worker) -> Result<Job, PortError> {
    let document = worker.work.document_key();
    build(settings, &job_name(settings, worker), labels(settings, worker), &document, worker.trace)
}

/// A Job that is never run: by it the API server tells whether it would take one.
pub(super) fn probe_job(settings: &KubernetesTrainerSettings) -> Result<Job, PortError> {
    build(settings, &format!("{}-probe", settings.name_prefix), BTreeMap::new(), "none", None)
}

fn build(
    settings: &KubernetesTrainerSettings,
    name: &str,
    labels: BTreeMap<&'static str, String>,
    document: &str,
    trace: Option<TraceId>,
) -> Result<Job, PortError> {
    let work = json!({ WORK: document });
    let manifest = json!({
        "metadata": { "name": name, "labels": labels, "annotations": work },
        "spec": {
            "backoffLimit": settings.retries,
            "activeDeadlineSeconds": settings.deadline_secs,
            "ttlSecondsAfterFinished": settings.ttl_secs,
            "template": { "metadata": { "labels": labels, "annotations": work }, "spec": pod(settings, document, trace) },
        },
    });
    let built = serde_json::from_value(without_nulls(manifest));
    built.map_err(|error| PortError::new(ErrorKind::Internal, format!("building Job {name}"), error.to_string()))
}

fn pod(settings: &KubernetesTrainerSettings, document: &str, trace: Option<TraceId>) -> Value {
    let named = |names: &[String]| names.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>();
    let tolerations: Vec<Value> = settings
        .tolerations
        .iter()
        .map(|taint| {
            json!({ "key": text(&taint.key), "operator": text(&taint.operator), "value": text(&taint.value),
                "effect": text(&taint.effect) })
        })
        .collect();
    json!({
        // Each attempt is a pod of its own, so that the last one's words can be read.
        "restartPolicy": "Never",
        "serviceAccountName": text(&settings.service_account),
        // A worker asks nothing of the API server.
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "priorityClassName": text(&settings.priority_class),
        "imagePullSecrets": list(named(&settings.image_pull_secrets)),
        "nodeSelector": map(&settings.node_selector),
        "tolerations": list(tolerations),
        "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
        "containers": [container(settings, document, trace)],
        "volumes": volumes(settings),
    })
}

fn container(settings: &KubernetesTrainerSettings, document: &str, trace: Option<TraceId>) -> Value {
    let mut arguments = vec!["--job".to_owned(), document.to_owned()];
    if !settings.config_map.is_empty() {
        arguments.extend(["--config".to_owned(), format!("{CONFIG_DIR}/{}", settings.config_key)]);
    }
    let traceparent = trace.map(|trace| (TRACEPARENT.to_owned(), trace.traceparent("train")));
    let variables = settings.env.clone().into_iter().chain(traceparent);
    let env: Vec<Value> = variables.map(|(name, value)| json!({ "name": name, "value": value })).collect();
    let env_from: Vec<Value> =
        settings.env_secrets.iter().map(|name| json!({ "secretRef": { "name": name } })).collect();
    let mut limits = json!({ "memory": settings.memory });
    if settings.gpus > 0 {
        limits[&settings.gpu_resource] = json!(settings.gpus.to_string());
    }
    json!({
        "name": "training",
        "image": settings.image,
        "command": [PROGRAM],
        "args": arguments,
        "env": list(env),
        "envFrom": list(env_from),
        // Without a CPU limit idle cores are used; without a memory limit a pod could
        // take the node's other pods with it.
        "resources": { "requests": { "cpu": settings.cpu, "memory": settings.memory }, "limits": limits },
        "volumeMounts": mounts(settings),
        // The last lines of the log come with the pod's state: no right to read logs is needed.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
    })
}

fn volumes(settings: &KubernetesTrainerSettings) -> Value {
    let mut volumes = vec![json!({ "name": "tmp", "emptyDir": { "sizeLimit": settings.scratch } })];
    if !settings.config_map.is_empty() {
        volumes.push(json!({ "name": "config", "configMap": { "name": settings.config_map } }));
    }
    if !settings.store_claim.is_empty() {
        volumes.push(json!({ "name": "store", "persistentVolumeClaim": { "claimName": settings.store_claim } }));
    } else if settings.has_store_volume() {
        volumes.push(json!({ "name": "store", "hostPath": { "path": settings.store_host_path, "type": "Directory" } }));
    }
    let secrets = settings.secret_mounts.keys().enumerate();
    volumes.extend(secrets.map(|(n, name)| json!({ "name": format!("secret-{n}"), "secret": { "secretName": name } })));
    Value::Array(volumes)
}

fn mounts(settings: &KubernetesTrainerSettings) -> Value {
    let mut mounts = vec![json!({ "name": "tmp", "mountPath": "/tmp" })];
    if !settings.config_map.is_empty() {
        mounts.push(json!({ "name": "config", "mountPath": CONFIG_DIR, "readOnly": true }));
    }
    if settings.has_store_volume() {
        mounts.push(json!({ "name": "store", "mountPath": settings.store_mount }));
    }
    let secrets = settings.secret_mounts.values().enumerate();
    mounts
        .extend(secrets.map(|(n, path)| json!({ "name": format!("secret-{n}"), "mountPath": path, "readOnly": true })));
    Value::Array(mounts)
}

fn text(value: &str) -> Option<&str> {
    Some(value).filter(|value| !value.is_empty())
}

fn list(values: Vec<Value>) -> Option<Vec<Value>> {
    Some(values).filter(|values| !values.is_empty())
}

fn map(values: &BTreeMap<String, String>) -> Option<&BTreeMap<String, String>> {
    Some(values).filter(|values| !values.is_empty())
}

/// Without the keys that are null.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key, without_nulls(value)))
                .collect(),
        ),
        Value::Array(values) => Value::Array(values.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::Toleration;
    use super::*;
    use delayd_training_job::documents::Work;

    fn worker() -> Worker {
        let work = Work::at_document("training-jobs/run_7/trial-2-round-0-0123456789ab/job.json").unwrap();
        Worker { run: RunId(7), part: "trial-2-round-0".to_owned(), work, trace: None }
    }

    fn settings() -> KubernetesTrainerSettings {
        KubernetesTrainerSettings { image: "registry/delayd@sha256:00".to_owned(), ..Default::default() }
    }

    #[test]
    fn a_plain_job_says_no_more_than_it_must() {
        let job = job(&settings(), &worker()).unwrap();
        insta::assert_json_snapshot!(serde_json::to_value(&job).unwrap());
    }

    #[test]
    fn everything_that_can_be_configured_reaches_the_pod() {
        let settings = KubernetesTrainerSettings {
            gpus: 2,
            image_pull_secrets: vec!["registry".to_owned()],
            service_account: "trainer".to_owned(),
            priority_class: "low".to_owned(),
            config_map: "delayd-config".to_owned(),
            env_secrets: vec!["s3".to_owned()],
            store_claim: "store".to_owned(),
            node_selector: BTreeMap::from([("accelerator".to_owned(), "h100".to_owned())]),
            env: BTreeMap::from([("LD_PRELOAD".to_owned(), "libtorch_cuda.so".to_owned())]),
            secret_mounts: BTreeMap::from([("s3-token".to_owned(), "/run/secrets/s3".into())]),
            tolerations: vec![Toleration {
                key: "nvidia.com/gpu".to_owned(),
                operator: "Exists".to_owned(),
                effect: "NoSchedule".to_owned(),
                ..Toleration::default()
            }],
            ..settings()
        };
        let job = job(&settings, &worker()).unwrap();
        insta::assert_json_snapshot!(serde_json::to_value(job.spec.unwrap().template.spec).unwrap());
    }

    #[test]
    fn the_pod_is_told_which_trace_its_log_belongs_to() {
        let trace = TraceId::of("cycle_1");
        let job = job(&settings(), &Worker { trace: Some(trace), ..worker() }).unwrap();
        let env = job.spec.unwrap().template.spec.unwrap().containers.remove(0).env.unwrap();
        assert_eq!((env[0].name.as_str(), env[0].value.clone()), ("TRACEPARENT", Some(trace.traceparent("train"))));
        assert_eq!(TraceId::of_traceparent(&env[0].value.clone().unwrap()), Some(trace));
    }

    #[test]
    fn names_and_labels_are_what_kubernetes_allows() {
        let settings = KubernetesTrainerSettings { name_prefix: "a".repeat(20), ..settings() };
        let worker = Worker { run: RunId(u64::from(u32::MAX)), part: "trial-1000-round-10".to_owned(), ..worker() };
        let name = job_name(&settings, &worker);
        // Pods get a suffix of six characters; a label's value has at most 63.
        assert!(name.len() + 6 <= 63, "{name}");
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{name}");
    }
}
