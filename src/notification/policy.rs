//! When to try again and when to give up: pure.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::group::Pace;
use super::quiet::QuietSchedule;
use super::route::Route;
use delayd_core::error::ErrorKind;
use delayd_core::ports::{ChannelKind, Endpoint};

/// How alerts are delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryPolicy {
    /// After so many refusals an alert is given up at an endpoint.
    pub max_refusals: u32,
    /// While a channel is away nothing is given up for this long.
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
    /// When only critical alerts are told.
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
    /// How fast an endpoint may be told things. The log is told everything at once.
    #[must_use]
    pub fn pace_of(&self, endpoint: &Endpoint) -> Pace {
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
pub struct Failure {
    /// What sort of failure.
    pub kind: ErrorKind,
    /// Attempts so far, this one included.
    pub attempts: u32,
    /// Refusals so far, this one included if it is one.
    pub refusals: u32,
    /// Since when it is tried.
    pub since: DateTime<Utc>,
    /// How long the other side asks to be left alone.
    pub retry_after: Option<Duration>,
}

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterFailure {
    /// Try again then.
    RetryAt(DateTime<Utc>),
    /// Give it up; an administrator can revive it.
    GiveUp,
}

/// Whether a failure is a refusal: an answer, where an outage is none.
#[must_use]
pub(super) fn is_refusal(kind: ErrorKind) -> bool {
    !matches!(kind, ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Interrupted)
}

/// Decides what follows a failed attempt. What the other side calls invalid will
/// stay so; every other refusal may be repaired from outside, wrong credentials
/// too, and is tried again so many times; an outage is waited out.
#[must_use]
pub fn after_failure(policy: &DeliveryPolicy, failure: &Failure, now: DateTime<Utc>) -> AfterFailure {
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

#[cfg(test)]
mod tests {
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
    fn the_log_is_told_everything_at_once() {
        let policy = DeliveryPolicy {
            messages_per_minute: BTreeMap::from([(ChannelKind::Log, 1), (ChannelKind::Slack, 30)]),
            ..DeliveryPolicy::default()
        };
        assert_eq!(policy.pace_of(&Endpoint::of(ChannelKind::Log)), Pace::unbound());
        assert_eq!(policy.pace_of(&Endpoint::of(ChannelKind::Slack)).messages_per_minute, 30);
    }
}
