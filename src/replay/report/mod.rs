//! The report at the end of a replay: what the loop was worth, and how it went.
//!
//! The replay driver hands over what it saw (one [`ReplayPrediction`] per flight,
//! and the ledger's models, cycles and drift alarms); [`compute()`] turns the
//! predictions into metrics, and the writers here turn a [`Report`] into
//! `report.json` (schema: `docs/report.md`), `report.html`, `predictions.parquet`
//! and the summary for the terminal.
//!
//! Nothing here reads the ledger or the clock, runs a model, or prints.

mod compute;
#[cfg(test)]
mod fixture;
mod html;
mod model;
pub(super) mod summary;
mod write;

pub use compute::{ComputeError, Computed, ReplayPrediction, Thresholds, compute};
pub use html::write_html;
pub use model::{
    Cycle, DatasetInfo, DifferenceInterval, DriftAlarm, FeatureDrift, LiveModel, PooledMetrics, Reliability,
    ReliabilityBin, Report, Simulated, StepSeconds, Week, WeekMetrics,
};
pub use summary::{ReportFiles, summary};
pub use write::{ReportError, write_json, write_predictions};
