//! When to restart an actor, after what pause, and when to give up: pure
//! functions over durations since the start, so that tests are tables.

use std::collections::VecDeque;
use std::time::Duration;

/// How patient supervision is.
#[derive(Debug, Clone, PartialEq)]
pub struct SupervisionPolicy {
    /// How often an actor beats.
    pub beat_interval: Duration,
    /// Silence longer than this is a hang. An actor that waits with `ctx.wait`
    /// does not beat either: longer work belongs on another thread.
    pub hang_limit: Duration,
    /// The pause before the first restart.
    pub initial_backoff: Duration,
    /// The longest pause.
    pub max_backoff: Duration,
    /// By which share a pause varies, 0 to 1, so that actors that died together do not restart together.
    pub jitter: f64,
    /// Restarts allowed within `within`.
    pub max_restarts: usize,
    pub within: Duration,
}

impl Default for SupervisionPolicy {
    fn default() -> Self {
        Self {
            beat_interval: Duration::from_secs(1),
            hang_limit: Duration::from_secs(30),
            initial_backoff: Duration::from_millis(500),
            max_backoff: Duration::from_secs(60),
            jitter: 0.2,
            max_restarts: 5,
            within: Duration::from_secs(600),
        }
    }
}

impl SupervisionPolicy {
    /// Whether an actor that beat last at `last_beat` hangs at `now`, both since the start.
    pub(super) fn is_hung(&self, last_beat: Duration, now: Duration) -> bool {
        now.saturating_sub(last_beat) > self.hang_limit
    }
}

/// The restarts that still count against the budget.
#[derive(Debug, Clone, Default)]
pub(super) struct RestartBudget {
    restarts: VecDeque<Duration>,
}

/// What to do about a dead actor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Verdict {
    RestartAfter(Duration),
    GiveUp,
}

/// Decides about an actor that died at `now` (since the start) and, if it is
/// restarted, charges the budget. `random` is in 0..1.
pub(super) fn decide(budget: &mut RestartBudget, policy: &SupervisionPolicy, now: Duration, random: f64) -> Verdict {
    while budget.restarts.front().is_some_and(|restart| now.saturating_sub(*restart) >= policy.within) {
        budget.restarts.pop_front();
    }
    let recent = budget.restarts.len();
    if recent >= policy.max_restarts {
        return Verdict::GiveUp;
    }
    budget.restarts.push_back(now);
    let doublings = u32::try_from(recent).unwrap_or(u32::MAX).min(30);
    let pause = policy.initial_backoff.saturating_mul(1 << doublings).min(policy.max_backoff);
    // Evenly within ± jitter.
    let factor = 1.0 + policy.jitter.clamp(0.0, 1.0) * (2.0 * random.clamp(0.0, 1.0) - 1.0);
    Verdict::RestartAfter(pause.mul_f64(factor).min(policy.max_backoff))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> SupervisionPolicy {
        SupervisionPolicy {
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(10),
            jitter: 0.5,
            max_restarts: 6,
            within: Duration::from_secs(100),
            hang_limit: Duration::from_secs(30),
            ..SupervisionPolicy::default()
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_then_the_actor_is_given_up() {
        let mut budget = RestartBudget::default();
        let pause = |secs| Verdict::RestartAfter(Duration::from_secs(secs));
        let table = [
            (0, pause(1), "the first pause is the initial one"),
            (5, pause(2), "the second is twice that"),
            (10, pause(4), "and so on"),
            (15, pause(8), "and so on"),
            (20, pause(10), "never above the longest"),
            (25, pause(10), "never above the longest"),
            (30, Verdict::GiveUp, "six restarts within 100 seconds are all there are"),
            (99, Verdict::GiveUp, "the first still counts"),
            (100, pause(10), "the first no longer counts"),
            (300, pause(1), "after a calm time all is forgotten"),
        ];
        for (at, expected, reason) in table {
            assert_eq!(decide(&mut budget, &policy(), Duration::from_secs(at), 0.5), expected, "at {at}: {reason}");
        }
    }

    #[test]
    fn jitter_stays_within_its_share() {
        for (random, expected) in [(0.0, 500), (0.5, 1000), (1.0, 1500), (7.0, 1500)] {
            let verdict = decide(&mut RestartBudget::default(), &policy(), Duration::ZERO, random);
            assert_eq!(verdict, Verdict::RestartAfter(Duration::from_millis(expected)), "random {random}");
        }
    }

    #[test]
    fn silence_is_a_hang_only_beyond_the_limit() {
        for (last_beat, now, expected) in [(0, 30, false), (0, 31, true), (40, 31, false), (100, 131, true)] {
            assert_eq!(policy().is_hung(Duration::from_secs(last_beat), Duration::from_secs(now)), expected);
        }
    }
}
