//! Alerts and their recipients.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{ErrorKind, PortError};
use crate::ids::{AlertId, InvalidId};

/// How urgent an alert is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know: a new model is live.
    Info,
    /// Look at it in working hours: drift, a failed cycle that was undone.
    Warning,
    /// Look at it now: rollback failed, a step is stuck, no live model.
    Critical,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        })
    }
}

impl FromStr for Severity {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let all = [Self::Info, Self::Warning, Self::Critical];
        all.into_iter()
            .find(|severity| severity.to_string() == text)
            .ok_or_else(|| InvalidId { given: text.to_owned(), expected: "severity: info, warning or critical" })
    }
}

/// One thing to tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
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

impl Alert {
    /// What sort of event it reports: its key up to the first `/`.
    pub fn topic(&self) -> &str {
        topic_of(&self.dedup_key)
    }
}

/// What sort of event a deduplication key names: the part before the first `/`.
pub fn topic_of(dedup_key: &str) -> &str {
    dedup_key.split('/').next().unwrap_or(dedup_key)
}

/// A way of telling people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChannelKind {
    /// The daemon's log.
    Log,
    /// Slack's incoming webhook.
    Slack,
    /// Mail by SMTP.
    Mail,
    /// Any HTTP receiver of JSON.
    Webhook,
}

impl ChannelKind {
    /// Every one there is.
    pub const ALL: [Self; 4] = [Self::Log, Self::Slack, Self::Mail, Self::Webhook];

    /// Its name in the configuration, the ledger and the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Slack => "slack",
            Self::Mail => "mail",
            Self::Webhook => "webhook",
        }
    }
}

impl fmt::Display for ChannelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One addressee: a channel and, where it has several, which one. Each is
/// delivered to on its own, so that a full mailbox costs the others nothing.
/// Written `slack` or `mail:ops@example.org`. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    pub channel: ChannelKind,
    /// Which addressee of it; empty where it has but one.
    pub address: String,
}

impl Endpoint {
    /// The one addressee of a channel.
    pub fn of(channel: ChannelKind) -> Self {
        Self { channel, address: String::new() }
    }

    /// One of several addressees of a channel.
    pub fn at(channel: ChannelKind, address: impl Into<String>) -> Self {
        Self { channel, address: address.into() }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.address.is_empty() {
            write!(f, "{}", self.channel)
        } else {
            write!(f, "{}:{}", self.channel, self.address)
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no channel; there are log, slack, mail:<address> and webhook")]
pub struct UnknownChannel(pub String);

impl FromStr for Endpoint {
    type Err = UnknownChannel;
    fn from_str(text: &str) -> Result<Self, UnknownChannel> {
        let (name, address) = text.split_once(':').unwrap_or((text, ""));
        let channel = ChannelKind::ALL.into_iter().find(|channel| channel.name() == name);
        channel.map(|channel| Self::at(channel, address)).ok_or_else(|| UnknownChannel(text.to_owned()))
    }
}

impl Serialize for Endpoint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Why alerts are in one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeKind {
    /// There is but one.
    Single,
    /// They report the same sort of event and came close together.
    Group,
    /// They were held back, by quiet hours or by the channel's rate limit.
    Digest,
}

/// Alerts that are sent together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Why these alerts are in one message.
    pub kind: NoticeKind,
    /// The alerts, oldest first; at least one.
    pub alerts: Vec<Alert>,
}

impl Notice {
    pub fn single(alert: Alert) -> Self {
        Self { kind: NoticeKind::Single, alerts: vec![alert] }
    }

    pub fn severity(&self) -> Severity {
        self.alerts.iter().map(|alert| alert.severity).max().unwrap_or(Severity::Info)
    }

    /// When the newest of its alerts happened.
    pub fn at(&self) -> DateTime<Utc> {
        self.alerts.iter().map(|alert| alert.at).max().unwrap_or_default()
    }

    /// One line.
    pub fn headline(&self) -> String {
        let count = self.alerts.len();
        match (self.kind, self.alerts.as_slice()) {
            (_, [alert]) => alert.title.clone(),
            (NoticeKind::Digest, _) => format!("{count} alerts were held back"),
            (_, [first, ..]) => format!("{count} × {}: {}", first.topic(), first.title),
            (_, []) => String::new(),
        }
    }

    /// The same for the same alerts, also after a restart: by it a delivery that
    /// was repeated after a crash can be recognised.
    pub fn identity(&self) -> String {
        let mut hasher = Sha256::new();
        for alert in &self.alerts {
            hasher.update(format!("{}\n{}\n{}\n", alert.id, alert.at.timestamp_micros(), alert.dedup_key));
        }
        hex::encode(&hasher.finalize()[..16])
    }
}

/// Why a notice did not arrive.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Undelivered {
    #[source]
    error: PortError,
    retry_after: Option<Duration>,
    channel_away: bool,
}

impl Undelivered {
    pub fn kind(&self) -> ErrorKind {
        self.error.kind()
    }

