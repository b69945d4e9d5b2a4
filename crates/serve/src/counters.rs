//! What a replica counts and keeps. Each worker counts into a shard of its own under a
//! lock that nobody else wants; a reader adds the shards up. Counts are exact.
//!
//! The last predictions are kept in memory until the daemon has fetched them: it needs them to compare with outcomes that
//! arrive days later.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use delayd_features::{CategoryInput, FlightRow};
use delayd_model::Sketch;
use delayd_model::admin::{LatencyHistogram, RequestCounts, ServedPrediction};

/// A route, as a label. Closed, so that no caller can invent time series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Route {
    Predict,
    Infer,
    ModelInfo,
    Root,
    Docs,
    OpenApi,
    Metrics,
    Health,
    Admin,
    Unmatched,
}

impl Route {
    pub(crate) const ALL: [Self; 10] = [
        Self::Predict,
        Self::Infer,
        Self::ModelInfo,
        Self::Root,
        Self::Docs,
        Self::OpenApi,
        Self::Metrics,
        Self::Health,
        Self::Admin,
        Self::Unmatched,
    ];

    pub(crate) fn of(pattern: Option<&str>) -> Self {
        match pattern {
            Some("/predict") => Self::Predict,
            Some("/") => Self::Root,
            Some("/docs") => Self::Docs,
            Some("/openapi.json") => Self::OpenApi,
            Some("/metrics") => Self::Metrics,
            Some(path) if path.ends_with("/infer") => Self::Infer,
            Some(path) if path.starts_with("/admin") => Self::Admin,
            Some(path) if path.starts_with("/health") || path.starts_with("/v2/health") => Self::Health,
            Some(path) if path.starts_with("/v2") => Self::ModelInfo,
            _ => Self::Unmatched,
        }
    }

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Predict => "/predict",
            Self::Infer => "/v2/models/{model}/infer",
            Self::ModelInfo => "/v2",
            Self::Root => "/",
            Self::Docs => "/docs",
            Self::OpenApi => "/openapi.json",
            Self::Metrics => "/metrics",
            Self::Health => "/health",
            Self::Admin => "/admin/v1",
            Self::Unmatched => "unmatched",
        }
    }

    /// Whether it answers with predictions: only these are the service's traffic.
    pub(crate) fn predicts(self) -> bool {
        matches!(self, Self::Predict | Self::Infer)
    }
}

pub(crate) const METHODS: [&str; 5] = ["GET", "POST", "HEAD", "OPTIONS", "other"];
pub(crate) const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// What one worker has counted, or all together.
#[derive(Debug, Clone)]
pub(crate) struct Counts {
    pub(crate) requests: [[[u64; CLASSES.len()]; METHODS.len()]; Route::ALL.len()],
    pub(crate) durations: Vec<LatencyHistogram>,
    /// Prediction requests of clients: no probes.
    pub(crate) traffic: RequestCounts,
    pub(crate) traffic_latency: LatencyHistogram,
    /// Rows of clients: no probes.
    pub(crate) sketch: Sketch,
    pub(crate) score_sum: f64,
    pub(crate) delayed_rows: u64,
    pub(crate) probe_rows: u64,
    pub(crate) unknown: [u64; CategoryInput::ALL.len()],
}

impl Counts {
    fn new(sketch: Sketch) -> Self {
        Self {
            requests: Default::default(),
            durations: vec![LatencyHistogram::default(); Route::ALL.len()],
            traffic: RequestCounts::default(),
            traffic_latency: LatencyHistogram::default(),
            sketch,
            score_sum: 0.0,
            delayed_rows: 0,
            probe_rows: 0,
            unknown: Default::default(),
        }
    }

    pub(crate) fn request(&mut self, route: Route, method: &str, status: u16, secs: f64, probe: bool) {
        let method = METHODS.iter().position(|known| *known == method).unwrap_or(METHODS.len() - 1);
        let class = usize::from(status / 100).clamp(1, CLASSES.len()) - 1;
        self.requests[route as usize][method][class] += 1;
        self.durations[route as usize].observe(secs);
        if route.predicts() && !probe {
            match class {
                3 => self.traffic.client_errors += 1,
                4 => self.traffic.server_errors += 1,
                _ => self.traffic.ok += 1,
            }
            self.traffic_latency.observe(secs);
        }
    }

