//! Tells people. An alert is put into the ledger's outbox where the event is
//! recorded, in the same transaction; here it is taken from there, routed to the
//! channels it concerns, and delivered to each of their addressees on its own,
//! again and again until it succeeds or is given up.
//!
//! What it does not do: it does not decide what is worth an alert, and it knows
//! no channel: those are adapters of [`delayd_core::ports::Notifier`].

pub mod group;
pub mod messages;
mod outbox;
mod policy;
pub mod quiet;
pub mod route;
mod settings;
mod stage;

pub use outbox::{DeliveryReport, Outbox};
pub use policy::{AfterFailure, DeliveryPolicy, Failure, after_failure};
pub use settings::NotificationSettings;
pub use stage::NotifierStage;
