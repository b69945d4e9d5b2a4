//! Notifies people. An alert is put into the ledger's outbox where the event is
//! recorded, in the same transaction; here it is taken from there, routed to the
//! channels it concerns, and delivered to each of their recipients on its own,
//! retried until it succeeds or is given up.
//!
//! What it does not do: it does not decide what is worth an alert, and it knows
//! no channel: those are adapters of [`delayd_core::ports::Notifier`].

mod group;
mod outbox;
mod policy;
pub mod quiet;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use outbox::{DeliveryReport, Outbox};
pub use policy::{DeliveryPolicy, Route};

use crate::env::Env;
use crate::supervision::Request;
use delayd_core::failure::StepFailure;
use delayd_core::fault::Fault;
use delayd_core::ports::ChannelKind;
use delayd_outside::cloud::{MailSettings, SlackSettings, WebhookSettings};
use quiet::QuietHours;

/// What notifying needs.
#[derive(Clone)]
pub struct NotifierStage {
    env: Env,
    outbox: Arc<Outbox>,
}

impl NotifierStage {
    /// A notifier over the ledger's outbox; fails with every fault of the quiet hours.
    pub fn new(env: Env, settings: &NotificationSettings) -> Result<Self, Vec<Fault>> {
        let outbox = Outbox::new(env.ledger.clone(), settings.delivery_policy()?);
        Ok(Self { env, outbox: Arc::new(outbox) })
    }
}

/// Delivers the alerts that are due.
#[derive(Debug, Clone)]
pub struct DeliverAlerts;

impl Request for DeliverAlerts {
    type Stage = NotifierStage;
    type Answer = ();

    async fn run(self, stage: &NotifierStage) -> Result<(), StepFailure> {
        let report = stage.outbox.deliver_due(stage.env.notifier.as_ref(), stage.env.now()).await?;
        if report.failed + report.given_up > 0 {
            tracing::warn!(
                messages.failed = report.failed,
                messages.given_up = report.given_up,
                channels.unavailable = report.channels_unavailable,
                "alerts could not be delivered"
            );
        }
        Ok(())
    }
}

/// `[notification]`: who gets alerts, when, and how patiently.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NotificationSettings {
    /// The channels that are enabled.
    pub channels: Vec<ChannelKind>,
    /// Refused attempts before an alert is given up at a recipient.
    pub attempts: u32,
    /// Seconds for which an unavailable channel is retried before its alerts are given up.
    pub outage_patience_secs: u64,
    /// Seconds between checks of the outbox.
    pub interval_secs: u64,
    /// Seconds in which alerts of one topic go out together, after the first; 0 sends those of each check at once.
    pub group_window_secs: u64,
    /// Address of the daemon's page, for links in messages; no links when empty.
    pub public_url: String,
    /// Folder of templates that replace the built-in ones by name; none when empty.
    pub templates_dir: PathBuf,
    /// Which alerts go where; the first that matches. Without any, all go everywhere.
    pub routes: Vec<Route>,
    /// When only critical alerts are sent.
    pub quiet_hours: QuietHours,
    pub slack: SlackSettings,
    pub mail: MailSettings,
    /// Any HTTP receiver.
    pub webhook: WebhookSettings,
}

impl Default for NotificationSettings {
    fn default() -> Self {
        Self {
            channels: vec![ChannelKind::Log],
            attempts: 10,
            outage_patience_secs: 86_400,
            interval_secs: 15,
            group_window_secs: 300,
            public_url: String::new(),
            templates_dir: PathBuf::new(),
            routes: Vec::new(),
            quiet_hours: QuietHours::default(),
            slack: SlackSettings::default(),
            mail: MailSettings::default(),
            webhook: WebhookSettings::default(),
        }
    }
}

impl NotificationSettings {
    pub fn has(&self, channel: ChannelKind) -> bool {
        self.channels.contains(&channel)
    }

    /// Every invalid value; of the enabled channels only.
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut check = |holds: bool, key: &str, found: String, expected: &str| {
            if !holds {
                faults.push(Fault { key: format!("notification.{key}"), found, expected: expected.to_owned() });
            }
        };
        check(self.attempts >= 1, "attempts", self.attempts.to_string(), "1 or more");
        check(self.interval_secs >= 1, "interval_secs", self.interval_secs.to_string(), "1 second or more");
        check(
            self.group_window_secs <= 86_400,
            "group_window_secs",
            self.group_window_secs.to_string(),
            "0 to 86400 seconds",
        );
        check(!self.channels.is_empty(), "channels", "empty".to_owned(), "one channel or more, such as [\"log\"]");
        let url = &self.public_url;
        let web = url.is_empty() || url.starts_with("https://") || url.starts_with("http://");
        check(web, "public_url", format!("`{url}`"), "an address like https://delayd.example.org");
        for (number, route) in self.routes.iter().enumerate() {
            faults.extend(route.faults(number, &self.channels));
        }
        faults.extend(self.quiet_hours.schedule().err().into_iter().flatten());
        for channel in &self.channels {
            faults.extend(match channel {
                ChannelKind::Log => Vec::new(),
                ChannelKind::Slack => self.slack.faults(),
                ChannelKind::Mail => self.mail.faults(),
                ChannelKind::Webhook => self.webhook.faults(),
            });
        }
        faults
    }

    /// How the outbox delivers.
    pub fn delivery_policy(&self) -> Result<DeliveryPolicy, Vec<Fault>> {
        let limits = [
            (ChannelKind::Slack, self.slack.messages_per_minute),
            (ChannelKind::Mail, self.mail.messages_per_minute),
            (ChannelKind::Webhook, self.webhook.messages_per_minute),
        ];
        Ok(DeliveryPolicy {
            max_refusals: self.attempts,
            outage_patience: Duration::from_secs(self.outage_patience_secs),
            group_window: Duration::from_secs(self.group_window_secs),
            routes: self.routes.clone(),
            quiet: self.quiet_hours.schedule()?,
            messages_per_minute: limits.into_iter().collect(),
            ..DeliveryPolicy::default()
        })
    }
}
