//! The documents of the drift check: what goes in, what comes out, what is kept.

use delayd_core::Stored;
use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use delayd_model::{Sketch, SketchError};
use serde::{Deserialize, Serialize};

use super::bins::Distances;
use super::drift_policy::DriftPolicy;

/// Name of the score among the signals of a window.
pub const SCORE: &str = "score";
/// Name of the importance-weighted sum among the signals of a window.
pub const DATASET: &str = "dataset";

/// What was counted in a window, as a sum and day by day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriftWindow {
    /// End of the window.
    pub ended_at: DateTime<Utc>,
    /// All of it.
    pub sketch: Sketch,
    /// Its days; may be empty where only the sum is known.
    pub days: Vec<Sketch>,
}

impl DriftWindow {
    /// A window from its days; `None` when there are none.
    ///
    /// # Errors
    /// When the days were not counted in the same bins.
    pub fn from_days(ended_at: DateTime<Utc>, days: Vec<Sketch>) -> Result<Option<Self>, SketchError> {
        let Some((first, rest)) = days.split_first() else { return Ok(None) };
        let mut sketch = first.clone();
        for day in rest {
            sketch.merge(day)?;
        }
        Ok(Some(Self { ended_at, sketch, days }))
    }

    /// A window of which only the sum is known: rows are taken as independent.
    #[must_use]
    pub fn from_sum(ended_at: DateTime<Utc>, sketch: Sketch) -> Self {
        Self { ended_at, sketch, days: Vec::new() }
    }
}

/// What is kept of an earlier window to judge persistence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowSummary {
    /// End of the window.
    pub ended_at: DateTime<Utc>,
    /// The bins it was counted in: windows of another model say nothing here.
    pub layout: String,
    /// Signals that exceeded their thresholds: inputs, [`SCORE`], [`DATASET`].
    pub exceeded: BTreeSet<String>,
}

/// What kind of thing was compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SignalKind {
    /// A number in interval bins, the last bin for "missing".
    Numeric,
    /// A category, the last bin for all values without one of their own.
    Category,
    /// The model's score.
    Score,
}

/// One input (or the score) compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FeatureDrift {
    /// Name of the input.
    pub input: String,
    /// What it is.
    pub kind: SignalKind,
    /// How much the model uses it, 0 to 1 (0 for the score).
    pub importance: f64,
    /// Distances.
    pub distances: Distances,
    /// Bins for people: intervals, values, `missing`, `other`.
    pub bins: Vec<String>,
    /// Shares of the reference, bin by bin.
    pub reference_shares: Vec<f64>,
    /// Shares of the window, bin by bin.
    pub window_shares: Vec<f64>,
    /// Whether this window exceeds the thresholds.
    pub exceeded: bool,
    /// In how many of the last windows it did, this one included.
    pub windows_exceeded: u32,
    /// Exceeded, and persistently.
    pub drifted: bool,
    /// Why, or why not.
    pub reason: String,
}

/// The verdict of one evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DriftStatus {
    /// Not enough rows or days to say anything.
    TooFewRows,
    /// Nothing to see.
    Stable,
    /// This window exceeds, but it has not lasted yet.
    Suspected,
    /// Drift.
    Drifted,
}

/// One evaluation, complete: it can be explained later from itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DriftReport {
    /// End of the window.
    pub ended_at: DateTime<Utc>,
    /// The bins.
    pub layout: String,
    /// Rows of the window.
    pub rows: u64,
    /// Days of the window.
    pub days: u32,
    /// Rows of the reference.
    pub reference_rows: u64,
    /// Importance-weighted PSI (capped, significant inputs only).
    pub dataset_psi: f64,
    /// Inputs, by falling contribution.
    pub features: Vec<FeatureDrift>,
    /// The score.
    pub score: FeatureDrift,
    /// Signals that exceeded in this window.
    pub exceeded: BTreeSet<String>,
    /// Signals that raise the alarm.
    pub alarms: Vec<String>,
    /// The verdict.
    pub status: DriftStatus,
    /// One sentence.
    pub reason: String,
    /// The thresholds used.
    pub policy: DriftPolicy,
}

impl Stored for DriftReport {
    const NAME: &'static str = "drift report";
}

impl DriftReport {
    /// What to keep for judging persistence later.
    #[must_use]
    pub fn summary(&self) -> WindowSummary {
        WindowSummary { ended_at: self.ended_at, layout: self.layout.clone(), exceeded: self.exceeded.clone() }
    }

    /// Whether the loop should do something about it.
    #[must_use]
    pub fn is_drifted(&self) -> bool {
        self.status == DriftStatus::Drifted
    }
}
