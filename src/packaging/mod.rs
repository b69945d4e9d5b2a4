//! The packaging stage: builds the service where that is configured, puts the model into an image, and pushes it.

pub mod export;
pub mod messages;
mod stage;

pub use stage::{PackagingActor, PackagingStage};
