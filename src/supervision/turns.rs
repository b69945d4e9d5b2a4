//! By when each of the daemon's timers should have come round. A timer that waits or
//! works longer than it may stands still, and that is nothing supervision would see:
//! timers are no actors.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The timers' turns; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Turns(Arc<Mutex<BTreeMap<String, Instant>>>);

impl Turns {
    /// The timer goes on with its turn now, and comes back within `limit`.
    pub fn back_within(&self, timer: &str, limit: Duration) {
        let due = Instant::now() + limit;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(timer.to_owned(), due);
    }

    /// The timers that should have come round by `now`, and have not.
    #[must_use]
    pub fn overdue(&self, now: Instant) -> Vec<String> {
        let turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.iter().filter(|(_, due)| **due < now).map(|(timer, _)| timer.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_is_overdue_until_it_comes_round_again() {
        let turns = Turns::default();
        let now = Instant::now();
        turns.back_within("alerts", Duration::from_secs(10));
        turns.back_within("ingestion", Duration::from_secs(100));
        assert!(turns.overdue(now).is_empty());
        assert_eq!(turns.overdue(now + Duration::from_secs(50)), ["alerts"]);
        turns.back_within("alerts", Duration::from_secs(200));
        assert_eq!(turns.overdue(now + Duration::from_secs(150)), ["ingestion"]);
    }
}
