//! The data stage: takes in new flight logs, keeps reference data up to date, makes datasets.

pub mod dataset;
pub mod ingest;
mod reference_library;

pub use ingest::{DataActor, DataStage};
pub use reference_library::{ReferenceDocuments, ReferenceLibrary};
