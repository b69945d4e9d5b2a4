//! `[trainer.kubernetes]`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cloud::kubernetes::is_quantity;

/// A taint that training's pods put up with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Toleration {
    /// The taint's key; every taint when empty.
    pub key: String,
    /// `Equal` or `Exists`; `Equal` when empty.
    pub operator: String,
    /// The taint's value.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`; all when empty.
    pub effect: String,
}

/// How training runs as Jobs of a Kubernetes cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KubernetesTrainerSettings {
    /// Namespace of the Jobs; that of `[cluster.kubernetes]` when empty.
    pub namespace: String,
    /// Beginning of the Jobs' names; another one for each daemon of a namespace.
    pub name_prefix: String,
    /// The daemon's own image, by digest: `registry/delayd@sha256:…`.
    pub image: String,
    /// Secrets by which nodes pull the image.
    pub image_pull_secrets: Vec<String>,
    /// Service account of the pods: it needs no right in the cluster, at most one to
    /// the object store. The namespace's default when empty.
    pub service_account: String,
    /// Priority class of the pods; none when empty.
    pub priority_class: String,
    /// Trials of a search at a time.
    pub parallel_trials: usize,
    /// CPUs a pod asks for, as Kubernetes writes them: `2`, `500m`.
    pub cpu: String,
    /// Memory a pod asks for and may not exceed.
    pub memory: String,
    /// GPUs of a pod.
    pub gpus: u32,
    /// The name by which nodes offer GPUs.
    pub gpu_resource: String,
    /// Room for temporary files in a pod.
    pub scratch: String,
    /// Seconds after which a Job is ended, its attempts together.
    pub deadline_secs: u64,
    /// Seconds after which a pod that has not started is given up.
    pub start_deadline_secs: u64,
    /// Times a pod that failed is started again.
    pub retries: u32,
    /// Seconds after which Kubernetes removes an ended Job by itself (from 1.21 on).
    pub ttl_secs: u32,
    /// Seconds between looks at the Jobs.
    pub poll_secs: u64,
    /// Config map with the daemon's configuration; the defaults and `env` when empty.
    pub config_map: String,
    /// Key of the configuration in it.
    pub config_key: String,
    /// Secrets whose keys become environment variables.
    pub env_secrets: Vec<String>,
    /// Volume claim that holds a folder store; none when empty.
    pub store_claim: String,
    /// Folder of the node that holds a folder store, where one node is the cluster; none when empty.
    pub store_host_path: PathBuf,
    /// Where that volume is mounted.
    pub store_mount: PathBuf,
    /// Labels a node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Environment variables, none of them secret.
    pub env: BTreeMap<String, String>,
    /// Secrets mounted as folders: name and path.
    pub secret_mounts: BTreeMap<String, PathBuf>,
    /// Taints that pods put up with.
    pub tolerations: Vec<Toleration>,
}

impl Default for KubernetesTrainerSettings {
    fn default() -> Self {
        Self {
            namespace: String::new(),
            name_prefix: "delayd".to_owned(),
            image: String::new(),
            image_pull_secrets: Vec::new(),
            service_account: String::new(),
            priority_class: String::new(),
            parallel_trials: 4,
            cpu: "2".to_owned(),
            memory: "4Gi".to_owned(),
            gpus: 0,
            gpu_resource: "nvidia.com/gpu".to_owned(),
            scratch: "2Gi".to_owned(),
            deadline_secs: 6 * 3600,
            start_deadline_secs: 900,
            retries: 2,
            ttl_secs: 86_400,
            poll_secs: 2,
            config_map: String::new(),
            config_key: "delayd.toml".to_owned(),
            env_secrets: Vec::new(),
            store_claim: String::new(),
            store_host_path: PathBuf::new(),
            store_mount: PathBuf::from("/var/lib/delayd/store"),
            node_selector: BTreeMap::new(),
            env: BTreeMap::new(),
            secret_mounts: BTreeMap::new(),
            tolerations: Vec::new(),
        }
    }
}

/// Longest name prefix: a Job's name has at most 63 characters, and its pods' names
/// a few more than the Job's.
const LONGEST_PREFIX: usize = 20;

