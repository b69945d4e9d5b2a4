//! Weather, airports and holidays from the outside: each port's adapter against a
//! real server, through every failure. Recorded weather is needed (`DELAYD_DATA`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![allow(unreachable_pub, reason = "helpers are shared by inclusion")]

mod caching;
mod contract;
mod document_server;
mod documents;
mod failures;
mod process;
mod secrets;
mod stage;
mod world;
