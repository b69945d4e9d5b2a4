//! Who is told of an alert: by its severity and its key.

use serde::{Deserialize, Serialize};

use delayd_core::fault::Fault;
use delayd_core::ports::{ChannelKind, Endpoint, Severity};

/// The topic of alerts which say that a channel could not deliver:
/// `undeliverable/mail/…`. They never go to that channel.
pub(super) const UNDELIVERABLE: &str = "undeliverable";

/// `[[notification.routes]]`: the first that fits an alert says which channels get
/// it. An alert that none fits goes to every channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Alerts of these severities; of every one when left out.
    #[serde(default)]
    pub severities: Vec<Severity>,
    /// Alerts whose deduplication key begins so: `drift/`, `outage/`; every one when left out.
    #[serde(default)]
    pub key_prefix: String,
    /// Where they go.
    pub channels: Vec<ChannelKind>,
}

impl Route {
    fn fits(&self, severity: Severity, dedup_key: &str) -> bool {
        (self.severities.is_empty() || self.severities.contains(&severity)) && dedup_key.starts_with(&self.key_prefix)
    }

    pub(super) fn faults(&self, number: usize, enabled: &[ChannelKind]) -> Vec<Fault> {
        let fault = |key: &str, found: String, expected: &str| Fault {
            key: format!("notification.routes[{number}].{key}"),
            found,
            expected: expected.to_owned(),
        };
        let mut faults = Vec::new();
        if self.channels.is_empty() {
            faults.push(fault("channels", "empty".to_owned(), "one channel or more; `log` tells nobody else"));
        }
        for channel in self.channels.iter().filter(|channel| !enabled.contains(channel)) {
            faults.push(fault("channels", format!("`{channel}`"), "channels that notification.channels switches on"));
        }
        faults
    }
}

/// The channel that an alert complains of, if it says that one could not deliver.
fn complained_of(dedup_key: &str) -> Option<&str> {
    let mut parts = dedup_key.split('/');
    (parts.next() == Some(UNDELIVERABLE)).then(|| parts.next()).flatten()
}

/// The channels that are told of an alert. Empty only where the alert complains
/// of the only channel there is.
#[must_use]
pub fn channels_of(routes: &[Route], enabled: &[ChannelKind], severity: Severity, dedup_key: &str) -> Vec<ChannelKind> {
    let complained_of = complained_of(dedup_key);
    let able = |channels: &[ChannelKind]| -> Vec<ChannelKind> {
        let able = channels.iter().filter(|channel| enabled.contains(channel) && Some(channel.name()) != complained_of);
        able.copied().collect()
    };
    let routed = routes.iter().find(|route| route.fits(severity, dedup_key)).map(|route| able(&route.channels));
    match routed {
        Some(channels) if !channels.is_empty() => channels,
        _ => able(enabled),
    }
}

/// The endpoints of [`channels_of`].
#[must_use]
pub fn endpoints_of(routes: &[Route], endpoints: &[Endpoint], severity: Severity, dedup_key: &str) -> Vec<Endpoint> {
    let mut enabled: Vec<ChannelKind> = endpoints.iter().map(|endpoint| endpoint.channel).collect();
    enabled.sort_unstable();
    enabled.dedup();
    let channels = channels_of(routes, &enabled, severity, dedup_key);
    endpoints.iter().filter(|endpoint| channels.contains(&endpoint.channel)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use ChannelKind::{Log, Mail, Slack, Webhook};
    use Severity::{Critical, Info, Warning};

    use super::*;

    fn route(severities: &[Severity], key_prefix: &str, channels: &[ChannelKind]) -> Route {
        Route { severities: severities.to_vec(), key_prefix: key_prefix.to_owned(), channels: channels.to_vec() }
    }

    #[test]
    fn the_first_route_that_fits_says_who_is_told() {
        let enabled = [Log, Slack, Mail];
        let routes = [
            route(&[], "timer/", &[Log]),
            route(&[Critical], "", &[Slack, Mail]),
            route(&[Warning], "", &[Slack]),
            route(&[Info], "cycle/", &[Webhook]),
        ];
        let table: [(Severity, &str, &[ChannelKind], &str); 8] = [
            (Critical, "cycle/cycle_1", &[Slack, Mail], "critical goes to both"),
            (Warning, "drift/model_v1", &[Slack], "a warning to Slack"),
            (Critical, "timer/ingestion", &[Log], "an earlier route wins, also over a severity"),
            (Info, "models", &[Log, Slack, Mail], "what no route fits goes everywhere"),
            (Info, "cycle/cycle_1", &[Log, Slack, Mail], "a route to a channel that is off is none"),
            (Warning, "undeliverable/mail/alert_1", &[Slack], "mail's failure is told by Slack"),
            (Warning, "undeliverable/slack/alert_1", &[Log, Mail], "not by Slack if it is Slack's own"),
            (Critical, "undeliverable/slack/alert_1", &[Mail], "the rest of the route still counts"),
        ];
        for (severity, key, expected, reason) in table {
            assert_eq!(channels_of(&routes, &enabled, severity, key), expected, "{reason}");
        }
    }

    #[test]
    fn without_routes_everybody_is_told_but_never_a_channel_of_its_own_failure() {
        assert_eq!(channels_of(&[], &[Slack, Mail], Info, "cycle/cycle_1"), [Slack, Mail]);
        assert!(channels_of(&[], &[Mail], Critical, "undeliverable/mail/alert_1").is_empty());
    }

    #[test]
    fn every_addressee_of_a_channel_is_told() {
        let endpoints = [Endpoint::of(Log), Endpoint::at(Mail, "a@example.org"), Endpoint::at(Mail, "b@example.org")];
        let routes = [route(&[Critical], "", &[Mail])];
        assert_eq!(endpoints_of(&routes, &endpoints, Critical, "x"), endpoints[1..]);
    }

    #[test]
    fn a_route_to_a_channel_that_is_off_is_a_fault() {
        let faults = route(&[Info], "", &[Mail]).faults(2, &[Log]);
        assert_eq!(faults.len(), 1);
        assert!(faults[0].to_string().starts_with("notification.routes[2].channels is `mail`"), "{}", faults[0]);
        assert_eq!(route(&[Info], "", &[]).faults(0, &[Log]).len(), 1);
    }
}
