//! `[notification]`.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::policy::DeliveryPolicy;
use super::quiet::QuietHours;
use super::route::Route;
use delayd_core::fault::Fault;
use delayd_core::ports::ChannelKind;
use delayd_outside::cloud::{MailSettings, SlackSettings, WebhookSettings};

/// `[notification]`: who is told of alerts, when, and how patiently.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NotificationSettings {
    /// The channels that are switched on.
    pub channels: Vec<ChannelKind>,
    /// Refused attempts before an alert is given up at an addressee.
    pub attempts: u32,
    /// Seconds for which a channel that is away is tried before its alerts are given up.
    pub outage_patience_secs: u64,
    /// Seconds between looks at the outbox.
    pub interval_secs: u64,
    /// Seconds in which alerts of one topic go out together, after the first; 0 tells each look's at once.
    pub group_window_secs: u64,
    /// Address of the daemon's page, for links in messages; no links when empty.
    pub public_url: String,
    /// Folder of templates that replace the built-in ones by name; none when empty.
    pub templates_dir: PathBuf,
    /// Which alerts go where; the first that fits. Without any, all go everywhere.
    pub routes: Vec<Route>,
    /// When only critical alerts are told.
    pub quiet_hours: QuietHours,
    /// Slack.
    pub slack: SlackSettings,
    /// Mail.
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
    /// Whether a channel is switched on.
    #[must_use]
    pub fn has(&self, channel: ChannelKind) -> bool {
        self.channels.contains(&channel)
    }

    /// Everything that cannot be; of the channels that are switched on only.
    #[must_use]
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
    ///
    /// # Errors
    /// Every fault of the quiet hours.
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
