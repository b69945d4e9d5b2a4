//! The outside world behind the ports: `local` needs nothing but this machine,
//! `cloud` talks to what production has, `wrap` adds behaviour to any adapter.
//! Nothing here decides, and nothing here knows the configuration as a whole: the daemon opens what it names.

pub mod bundles;
mod channels;
pub mod cloud;
pub mod local;
pub mod object_store;
pub mod packaging;
pub mod service;
pub mod templates;
pub mod worker_trainer;
pub mod wrap;

pub use channels::Channels;
