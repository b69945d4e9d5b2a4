//! Registration: a trained bundle becomes `model_vN`.
//!
//! Bundles are immutable and named by digest: they move from the run's folder
//! into the bundle store in one rename, are read back and verified, and are
//! copied into the object store. Aliases (`candidate`, `live`, `previous`) are
//! rows in the ledger and move atomically.

pub mod messages;
mod stage;

pub use stage::{RegistryActor, RegistryStage};
