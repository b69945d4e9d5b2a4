//! The verification stage: asks a fresh release what held-out rows score, and has the answers judged.

pub mod messages;
mod stage;

pub use stage::{VerificationActor, VerificationStage};
