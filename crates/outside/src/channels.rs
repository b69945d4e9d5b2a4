//! Several channels as one notifier. Each keeps to its own endpoints; none knows
//! of the others.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;

use delayd_core::error::PortError;
use delayd_core::error::{ErrorKind, chain};
use delayd_core::ports::{ChannelKind, Endpoint, Notice, Notifier, Undelivered};

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
                Err(PortError::new(ErrorKind::NotFound, format!("telling {endpoint}"), message).into())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::LogNotifier;

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
