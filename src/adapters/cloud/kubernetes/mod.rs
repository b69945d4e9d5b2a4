//! Kubernetes.

pub(in crate::adapters::cloud) mod client;
mod errors;
mod settings;

pub use settings::{Access, KubernetesSettings, ServiceObject};
