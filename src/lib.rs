//! delayd keeps a flight-delay model alive: it ingests flights, trains DelayNet,
//! deploys and verifies it, watches it, and when the world drifts it does it all
//! again, alone. `docs/architecture.md` is the map.

// The library is only there for the tests beside the binary; what is in it is not an interface.
#![allow(missing_docs)]

pub mod cli;
pub mod config;
pub mod cycle;
pub mod daemon;
pub mod env;
pub mod http;
pub mod notify;
pub mod open;
pub mod replay;
mod service_manager;
pub mod stages;
pub mod status;
pub mod supervision;
pub mod telemetry;
#[cfg(test)]
mod testing;
