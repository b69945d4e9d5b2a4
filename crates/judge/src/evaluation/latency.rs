//! How long the real serving code takes, on this machine, now.

use std::time::Instant;

use delayd_features::FlightRow;
use delayd_model::{PredictScratch, Predictor};
use serde::{Deserialize, Serialize};

pub const BATCHES: [usize; 3] = [1, 32, 1024];

/// Quantiles of a duration in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatencyQuantiles {
    pub calls: u64,
    pub p50_us: f64,
    pub p95_us: f64,
    pub p99_us: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchLatency {
    pub batch: usize,
    pub per_batch: LatencyQuantiles,
    pub p50_us_per_row: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatencyReport {
    pub per_row: LatencyQuantiles,
    pub batches: Vec<BatchLatency>,
}

/// Times `calls` calls of each batch size on one thread, after a tenth as many to
/// warm up. Large batches are called less often, so that each size sees about the
/// same number of rows, but never fewer than 20 times. `None` without rows.
pub fn measure(predictor: &Predictor, rows: &[&FlightRow], calls: usize) -> Option<LatencyReport> {
    if rows.is_empty() || calls == 0 {
        return None;
    }
    let batches: Vec<BatchLatency> = BATCHES
        .into_iter()
        .map(|batch| {
            let per_batch = time_batches(predictor, rows, batch, (calls / batch).max(20));
            BatchLatency { batch, per_batch, p50_us_per_row: per_batch.p50_us / batch as f64 }
        })
        .collect();
    batches.first().map(|single| single.per_batch).map(|per_row| LatencyReport { per_row, batches })
}

fn time_batches(predictor: &Predictor, rows: &[&FlightRow], batch: usize, calls: usize) -> LatencyQuantiles {
    let mut scratch = PredictScratch::default();
    let mut next = rows.iter().cycle();
    let mut call = || {
        let began = Instant::now();
        for row in next.by_ref().take(batch) {
            std::hint::black_box(predictor.predict(row, &mut scratch));
        }
        began.elapsed().as_secs_f64() * 1e6
    };
    (0..calls / 10).for_each(|_| {
        call();
    });
    let mut times: Vec<f64> = (0..calls).map(|_| call()).collect();
    times.sort_unstable_by(f64::total_cmp);
    quantiles(&times)
}

/// Quantiles by nearest rank of ascending values.
fn quantiles(sorted: &[f64]) -> LatencyQuantiles {
    let at = |share: f64| {
        let rank = (sorted.len() as f64 * share).ceil() as usize;
        sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
    };
    LatencyQuantiles { calls: sorted.len() as u64, p50_us: at(0.5), p95_us: at(0.95), p99_us: at(0.99) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_taken_by_nearest_rank() {
        let times: Vec<f64> = (1..=100).map(f64::from).collect();
        let found = quantiles(&times);
        assert_eq!((found.p50_us, found.p95_us, found.p99_us), (50.0, 95.0, 99.0));
        assert_eq!(quantiles(&[7.0]).p99_us, 7.0);
    }
}
