//! What serves and what is said to be live are the same: through rollbacks, undos,
//! approvals, cancelled cycles and restored ledgers, cut off in the middle or not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod cancelling;
mod commands;
mod real_replicas;
mod rollback;
mod undoing;
mod unknown;
mod world;
