//! What the loop does next, and what a cycle is: the decision and the governor
//! are pure; the actor beside them reads the ledger, asks them, and acts.

pub mod decide;
pub mod governor;
pub mod training_policy;
