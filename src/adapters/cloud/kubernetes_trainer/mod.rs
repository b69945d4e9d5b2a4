//! Trains in Jobs.

mod manifest;
mod settings;
mod state;

pub use settings::{KubernetesTrainerSettings, Toleration};
