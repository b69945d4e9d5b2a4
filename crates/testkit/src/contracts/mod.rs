//! What every adapter of a port must do, as functions over the port: an adapter's
//! test makes one and calls them. Each test file uses its own part.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, missing_docs, unreachable_pub)]

pub mod cluster;
pub mod daemon_image;
pub mod flaky_proxy;
pub mod image_builder;
pub mod image_registry;
pub mod layouts;
pub mod object_store;
pub mod surroundings;
pub mod trainer;
pub mod training_world;
pub mod weather;
