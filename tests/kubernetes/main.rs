//! The tests that need a Kubernetes and a registry; without them each says loudly that it was skipped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "modules of one binary")]

mod api_server;
mod cluster;
mod daemon;
mod trainer;
