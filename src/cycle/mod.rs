//! The loop's cycle: from new data to a model that is live, or back to where it began.
//!
//! | file | |
//! | --- | --- |
//! | `steps` | the steps in one table: position, name, action, undo; and how a cycle runs through it |
//! | `saga` | the journal: done steps are not repeated, failing ones are retried, then undone |
//! | `coordinator` | weighs whether to start a cycle, drives it, resumes it, finishes rollbacks |
//! | `commands` | what operators ask for |
//! | `allowed` | which commands can be given now, and why the others cannot |
//! | `snapshot` | what a decision is based on, read from the ledger |
//! | `restored` | checks a release that serves again |
//!
//! What to decide is `delayd_judge::decide`'s, a pure function; what a step does is its stage's.

pub mod allowed;
pub mod commands;
pub mod coordinator;
mod restored;
pub mod saga;
pub mod snapshot;
pub mod steps;
