//! delayd keeps a flight-delay model alive: it ingests flights, trains DelayNet,
//! deploys and verifies it, watches it, and when the world drifts it does it all
//! again, alone. `docs/architecture.md` is the map.

pub mod adapters;
pub mod config;
pub mod data;
pub mod env;
pub mod error;
pub mod evaluation;
pub mod ids;
pub mod ledger;
pub mod monitoring;
pub mod packaging;
pub mod ports;
pub mod replay;
pub mod supervision;
pub mod training;
