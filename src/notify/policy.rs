//! Where alerts go, when a delivery is retried and when it is given up: pure.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::group::Pace;
use super::quiet::QuietSchedule;
use delayd_core::error::ErrorKind;
use delayd_core::fault::Fault;
use delayd_core::ports::{ChannelKind, Endpoint, Severity};

/// How alerts are delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryPolicy {
    /// After so many refusals an alert is given up at an endpoint.
    pub max_refusals: u32,
    /// While a channel is unavailable nothing is given up for this long.
    pub outage_patience: Duration,
    /// The pause after the first failure; it doubles with each further one.
    pub initial_backoff: Duration,
    /// The longest pause.
    pub max_backoff: Duration,
    /// How long one attempt may take: a backstop, adapters have deadlines of their own.
    pub attempt_timeout: Duration,
    /// How many alerts one round takes at most, per endpoint.
    pub batch: u64,
    /// Alerts of one topic within this long go out together.
    pub group_window: Duration,
    /// Which alerts go where.
    pub routes: Vec<Route>,
    /// When only critical alerts are sent.
    pub quiet: QuietSchedule,
    /// Messages per minute to one endpoint, by channel; 0 or no entry for no bound.
    pub messages_per_minute: BTreeMap<ChannelKind, u32>,
}

impl Default for DeliveryPolicy {
    /// Ten refusals over about an hour, or a day of outage.
    fn default() -> Self {
        Self {
            max_refusals: 10,
            outage_patience: Duration::from_secs(86_400),
            initial_backoff: Duration::from_secs(15),
            max_backoff: Duration::from_secs(600),
            attempt_timeout: Duration::from_secs(120),
            batch: 200,
            group_window: Duration::from_secs(300),
            routes: Vec::new(),
            quiet: QuietSchedule::never(),
            messages_per_minute: BTreeMap::new(),
        }
    }
}

impl DeliveryPolicy {
    /// How often an endpoint may get messages. The log gets everything at once.
    pub(super) fn pace_of(&self, endpoint: &Endpoint) -> Pace {
        if endpoint.channel == ChannelKind::Log {
            return Pace::unbound();
        }
        Pace {
            group_window: self.group_window,
            messages_per_minute: self.messages_per_minute.get(&endpoint.channel).copied().unwrap_or_default(),
            quiet: self.quiet.clone(),
        }
    }
}

/// A failed attempt and those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    pub kind: ErrorKind,
    /// Attempts so far, this one included.
    pub attempts: u32,
    /// Refusals so far, this one included if it is one.
    pub refusals: u32,
    /// When it was first tried.
    pub since: DateTime<Utc>,
    /// How long the other side asks us to wait.
    pub retry_after: Option<Duration>,
}

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterFailure {
    /// Try again then.
    RetryAt(DateTime<Utc>),
    /// Give it up; an administrator can retry it.
    GiveUp,
}

/// Whether a failure is a refusal: an answer, where an outage is none.
pub(super) fn is_refusal(kind: ErrorKind) -> bool {
    !matches!(kind, ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Interrupted)
}

/// Decides what follows a failed attempt. What the other side calls invalid stays
/// invalid; every other refusal may be repaired from outside, wrong credentials
/// too, and is retried a few times; an outage is waited out.
pub(super) fn after_failure(policy: &DeliveryPolicy, failure: &Failure, now: DateTime<Utc>) -> AfterFailure {
    let refused = is_refusal(failure.kind);
    let hopeless = failure.kind == ErrorKind::Invalid || (refused && failure.refusals >= policy.max_refusals);
    let outlasted = !refused && failure.since + policy.outage_patience <= now;
    if hopeless || outlasted {
        return AfterFailure::GiveUp;
    }
    let doublings = failure.attempts.saturating_sub(1).min(30);
    let pause = policy.initial_backoff.saturating_mul(1 << doublings).min(policy.max_backoff);
    AfterFailure::RetryAt(now + pause.max(failure.retry_after.unwrap_or_default()))
}

/// The topic of alerts about a channel that could not deliver:
/// `undeliverable/mail/…`. They never go to that channel.
pub(super) const UNDELIVERABLE: &str = "undeliverable";

/// `[[notification.routes]]`: the first that matches an alert says which channels get
/// it. An alert that matches none goes to every channel.
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
    fn matches(&self, severity: Severity, dedup_key: &str) -> bool {
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
            faults.push(fault("channels", "empty".to_owned(), "one channel or more; `log` alone notifies nobody"));
        }
        for channel in self.channels.iter().filter(|channel| !enabled.contains(channel)) {
            faults.push(fault("channels", format!("`{channel}`"), "channels that notification.channels enables"));
        }
        faults
    }
}

/// The channel that an alert is about, if it says that one could not deliver.
fn failed_channel(dedup_key: &str) -> Option<&str> {
    let mut parts = dedup_key.split('/');
    (parts.next() == Some(UNDELIVERABLE)).then(|| parts.next()).flatten()
}

