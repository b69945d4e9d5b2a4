//! The data stage: takes in new flight logs, keeps reference data up to date, freezes datasets.

mod looked;
pub mod messages;
mod reference_library;
mod stage;

pub use reference_library::{ReferenceDocuments, ReferenceLibrary};
pub use stage::{DataActor, DataStage};
