//! Tells people. An alert is put into the ledger's outbox where the event is
//! recorded, in the same transaction; here it is taken from there and delivered,
//! again and again until it succeeds or is given up.
//!
//! What it does not do: it does not decide what is worth an alert, and it knows
//! no channel: those are adapters of [`crate::ports::Notifier`].

mod actor;
pub mod messages;
mod outbox;
mod stage;

pub use actor::NotifierActor;

pub use outbox::{AfterFailure, DeliveryPolicy, DeliveryReport, Outbox, after_failure};
pub use stage::NotifierStage;