    fn add(&mut self, other: &Self) {
        let mine = self.requests.as_flattened_mut().as_flattened_mut().iter_mut().chain(&mut self.unknown);
        let theirs = other.requests.as_flattened().as_flattened().iter().chain(&other.unknown);
        mine.zip(theirs).for_each(|(count, other)| *count += other);
        self.traffic.merge(&other.traffic);
        self.score_sum += other.score_sum;
        self.delayed_rows += other.delayed_rows;
        self.probe_rows += other.probe_rows;
        let mine = self.durations.iter_mut().chain([&mut self.traffic_latency]);
        for (histogram, other) in mine.zip(other.durations.iter().chain([&other.traffic_latency])) {
            // All shards have the buckets of this build.
            let _ = histogram.merge(other);
        }
        // All shards have the bins of the same bundle.
        let _ = self.sketch.merge(&other.sketch);
    }
}

/// The shards, and what is counted up and down.
#[derive(Debug)]
pub(crate) struct Counters {
    shards: Vec<Mutex<Counts>>,
    empty: Sketch,
    next_shard: AtomicUsize,
    pub(crate) in_flight: AtomicU64,
    /// Requests being answered on the public address.
    pub(crate) public_in_flight: AtomicU64,
}

impl Counters {
    pub(crate) fn new(shards: usize, empty: &Sketch) -> Self {
        Self {
            shards: (0..shards.max(1)).map(|_| Mutex::new(Counts::new(empty.clone()))).collect(),
            empty: empty.clone(),
            next_shard: AtomicUsize::new(0),
            in_flight: AtomicU64::new(0),
            public_in_flight: AtomicU64::new(0),
        }
    }

    pub(crate) fn assign(&self) -> usize {
        self.next_shard.fetch_add(1, Ordering::Relaxed) % self.shards.len()
    }

