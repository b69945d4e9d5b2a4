//! What serves and what is said to be live are the same: through rollbacks, undos,
//! approvals, cancelled cycles and restored ledgers, cut off in the middle or not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod contracts;

#[path = "live_and_served/cancelling.rs"]
mod cancelling;
#[path = "live_and_served/commands.rs"]
mod commands;
#[path = "live_and_served/real_replicas.rs"]
mod real_replicas;
#[path = "live_and_served/rollback.rs"]
mod rollback;
#[path = "live_and_served/undoing.rs"]
mod undoing;
#[path = "live_and_served/unknown.rs"]
mod unknown;
#[path = "live_and_served/world.rs"]
mod world;
