//! The tests that need a Kubernetes and a registry; without them each says loudly that it was skipped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "modules of one binary")]

mod cluster_kubernetes;
mod daemon_as_pod;
mod loop_on_kubernetes;
mod trainer_kubernetes;
