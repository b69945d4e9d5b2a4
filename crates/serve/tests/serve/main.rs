//! What a caller, the daemon and the system see of a replica.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "modules of one binary")]

mod http;
mod process;
mod slow_clients;
mod support;
