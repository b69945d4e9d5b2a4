//! What the loop does next, and what a cycle is: the decision and the governor
//! are pure; the actor beside them reads the ledger, asks them, and acts.

mod actor;
mod commands;
pub mod cycle;
pub mod messages;
mod restored;
mod snapshot;
mod stage;

pub(crate) use snapshot::past_cycle;
pub use snapshot::paused;
pub use stage::CoordinatorStage;