impl KubernetesTrainerSettings {
    /// Every value that cannot be: key, what was found, what was expected.
    #[must_use]
    pub fn faults(&self) -> Vec<(&'static str, String, &'static str)> {
        let shown = |text: &str| if text.is_empty() { "empty".to_owned() } else { format!("`{text}`") };
        let name = "lower-case letters, digits and hyphens";
        let quantity = "a quantity such as 500m, 2 or 4Gi";
        let paths = self.secret_mounts.values().chain([&self.store_mount]);
        let relative = paths.clone().find(|path| !path.is_absolute());
        let effects = ["", "NoSchedule", "PreferNoSchedule", "NoExecute"];
        let strange = self.tolerations.iter().find(|toleration| {
            !effects.contains(&toleration.effect.as_str())
                || !["", "Equal", "Exists"].contains(&toleration.operator.as_str())
        });
        let checks = [
            (self.namespace.is_empty() || is_name(&self.namespace), "namespace", shown(&self.namespace), name),
            (
                is_name(&self.name_prefix) && self.name_prefix.len() <= LONGEST_PREFIX,
                "name_prefix",
                shown(&self.name_prefix),
                "lower-case letters, digits and hyphens, at most 20 of them",
            ),
            (
                self.image.contains("@sha256:"),
                "image",
                shown(&self.image),
                "the daemon's own image by digest, registry/delayd@sha256:…",
            ),
            (is_quantity(&self.cpu), "cpu", shown(&self.cpu), quantity),
            (is_quantity(&self.memory), "memory", shown(&self.memory), quantity),
            (is_quantity(&self.scratch), "scratch", shown(&self.scratch), quantity),
            (
                self.gpus == 0 || self.gpu_resource.contains('/'),
                "gpu_resource",
                shown(&self.gpu_resource),
                "a resource such as nvidia.com/gpu",
            ),
            (
                (1..=100).contains(&self.parallel_trials),
                "parallel_trials",
                self.parallel_trials.to_string(),
                "1 to 100",
            ),
            (self.deadline_secs > 0, "deadline_secs", "0".to_owned(), "1 second or more"),
            (self.start_deadline_secs > 0, "start_deadline_secs", "0".to_owned(), "1 second or more"),
            (self.poll_secs > 0, "poll_secs", "0".to_owned(), "1 second or more"),
            (self.retries <= 20, "retries", self.retries.to_string(), "0 to 20"),
            (
                self.store_claim.is_empty() || self.store_host_path.as_os_str().is_empty(),
                "store_host_path",
                shown(&self.store_host_path.display().to_string()),
                "empty where store_claim names a volume",
            ),
            (
                relative.is_none(),
                "store_mount or secret_mounts",
                relative.map_or_else(String::new, |path| shown(&path.display().to_string())),
                "absolute paths",
            ),
            (
                strange.is_none(),
                "tolerations",
                strange.map_or_else(String::new, |toleration| format!("{toleration:?}")),
                "operator Equal or Exists, effect NoSchedule, PreferNoSchedule or NoExecute",
            ),
        ];
        checks
            .into_iter()
            .filter(|(holds, ..)| !holds)
            .map(|(_, key, found, expected)| (key, found, expected))
            .collect()
    }

    /// Whether pods have a volume on which a folder store can lie.
    #[must_use]
    pub fn has_store_volume(&self) -> bool {
        !self.store_claim.is_empty() || !self.store_host_path.as_os_str().is_empty()
    }
}

/// A label of RFC 1123, as Kubernetes wants names of namespaces.
fn is_name(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&text.len()) && text.chars().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_lack_nothing_but_the_image() {
        let faults = KubernetesTrainerSettings::default().faults();
        assert_eq!(faults.iter().map(|(key, ..)| *key).collect::<Vec<_>>(), ["image"]);
    }

    #[test]
    fn every_value_that_cannot_be_is_told_under_its_key() {
        let wrong = KubernetesTrainerSettings {
            namespace: "Delayd".to_owned(),
            image: "delayd:latest".to_owned(),
            cpu: "two".to_owned(),
            memory: "4GB".to_owned(),
            gpus: 1,
            gpu_resource: "gpu".to_owned(),
            parallel_trials: 0,
            store_claim: "claim".to_owned(),
            store_host_path: PathBuf::from("/srv/delayd"),
            store_mount: PathBuf::from("store"),
            tolerations: vec![Toleration { effect: "Never".to_owned(), ..Toleration::default() }],
            ..KubernetesTrainerSettings::default()
        };
        let keys: Vec<&str> = wrong.faults().into_iter().map(|(key, ..)| key).collect();
        let expected = [
            "namespace",
            "image",
            "cpu",
            "memory",
            "gpu_resource",
            "parallel_trials",
            "store_host_path",
            "store_mount or secret_mounts",
            "tolerations",
        ];
        assert_eq!(keys, expected);
    }
}
