//! Registration: a trained bundle becomes `model_vN`.
//!
//! Bundles are immutable and named by digest: they move from the run's folder
//! into the bundle store in one rename, are read back and verified, and are
//! copied into the object store. Aliases (`candidate`, `live`, `previous`) are
//! rows in the ledger and move atomically.

mod actor;
mod bundle_store;
pub mod messages;
mod stage;
mod transfer;

pub use actor::RegistryActor;
pub use bundle_store::{BundleStore, BundleStoreError};
pub use stage::RegistryStage;
pub use transfer::{bundle_prefix, download_bundle, upload_bundle};
