//! What tests need: worlds of flights, servers that stand for outside systems, scripted replicas, and the contract suites
//! that every adapter is held to. Nothing ships with it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    reason = "a test fails by panicking"
)]
#![allow(clippy::missing_panics_doc, clippy::must_use_candidate)]

pub mod ci;
pub mod cluster;
pub mod contracts;
pub mod cycle_world;
pub mod data_support;
pub mod programs;
pub mod receiver;
pub mod records;
pub mod registry_servers;
pub mod s3_server;
pub mod site;
pub mod tools;