    pub(crate) fn shard(&self, index: usize) -> MutexGuard<'_, Counts> {
        // A count is sound even when another holder panicked.
        self.shards[index % self.shards.len()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn total(&self) -> Counts {
        let mut total = Counts::new(self.empty.clone());
        (0..self.shards.len()).for_each(|index| total.add(&self.shard(index)));
        total
    }
}

/// A request being answered, counted while this lives.
#[derive(Debug)]
pub(crate) struct InFlight {
    counters: Arc<Counters>,
    public: bool,
}

impl InFlight {
    /// `public` on the public address.
    pub(crate) fn new(counters: Arc<Counters>, public: bool) -> Self {
        counters.in_flight.fetch_add(1, Ordering::SeqCst);
        counters.public_in_flight.fetch_add(u64::from(public), Ordering::SeqCst);
        Self { counters, public }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.counters.public_in_flight.fetch_sub(u64::from(self.public), Ordering::SeqCst);
        self.counters.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A short upper-case code in place: no heap, so that 65,536 records fit in 4 MB.
#[derive(Debug, Clone, Copy)]
struct Code([u8; 4]);

impl Code {
    fn of(text: &str) -> Self {
        let mut bytes = [0; 4];
        bytes.iter_mut().zip(text.bytes()).for_each(|(slot, byte)| *slot = byte);
        Self(bytes)
    }

    fn text(self) -> String {
        self.0.iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte)).collect()
    }
}

#[derive(Debug, Clone, Copy)]
struct Record {
    received_at: DateTime<Utc>,
    scheduled_departure: DateTime<Utc>,
    flight_number: u32,
    score: f32,
    carrier: Code,
    origin: Code,
    dest: Code,
}

#[derive(Debug, Default)]
struct Kept {
    records: VecDeque<Record>,
    last_sequence: u64,
}

/// A bounded list of predictions; the oldest make room for new ones.
#[derive(Debug)]
pub(crate) struct PredictionRing {
    capacity: usize,
    kept: Mutex<Kept>,
}

/// Predictions after a sequence number.
#[derive(Debug, PartialEq)]
pub(crate) struct Page {
    pub(crate) predictions: Vec<ServedPrediction>,
    pub(crate) next_after: u64,
    pub(crate) lost: u64,
    pub(crate) more: bool,
}

impl PredictionRing {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), kept: Mutex::default() }
    }

    /// Adds predictions with consecutive sequence numbers.
    pub(crate) fn push<'a>(&self, received_at: DateTime<Utc>, predictions: impl Iterator<Item = (&'a FlightRow, f32)>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for (row, score) in predictions {
            if kept.records.len() == self.capacity {
                kept.records.pop_front();
            }
            kept.last_sequence += 1;
            kept.records.push_back(Record {
                received_at,
                scheduled_departure: row.scheduled_departure,
                flight_number: row.flight_number,
                score,
                carrier: Code::of(&row.carrier),
                origin: Code::of(&row.origin),
                dest: Code::of(&row.dest),
            });
        }
    }

    /// The last sequence number given; 0 where there is none.
    pub(crate) fn last_sequence(&self) -> u64 {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).last_sequence
    }

    /// At most `limit` predictions after `after`. An `after` from the future
    /// (of an earlier process of the same name) counts as the very beginning.
    pub(crate) fn page(&self, after: u64, limit: usize, model_version: &str) -> Page {
        let (first, lost, records, last) = {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let last = kept.last_sequence;
            let wanted = if after > last { 1 } else { after + 1 };
            let oldest = last + 1 - kept.records.len() as u64;
            let first = wanted.max(oldest);
            let records = kept.records.iter().skip((first - oldest) as usize).take(limit).copied();
            (first, first - wanted, records.collect::<Vec<_>>(), last)
        };
        let next_after = first - 1 + records.len() as u64;
        let served = |(seq, record): (u64, Record)| ServedPrediction {
            seq,
            received_at: record.received_at,
            carrier: record.carrier.text(),
            flight_number: record.flight_number,
            origin: record.origin.text(),
            dest: record.dest.text(),
            scheduled_departure: record.scheduled_departure,
            score: record.score,
            model_version: model_version.to_owned(),
        };
        Page { predictions: (first..).zip(records).map(served).collect(), next_after, lost, more: next_after < last }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(capacity: usize, count: u32) -> PredictionRing {
        let ring = PredictionRing::new(capacity);
        let departure = DateTime::UNIX_EPOCH;
        for n in 1..=count {
            let row = FlightRow::scheduled("B6", n, "JFK", "KLAX", departure);
            ring.push(departure, std::iter::once((&row, 0.5)));
        }
        ring
    }

    fn numbers(page: &Page) -> Vec<(u64, u32)> {
        page.predictions.iter().map(|served| (served.seq, served.flight_number)).collect()
    }

    #[test]
    fn pages_follow_each_other_without_gap_or_repetition() {
        let ring = filled(10, 5);
        let first = ring.page(0, 3, "model_v1");
        assert_eq!(numbers(&first), [(1, 1), (2, 2), (3, 3)]);
        assert_eq!((first.next_after, first.lost, first.more), (3, 0, true));
        let second = ring.page(first.next_after, 3, "model_v1");
        assert_eq!(numbers(&second), [(4, 4), (5, 5)]);
        assert_eq!((second.next_after, second.more), (5, false));
        let third = ring.page(second.next_after, 3, "model_v1");
        assert_eq!((third.predictions.len(), third.next_after), (0, 5));
    }

    #[test]
    fn what_was_overwritten_is_told_as_lost() {
        let page = filled(4, 10).page(2, 100, "model_v1");
        assert_eq!(numbers(&page), [(7, 7), (8, 8), (9, 9), (10, 10)]);
        assert_eq!(page.lost, 4);
    }

    #[test]
    fn codes_of_two_three_and_four_letters_come_back_as_they_were() {
        let page = filled(1, 1).page(0, 1, "model_v1");
        let served = &page.predictions[0];
        assert_eq!([&*served.carrier, &*served.origin, &*served.dest], ["B6", "JFK", "KLAX"]);
    }

    #[test]
    fn a_reader_that_is_ahead_of_a_new_process_begins_anew() {
        let page = filled(10, 2).page(999, 10, "model_v1");
        assert_eq!(numbers(&page), [(1, 1), (2, 2)]);
        let empty = filled(10, 0).page(999, 10, "model_v1");
        assert_eq!((empty.next_after, empty.lost, empty.more), (0, 0, false));
    }
}
