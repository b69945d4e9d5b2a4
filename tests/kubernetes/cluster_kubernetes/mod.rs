//! The Kubernetes adapter against a real cluster: the contract of its port, with
//! the rights that are shipped, and everything that may go wrong. `make test-cluster`
//! runs these; without a cluster each says SKIPPED.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod api_server;
mod contract;
mod ownership;
mod recovery;
mod releases;

use delayd_core::error::{ErrorKind, PortError, chain};

/// An error of this kind whose text holds all these parts.
fn assert_tells(error: &PortError, kind: ErrorKind, parts: &[&str]) {
    let text = chain(error);
    assert_eq!(error.kind(), kind, "{text}");
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
}
