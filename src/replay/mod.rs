//! Replay: a recorded year goes through the live loop.
//!
//! The replay's clock steps hour by hour; [`World`] tells the loop what became
//! known, [`ServiceClient`] asks the live service about real flights over HTTP, and
//! the same daemon that runs in production does all the rest. [`report`] says in
//! the end what the loop was worth.

mod client;
mod driver;
mod gather;
pub mod report;
mod source;
mod span;
mod state;
mod world;

pub use client::{Answer, AskError, ServiceClient};
pub use driver::{ReplayDisplay, ReplayError, ReplayOptions, replay};
pub use source::{Source, SourceError};
pub use span::ReplaySpan;
pub use state::keep_for_a_daemon;
pub use world::{World, known_at, local_midnight};
