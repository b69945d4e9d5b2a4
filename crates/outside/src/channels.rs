//! Several channels as one notifier, each of which keeps to its own endpoints and none of which knows of the others; and
//! the simplest of them, the log, for a daemon that has nobody else to alert.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;

use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::ports::{Alert, ChannelKind, Endpoint, Notice, Notifier, Severity, Undelivered};

/// The channels that are switched on.
#[derive(Debug, Default, Clone)]
pub struct Channels(BTreeMap<ChannelKind, Arc<dyn Notifier>>);

impl Channels {
    /// These channels as one.
    #[must_use]
    pub fn new(channels: impl IntoIterator<Item = (ChannelKind, Arc<dyn Notifier>)>) -> Self {
        Self(channels.into_iter().collect())
    }
}

#[async_trait]
impl Notifier for Channels {
    fn endpoints(&self) -> Vec<Endpoint> {
        self.0.values().flat_map(|channel| channel.endpoints()).collect()
    }

    async fn deliver(&self, endpoint: &Endpoint, notice: &Notice) -> Result<(), Undelivered> {
        match self.0.get(&endpoint.channel) {
            Some(channel) => channel.deliver(endpoint, notice).await,
            None => {
                let message = "this channel is not switched on (notification.channels)";
                Err(PortError::new(ErrorKind::NotFound, format!("notifying {endpoint}"), message).into())
            }
        }
    }

    async fn probe(&self) -> Result<String, PortError> {
        let asked = self.0.iter().map(|(kind, channel)| async move { (*kind, channel.probe().await) });
        let mut lines = Vec::new();
        let mut worst = None;
        for (kind, answer) in join_all(asked).await {
            match answer {
                Ok(line) => lines.push(format!("{kind}: {line}")),
                Err(error) => {
                    lines.push(format!("{kind}: FAILED, {}", chain(&error)));
                    worst.get_or_insert(error.kind());
                }
            }
        }
        match worst {
            None => Ok(lines.join("\n")),
            Some(kind) => Err(PortError::new(kind, "asking every channel", lines.join("\n"))),
        }
    }
}

/// One log event per alert, at the level of its severity.
#[derive(Debug, Default, Clone, Copy)]
pub struct LogNotifier;

fn tell(alert: &Alert) {
    macro_rules! tell {
        ($level:ident) => {
            tracing::$level!(
                alert.id = %alert.id,
                alert.at = %alert.at.to_rfc3339(),
                alert.severity = %alert.severity,
                alert.dedup_key = %alert.dedup_key,
                alert.body = %alert.body,
                "{}", alert.title
            )
        };
    }
    match alert.severity {
        Severity::Info => tell!(info),
        Severity::Warning => tell!(warn),
        Severity::Critical => tell!(error),
    }
}

#[async_trait]
impl Notifier for LogNotifier {
    fn endpoints(&self) -> Vec<Endpoint> {
        vec![Endpoint::of(ChannelKind::Log)]
    }

    async fn deliver(&self, _: &Endpoint, notice: &Notice) -> Result<(), Undelivered> {
        notice.alerts.iter().for_each(tell);
        Ok(())
    }

    async fn probe(&self) -> Result<String, PortError> {
        Ok("alerts go to the log".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Away(&'static str);

    #[async_trait]
    impl Notifier for Away {
        fn endpoints(&self) -> Vec<Endpoint> {
            vec![Endpoint::of(ChannelKind::Slack)]
        }
        async fn deliver(&self, _: &Endpoint, _: &Notice) -> Result<(), Undelivered> {
            Ok(())
        }
        async fn probe(&self) -> Result<String, PortError> {
            Err(PortError::new(ErrorKind::Unavailable, "asking", self.0))
        }
    }

    #[tokio::test]
    async fn a_probe_asks_every_channel_and_lists_each_failure() {
        let channels = Channels::new([
            (ChannelKind::Log, Arc::new(LogNotifier) as Arc<dyn Notifier>),
            (ChannelKind::Slack, Arc::new(Away("first"))),
            (ChannelKind::Webhook, Arc::new(Away("second"))),
        ]);
        let error = channels.probe().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let text = error.to_string();
        for part in ["log: alerts go to the log", "slack: FAILED, asking: first", "webhook: FAILED, asking: second"] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }
}

#[cfg(test)]
mod log_notifier_tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;
    use delayd_core::ids::AlertId;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_critical_alert_is_one_error_event_with_its_fields() {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let guard = tracing::subscriber::set_default(subscriber);
        let alert = Alert {
            id: AlertId(4),
            at: chrono::DateTime::UNIX_EPOCH,
            severity: Severity::Critical,
            dedup_key: "cycle_3/rollback".into(),
            title: "rollback failed".into(),
            body: "no replica is ready".into(),
        };
        LogNotifier.deliver(&Endpoint::of(ChannelKind::Log), &Notice::single(alert)).await.unwrap();
        drop(guard);
        let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        for part in ["ERROR", "rollback failed", "alert_4", "cycle_3/rollback", "no replica is ready"] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }
}
