//! The outside world behind the ports: `local` needs nothing but this machine,
//! `cloud` talks to what production has, `wrap` adds behaviour to any adapter, and
//! `open` makes what the configuration names. Nothing here decides; the stages do.

mod channels;
pub mod cloud;
pub mod local;
pub mod open;
pub mod worker_trainer;
pub mod wrap;

pub use channels::Channels;
