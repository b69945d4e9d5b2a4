//! What a replica counts. Each worker counts into a shard of its own under a
//! lock that nobody else wants; a reader adds the shards up. Counts are exact.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use delayd_features::CategoryInput;
use delayd_model::Sketch;
use delayd_model::admin::{LatencyHistogram, RequestCounts};

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

#[derive(Debug)]
pub(crate) struct Gauge<F: Fn(&Counters) -> &AtomicU64>(std::sync::Arc<Counters>, F);

impl<F: Fn(&Counters) -> &AtomicU64> Gauge<F> {
    pub(crate) fn up(counters: std::sync::Arc<Counters>, which: F) -> Self {
        which(&counters).fetch_add(1, Ordering::SeqCst);
        Self(counters, which)
    }
}

impl<F: Fn(&Counters) -> &AtomicU64> Drop for Gauge<F> {
    fn drop(&mut self) {
        (self.1)(&self.0).fetch_sub(1, Ordering::SeqCst);
    }
}
