//! Events of one key, sorted by time, with running sums.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::LazyLock;

use super::Moment;

/// Events before the horizon of [`Series::forget`] that are kept all the same: a signal may ask for the last 30.
pub(super) const KEPT_EVENTS: usize = 31;

/// Times with running sums; with a time constant, sums that decay. What no question reaches any more can be
/// forgotten: the sums of the rest stay what they were, to the bit.
#[derive(Debug, Clone)]
pub(super) struct Series {
    times: Vec<Moment>,
    sums: Vec<f64>,
    /// Decayed number of events, only with a time constant.
    weights: Vec<f64>,
    decay_seconds: Option<f64>,
    /// How many events were forgotten, and their sum.
    forgotten: (usize, f64),
}

impl Series {
    pub(super) fn new(decay_seconds: Option<f64>) -> Self {
        Self { times: Vec::new(), sums: Vec::new(), weights: Vec::new(), decay_seconds, forgotten: (0, 0.0) }
    }

    pub(super) fn empty() -> &'static Self {
        static EMPTY: LazyLock<Series> = LazyLock::new(|| Series::new(None));
        &EMPTY
    }

    /// Adds an event. One that comes late counts from the last event's moment.
    pub(super) fn push(&mut self, at: Moment, value: f64) {
        let at = self.times.last().map_or(at, |last| at.max(*last));
        let last = self.sums.last().copied().unwrap_or(0.0);
        match self.decay_seconds {
            None => self.sums.push(last + value),
            Some(seconds) => {
                let age = self.times.last().map_or(0.0, |before| (at - before) as f64);
                let kept = (-age / seconds).exp();
                self.sums.push(last * kept + value);
                self.weights.push(self.weights.last().copied().unwrap_or(0.0) * kept + 1.0);
            }
        }
        self.times.push(at);
    }

    /// Forgets events before `horizon`, but for the last [`KEPT_EVENTS`] of them. Only worth it, and only done, where
    /// at least as many are forgotten as stay.
    pub(super) fn forget(&mut self, horizon: Moment) {
        let gone = self.times.partition_point(|moment| *moment < horizon).saturating_sub(KEPT_EVENTS);
        if gone == 0 || gone * 2 < self.times.len() {
            return;
        }
        self.forgotten = (self.forgotten.0 + gone, self.sums.get(gone - 1).copied().unwrap_or(0.0));
        self.times.drain(..gone);
        self.sums.drain(..gone);
        self.weights.drain(..gone.min(self.weights.len()));
        self.times.shrink_to(gone);
        self.sums.shrink_to(gone);
    }

    /// How many of the events that are kept there are until `at`, inclusive.
    fn until(&self, at: Moment) -> usize {
        self.times.partition_point(|moment| *moment <= at)
    }

    /// The sum of all events before this position.
    fn sum_before(&self, position: usize) -> f64 {
        match position.checked_sub(1) {
            None => self.forgotten.1,
            Some(last) => self.sums.get(last).copied().unwrap_or(0.0),
        }
    }

    fn sum_of(&self, from: usize, until: usize) -> (f64, f64) {
        if until <= from {
            return (0.0, 0.0);
        }
        (self.sum_before(until) - self.sum_before(from), (until - from) as f64)
    }

    /// Sum and number of the events in `(after, until]`.
    pub(super) fn between(&self, after: Moment, until: Moment) -> (f64, f64) {
        self.sum_of(self.until(after), self.until(until))
    }

    /// Sum and number of all events until `until`, the forgotten ones included.
    pub(super) fn history(&self, until: Moment) -> (f64, f64) {
        let position = self.until(until);
        (self.sum_before(position), (self.forgotten.0 + position) as f64)
    }

    /// Sum and number of the last `count` events until `at`.
    pub(super) fn last(&self, count: usize, at: Moment) -> (f64, f64) {
        let until = self.until(at);
        self.sum_of(until.saturating_sub(count), until)
    }

    /// Decayed sum and decayed number at `at`.
    pub(super) fn decayed(&self, at: Moment) -> (f64, f64) {
        let (Some(seconds), Some(last)) = (self.decay_seconds, self.until(at).checked_sub(1)) else {
            return (0.0, 0.0);
        };
        let age = self.times.get(last).map_or(0.0, |moment| (at - moment) as f64);
        let kept = (-age / seconds).exp();
        let at_last = |values: &[f64]| values.get(last).copied().unwrap_or(0.0) * kept;
        (at_last(&self.sums), at_last(&self.weights))
    }
}

/// A hasher for our own small numbers: they need speed, not protection.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct MultiplyHasher(u64);

impl Hasher for MultiplyHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u64(&mut self, value: u64) {
        // Knuth's multiplicative hashing with the golden ratio.
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
    fn write_u128(&mut self, value: u128) {
        self.write_u64(value as u64);
        self.write_u64((value >> 64) as u64);
    }
    fn write_i64(&mut self, value: i64) {
        self.write_u64(value as u64);
    }
    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }
    fn write_isize(&mut self, value: isize) {
        self.write_u64(value as u64);
    }
}

/// The hasher as a `HashMap` wants it.
pub(super) type KeyHasher = BuildHasherDefault<MultiplyHasher>;
