//! The production adapters: S3, HTTP weather, image registries, Kubernetes, Slack
//! and mail. No type of an SDK leaves this folder.

pub mod kubernetes;
pub mod kubernetes_trainer;
