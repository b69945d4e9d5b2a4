//! The production adapters: S3, HTTP weather, image registries, Kubernetes, Slack
//! and mail. No type of an SDK leaves this folder.

mod aws;
pub mod ecr;
pub mod registry;
