//! The production adapters: S3, HTTP weather, image registries, Kubernetes, Slack
//! and mail. No type of an SDK leaves this folder.

mod kubernetes_trainer;

pub use kubernetes_trainer::{KubernetesTrainerSettings, Toleration};
