//! Whether replicas keep dying: each is replaced by itself, so that nobody would
//! hear of it. Pure: from the restarts that replicas have behind them to a number.

use std::collections::VecDeque;

use chrono::{DateTime, Duration, Utc};

/// Restarts are added up over this time.
const WINDOW: Duration = Duration::hours(1);
/// So many within it are told.
const TOLD_RESTARTS: u64 = 3;

/// The restarts of the last hour. Kept in memory only: a daemon that starts anew counts anew.
#[derive(Debug, Default)]
pub struct RestartWatch {
    /// The restarts of all present replicas at the last look.
    last: Option<u64>,
    /// When how many came to them.
    grown: VecDeque<(DateTime<Utc>, u64)>,
}

impl RestartWatch {
    /// Looks at the restarts of all present replicas, added up; answers how many the
    /// last hour saw, if they are so many that somebody should know.
    pub fn look(&mut self, restarts: u64, now: DateTime<Utc>) -> Option<u64> {
        // Fewer than before: other replicas, that begin at zero.
        let grown = self.last.map_or(0, |last| restarts.saturating_sub(last));
        self.last = Some(restarts);
        if grown > 0 {
            self.grown.push_back((now, grown));
        }
        while self.grown.front().is_some_and(|(at, _)| *at <= now - WINDOW) {
            self.grown.pop_front();
        }
        let lately = self.grown.iter().map(|(_, count)| count).sum();
        (lately >= TOLD_RESTARTS).then_some(lately)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: i64) -> DateTime<Utc> {
        "2013-03-01T06:00:00Z".parse::<DateTime<Utc>>().unwrap() + Duration::minutes(minute)
    }

    #[test]
    fn three_restarts_within_an_hour_are_told_and_three_in_a_day_are_not() {
        let mut quick = RestartWatch::default();
        // What was restarted before the daemon came is not its news.
        let told: Vec<_> =
            [(0, 40), (5, 41), (10, 42), (15, 43), (74, 43), (75, 43)].map(|(m, n)| quick.look(n, at(m))).into();
        assert_eq!(told, [None, None, None, Some(3), None, None]);
        let mut slow = RestartWatch::default();
        assert!((0..24).all(|hour| slow.look(hour, at(60 * hour as i64)).is_none()));
    }

    #[test]
    fn a_rollout_begins_to_count_anew_and_is_no_restart() {
        let mut watch = RestartWatch::default();
        watch.look(9, at(0));
        assert_eq!(watch.look(0, at(1)), None);
        assert_eq!(watch.look(2, at(2)), None);
        assert_eq!(watch.look(3, at(3)), Some(3));
    }
}
