//! Replay: a recorded year goes through the live loop.
//!
//! The replay's clock steps hour by hour; `world` publishes what became
//! known and asks the live service about real flights over HTTP, and
//! the same daemon that runs in production does all the rest. [`report`] shows in
//! the end what the loop was worth.

mod driver;
mod gather;
pub mod report;
mod state;
mod world;

pub use driver::{ReplayDisplay, ReplayError, ReplayOptions, replay};
pub use state::{ReplaySpan, keep_for_a_daemon};