/// The channels that get an alert. Empty only where the alert is about the only
/// channel there is.
pub(super) fn channels_of(
    routes: &[Route],
    enabled: &[ChannelKind],
    severity: Severity,
    dedup_key: &str,
) -> Vec<ChannelKind> {
    let failed = failed_channel(dedup_key);
    let able = |channels: &[ChannelKind]| -> Vec<ChannelKind> {
        let able = channels.iter().filter(|channel| enabled.contains(channel) && Some(channel.name()) != failed);
        able.copied().collect()
    };
    let routed = routes.iter().find(|route| route.matches(severity, dedup_key)).map(|route| able(&route.channels));
    match routed {
        Some(channels) if !channels.is_empty() => channels,
        _ => able(enabled),
    }
}

/// The endpoints of [`channels_of`].
pub(super) fn endpoints_of(
    routes: &[Route],
    endpoints: &[Endpoint],
    severity: Severity,
    dedup_key: &str,
) -> Vec<Endpoint> {
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

    #[test]
    fn pauses_double_refusals_are_counted_and_outages_waited_out() {
        let policy = DeliveryPolicy {
            max_refusals: 5,
            outage_patience: Duration::from_secs(1000),
            initial_backoff: Duration::from_secs(10),
            max_backoff: Duration::from_secs(60),
            ..DeliveryPolicy::default()
        };
        let since = DateTime::<Utc>::UNIX_EPOCH;
        let retry = |secs| AfterFailure::RetryAt(since + Duration::from_secs(secs));
        let table = [
            (ErrorKind::Unavailable, 1, 0, 0, None, retry(10), "the first pause"),
            (ErrorKind::Timeout, 2, 0, 10, None, retry(30), "twice that"),
            (ErrorKind::Denied, 3, 1, 30, None, retry(70), "a webhook can be repaired from outside"),
            (ErrorKind::Internal, 9, 4, 100, None, retry(160), "never above the longest"),
            (ErrorKind::Denied, 5, 5, 100, None, AfterFailure::GiveUp, "five refusals are all there are"),
            (ErrorKind::Unavailable, 50, 4, 999, None, retry(1059), "an outage counts no attempts"),
            (ErrorKind::Unavailable, 50, 4, 1000, None, AfterFailure::GiveUp, "but it is not waited for for ever"),
            (ErrorKind::Invalid, 1, 1, 0, None, AfterFailure::GiveUp, "it will stay invalid"),
            (ErrorKind::Unavailable, 1, 0, 0, Some(90), retry(90), "the other side asked for more time"),
            (ErrorKind::Unavailable, 3, 0, 0, Some(5), retry(40), "it asked for less than the pause"),
        ];
        for (kind, attempts, refusals, waited, retry_after, expected, reason) in table {
            let retry_after = retry_after.map(Duration::from_secs);
            let failure = Failure { kind, attempts, refusals, since, retry_after };
            let now = since + Duration::from_secs(waited);
            assert_eq!(after_failure(&policy, &failure, now), expected, "{reason}");
        }
    }

    #[test]
    fn the_log_gets_everything_at_once() {
        let policy = DeliveryPolicy {
            messages_per_minute: BTreeMap::from([(ChannelKind::Log, 1), (ChannelKind::Slack, 30)]),
            ..DeliveryPolicy::default()
        };
        assert_eq!(policy.pace_of(&Endpoint::of(ChannelKind::Log)), Pace::unbound());
        assert_eq!(policy.pace_of(&Endpoint::of(ChannelKind::Slack)).messages_per_minute, 30);
    }

    fn route(severities: &[Severity], key_prefix: &str, channels: &[ChannelKind]) -> Route {
        Route { severities: severities.to_vec(), key_prefix: key_prefix.to_owned(), channels: channels.to_vec() }
    }

    #[test]
    fn the_first_route_that_matches_says_which_channels_get_an_alert() {
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
            (Info, "models", &[Log, Slack, Mail], "what no route matches goes everywhere"),
            (Info, "cycle/cycle_1", &[Log, Slack, Mail], "a route to a disabled channel does not count"),
            (Warning, "undeliverable/mail/alert_1", &[Slack], "mail's failure goes to Slack"),
            (Warning, "undeliverable/slack/alert_1", &[Log, Mail], "not by Slack if it is Slack's own"),
            (Critical, "undeliverable/slack/alert_1", &[Mail], "the rest of the route still counts"),
        ];
        for (severity, key, expected, reason) in table {
            assert_eq!(channels_of(&routes, &enabled, severity, key), expected, "{reason}");
        }
    }

    #[test]
    fn without_routes_every_channel_gets_it_but_never_one_its_own_failure() {
        assert_eq!(channels_of(&[], &[Slack, Mail], Info, "cycle/cycle_1"), [Slack, Mail]);
        assert!(channels_of(&[], &[Mail], Critical, "undeliverable/mail/alert_1").is_empty());
    }

    #[test]
    fn every_recipient_of_a_channel_gets_it() {
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
