//! What is counted where it happens: steps, timers, requests, scrapes.

use std::time::Duration;

use chrono::{DateTime, Utc};
use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry, core::Collector};

use super::catalogue::{self, Metric};

/// Bounds, in seconds, of what takes from milliseconds to hours.
const STEP_BOUNDS: [f64; 12] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 21600.0];
/// Bounds, in seconds, of what a client waits for.
const REQUEST_BOUNDS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// The counted metrics.
pub(super) struct Counted {
    pub(super) registry: Registry,
    step_seconds: HistogramVec,
    steps: IntCounterVec,
    timers: IntCounterVec,
    timer_success: GaugeVec,
    timer_seconds: HistogramVec,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    pub(super) in_flight: IntGauge,
    scrape_errors: IntCounterVec,
}

impl Counted {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counted = Self {
            step_seconds: histogram(&registry, &catalogue::STEP_SECONDS, &STEP_BOUNDS)?,
            steps: counter(&registry, &catalogue::STEPS)?,
            timers: counter(&registry, &catalogue::TIMER_RUNS)?,
            timer_success: register(
                &registry,
                GaugeVec::new(options(&catalogue::TIMER_LAST_SUCCESS), catalogue::TIMER_LAST_SUCCESS.labels)?,
            )?,
            timer_seconds: histogram(&registry, &catalogue::TIMER_SECONDS, &STEP_BOUNDS)?,
            requests: counter(&registry, &catalogue::HTTP_REQUESTS)?,
            request_seconds: histogram(&registry, &catalogue::HTTP_SECONDS, &REQUEST_BOUNDS)?,
            in_flight: register(&registry, IntGauge::with_opts(options(&catalogue::HTTP_IN_FLIGHT))?)?,
            scrape_errors: counter(&registry, &catalogue::SCRAPE_ERRORS)?,
            registry,
        };
        // A counter that begins at its first event hides that event from `increase()`.
        for source in super::SOURCES {
            counted.scrape_errors.with_label_values(&[source]).inc_by(0);
        }
        for step in crate::cycle::steps::STEPS.map(|row| row.step) {
            for outcome in ["done", "failed"] {
                counted.steps.with_label_values(&[step.name, outcome]).inc_by(0);
            }
        }
        Ok(counted)
    }

    pub(super) fn step(&self, step: &str, wall: Duration, failed: bool) {
        self.step_seconds.with_label_values(&[step]).observe(wall.as_secs_f64());
        self.steps.with_label_values(&[step, if failed { "failed" } else { "done" }]).inc();
    }

    pub(super) fn timer(&self, timer: &str, wall: Duration, failed: bool, now: DateTime<Utc>) {
        self.timer_seconds.with_label_values(&[timer]).observe(wall.as_secs_f64());
        for (outcome, is) in [("done", !failed), ("failed", failed)] {
            self.timers.with_label_values(&[timer, outcome]).inc_by(u64::from(is));
        }
        if !failed {
            self.timer_success.with_label_values(&[timer]).set(seconds(now));
        }
    }

    pub(super) fn request(&self, route: &str, method: &str, status: &str, wall: Duration) {
        self.requests.with_label_values(&[route, method, status]).inc();
        self.request_seconds.with_label_values(&[route]).observe(wall.as_secs_f64());
    }

    pub(super) fn scrape_failed(&self, source: &str) {
        self.scrape_errors.with_label_values(&[source]).inc();
    }
}

/// A moment as Prometheus writes it.
pub(super) fn seconds(at: DateTime<Utc>) -> f64 {
    at.timestamp_micros() as f64 / 1e6
}

fn options(metric: &Metric) -> Opts {
    Opts::new(metric.name, metric.help)
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counter(registry: &Registry, metric: &Metric) -> Result<IntCounterVec, prometheus::Error> {
    register(registry, IntCounterVec::new(options(metric), metric.labels)?)
}

fn histogram(registry: &Registry, metric: &Metric, bounds: &[f64]) -> Result<HistogramVec, prometheus::Error> {
    let options = HistogramOpts::from(options(metric)).buckets(bounds.to_vec());
    register(registry, HistogramVec::new(options, metric.labels)?)
}
