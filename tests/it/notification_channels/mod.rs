//! Slack, mail and webhook against what they talk to in earnest: a real mail
//! server, started by each test for itself, and a receiver that answers as Slack's
//! webhook does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "helpers are shared by inclusion")]

mod exim;
mod mail;
mod mailbox;
mod outbox;
mod secrets;
mod slack;
mod support;
mod webhook;
