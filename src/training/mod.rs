//! The training stage: has a challenger trained, and compares it with the live model.

pub mod messages;
mod stage;

pub use stage::{RunningRuns, TrainingActor, TrainingStage};