    pub fn into_error(self) -> PortError {
        self.error
    }

    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    pub fn is_channel_away(&self) -> bool {
        self.channel_away
    }

    pub fn after(mut self, retry_after: Option<Duration>) -> Self {
        self.retry_after = retry_after;
        self
    }

    pub fn with_channel_away(mut self, away: bool) -> Self {
        self.channel_away = away;
        self
    }
}

impl From<PortError> for Undelivered {
    fn from(error: PortError) -> Self {
        let channel_away = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout);
        Self { error, retry_after: None, channel_away }
    }
}

/// Delivers notices. The outbox in the ledger keeps them until it has succeeded,
/// tries again, and decides who gets which alert and when.
///
/// Contract: `Ok` means that the other side has taken the notice over; any error
/// means that it may not have, and the notice will come again with the same
/// [`Notice::identity`]. An adapter never tries again by itself.
#[async_trait]
pub trait Notifier: Send + Sync + fmt::Debug {
    /// Every recipient it can reach.
    fn endpoints(&self) -> Vec<Endpoint>;
    /// Delivers one notice to one of them.
    async fn deliver(&self, endpoint: &Endpoint, notice: &Notice) -> Result<(), Undelivered>;
    /// Whether every channel can be reached and lets us in. Sends nothing;
    /// answers with one line per channel. All are asked, also when one fails.
    async fn probe(&self) -> Result<String, PortError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(id: u64, key: &str) -> Alert {
        Alert {
            id: AlertId(id),
            at: DateTime::UNIX_EPOCH,
            severity: Severity::Warning,
            dedup_key: key.to_owned(),
            title: format!("title {id}"),
            body: String::new(),
        }
    }

    #[test]
    fn an_endpoint_reads_back_from_its_own_text() {
        for endpoint in [Endpoint::of(ChannelKind::Slack), Endpoint::at(ChannelKind::Mail, "ops@example.org")] {
            assert_eq!(endpoint.to_string().parse::<Endpoint>().unwrap(), endpoint);
        }
        let error = "pigeon:7".parse::<Endpoint>().unwrap_err().to_string();
        assert!(error.contains("pigeon:7") && error.contains("slack"), "{error}");
    }

    #[test]
    fn a_notice_is_known_by_its_alerts() {
        let one = Notice::single(alert(1, "drift/model_v1"));
        let two =
            Notice { kind: NoticeKind::Group, alerts: vec![alert(1, "drift/model_v1"), alert(2, "drift/model_v2")] };
        assert_eq!(one.identity(), Notice::single(alert(1, "drift/model_v1")).identity());
        assert_ne!(one.identity(), two.identity());
        assert_eq!((one.headline().as_str(), two.headline().as_str()), ("title 1", "2 × drift: title 1"));
    }
}
