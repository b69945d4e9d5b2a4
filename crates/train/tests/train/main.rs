//! DelayNet's training as a library, and `delayd-train` as a program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test fails by panicking")]

mod examples;
mod program;
mod run;
