//! Judgement: what a model is worth, whether a challenger is better, whether the world has changed, whether a release is
//! good. Documents in, verdicts out, all of them serialisable, so that a verdict can be explained later from what was stored.
//!
//! Nothing here reads a clock, the ledger or a replica, and nothing acts on a verdict: that is the daemon's.

pub mod decide;
pub mod evaluation;
pub mod governor;
pub mod monitoring;
pub mod stats;
pub mod verification;
