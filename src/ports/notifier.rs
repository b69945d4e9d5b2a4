//! Who is told.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::PortError;
use crate::ids::AlertId;

/// How urgent an alert is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know: a new model is live.
    Info,
    /// Look at it in working hours: drift, a failed cycle that was undone.
    Warning,
    /// Look at it now: rollback failed, a step is stuck, no live model.
    Critical,
}

impl std::fmt::Display for Severity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        })
    }
}

/// One thing to tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// Its identity in the outbox.
    pub id: AlertId,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// How urgent.
    pub severity: Severity,
    /// One event tells one thing once: alerts with the same key are the same alert.
    pub dedup_key: String,
    /// One line.
    pub title: String,
    /// What happened, what it means, what to do.
    pub body: String,
}

/// Delivers alerts. The outbox in the ledger keeps them until it has succeeded.
#[async_trait]
pub trait Notifier: Send + Sync + std::fmt::Debug {
    /// Delivers one alert.
    async fn deliver(&self, alert: &Alert) -> Result<(), PortError>;
    /// Whether every channel can be reached and lets us in. Tells nobody anything;
    /// answers with one line about what is there.
    async fn probe(&self) -> Result<String, PortError>;
}
