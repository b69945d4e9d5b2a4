//! Alerts: what is to be told (`outbox`), to whom and how that went (`deliveries`), and what is held back (`silences`).

pub(crate) mod deliveries;
pub(crate) mod outbox;
pub(crate) mod silences;
