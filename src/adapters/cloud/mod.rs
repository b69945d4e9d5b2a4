//! The production adapters: S3, HTTP weather, image registries, Kubernetes, Slack
//! and mail. No type of an SDK leaves this folder.

mod docker_engine;

pub use docker_engine::{DockerEngine, DockerEngineSettings};
