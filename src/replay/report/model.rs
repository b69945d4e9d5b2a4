//! What `report.json` holds. `docs/report.md` documents every key with its unit;
//! a change here is a change there.
//!
//! Times are on the replay's clock unless a name says `wall`.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use delayd_core::ids::{CycleId, ModelVersion};

/// Everything a replay found out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The live service: every flight judged by the model that was live then.
    #[serde(rename = "loop")]
    pub live_loop: PooledMetrics,
    /// The first model, never replaced, on the same flights.
    pub frozen: PooledMetrics,
    /// The lookup table, on the same flights.
    pub lookup: PooledMetrics,
    /// The loop's ROC-AUC minus the frozen model's; `null` where either is missing.
    pub ci: Option<DifferenceInterval>,
    /// Every model that was live, in order.
    pub models: Vec<LiveModel>,
    /// Every pass of the loop, in order.
    pub cycles: Vec<Cycle>,
    /// Every evaluation of drift, alarms or not, in order.
    pub drift: Vec<DriftAlarm>,
    /// Week by week.
    pub over_time: Vec<Week>,
    /// Scores against what came of the flights.
    pub reliability: Reliability,
    /// HTTP requests that the live service was sent.
    pub requests: u64,
    /// Requests among them that failed.
    pub request_errors: u64,
    /// Flights predicted, those without an outcome too.
    pub predictions: u64,
    /// Cycles started for drift whose model did not go live.
    pub false_alarms: u64,
    /// Seconds from the first sign of drift to the alarm, by the cycle it started.
    pub detection_secs: BTreeMap<CycleId, f64>,
    /// Seconds from the alarm until the new model was live, by cycle.
    pub drift_to_live_secs: BTreeMap<CycleId, f64>,
    /// The stretch of history that was replayed.
    pub simulated: Simulated,
    /// Seconds that the replay took.
    pub wall_secs: f64,
    /// Seed of everything random.
    pub seed: u64,
    /// What was replayed.
    pub dataset: DatasetInfo,
}

/// Metrics over all flights whose outcome is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PooledMetrics {
    pub rows: u64,
    /// Area under the ROC curve; `null` where one class is missing.
    pub roc_auc: Option<f64>,
    /// Average precision.
    pub pr_auc: Option<f64>,
    /// Log-loss in nats.
    pub log_loss: Option<f64>,
    /// Expected calibration error over 15 bins of equal width.
    pub ece: Option<f64>,
    /// Share of the delayed flights that were called delayed.
    pub recall: f64,
    /// Share of the flights called delayed that were.
    pub precision: f64,
    /// From which score a flight is called delayed; `null` for the loop, where
    /// each model brings its own (see `models`).
    pub threshold: Option<f32>,
}

/// A difference of ROC-AUC with its bootstrap interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DifferenceInterval {
    /// Loop minus frozen.
    pub difference: f64,
    pub low: f64,
    pub high: f64,
    /// Confidence level, 0.95.
    pub confidence: f64,
    /// How often whole days were drawn.
    pub resamples: u32,
}

/// One model that was live.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiveModel {
    pub version: ModelVersion,
    /// Why it was trained.
    pub reason: String,
    /// Flights it was trained on.
    pub trained_rows: u64,
    /// From which score it calls a flight delayed.
    pub threshold: f32,
    /// Its bundle's `metrics.json`, from when it was trained.
    pub metrics: serde_json::Value,
    /// When it went live.
    pub live_from: DateTime<Utc>,
    /// When another took over; `null` while it is live.
    pub live_until: Option<DateTime<Utc>>,
}

/// One pass of the loop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cycle {
    pub id: CycleId,
    pub reason: String,
    /// How it ended, as the ledger names it: `deployed`, `kept_live`, `rolled_back`, `failed`, …
    pub outcome: String,
    pub detail: String,
    pub started_at: DateTime<Utc>,
    /// Wall seconds of each step, in the order in which they ran.
    pub seconds_by_step: StepSeconds,
    /// Wall seconds in all.
    pub total_secs: f64,
}

/// One evaluation of drift.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriftAlarm {
    pub at: DateTime<Utc>,
    /// The live model, against whose reference it was measured.
    pub model: ModelVersion,
    /// Feature by feature.
    pub features: Vec<FeatureDrift>,
    /// Drift of the dataset as a whole: PSI weighed by importance.
    pub dataset_score: f64,
    /// Whether it was drift: large, lasting, and in what the model uses.
    pub drifted: bool,
    pub reason: String,
}

/// How far one feature has moved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureDrift {
    pub name: String,
    /// Population stability index.
    pub psi: f64,
    /// Jensen-Shannon distance, 0 to 1.
    pub js_distance: f64,
    /// The model's use of it: share of all features' importance.
    pub importance: f64,
}

/// One week of flights, Monday to Sunday by scheduled departure in UTC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Week {
    pub week_start: NaiveDate,
    /// Flights whose outcome is known.
    pub rows: u64,
    /// Share of them that were delayed; `null` without rows.
    pub delayed_share: Option<f64>,
    /// The model that judged most of the week's flights.
    pub live_model: ModelVersion,
    /// The live service.
    #[serde(rename = "loop")]
    pub live_loop: WeekMetrics,
    /// The first model, never replaced.
    pub frozen: WeekMetrics,
    /// The lookup table.
    pub lookup: WeekMetrics,
}

/// A week's metrics; `null` where the week does not have them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeekMetrics {
    /// Area under the ROC curve.
    pub roc_auc: Option<f64>,
    /// Log-loss in nats.
    pub log_loss: Option<f64>,
    /// Expected calibration error.
    pub ece: Option<f64>,
}

/// Fifteen bins of equal width, empty ones too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reliability {
    /// The live service.
    #[serde(rename = "loop")]
    pub live_loop: Vec<ReliabilityBin>,
    /// The first model, never replaced.
    pub frozen: Vec<ReliabilityBin>,
}

/// One bin of scores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReliabilityBin {
    /// Mean score of its flights; `null` without rows.
    pub mean_score: Option<f64>,
    /// Share of its flights that were delayed; `null` without rows.
    pub observed_share: Option<f64>,
    pub rows: u64,
}

/// A stretch of the replay's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Simulated {
    pub from: DateTime<Utc>,
    pub until: DateTime<Utc>,
}

/// What was replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetInfo {
    /// Its name, for people: "Flights out of New York, 2013".
    pub name: String,
    /// Where it comes from and its licence.
    pub source: String,
    /// Digest of the exact files.
    pub digest: String,
    /// Flights in it, those of the training history too.
    pub rows: u64,
}

/// Wall seconds of each step of a cycle, in the order in which they ran: JSON writes it as an object, and a `BTreeMap`
/// would sort it by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepSeconds(pub Vec<(String, f64)>);

impl StepSeconds {
    pub fn of(&self, step: &str) -> Option<f64> {
        self.0.iter().find(|(name, _)| name == step).map(|(_, secs)| *secs)
    }
}

impl<S: Into<String>> FromIterator<(S, f64)> for StepSeconds {
    fn from_iter<I: IntoIterator<Item = (S, f64)>>(steps: I) -> Self {
        Self(steps.into_iter().map(|(step, secs)| (step.into(), secs)).collect())
    }
}

impl Serialize for StepSeconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(step, secs)| (step, secs)))
    }
}

impl<'de> Deserialize<'de> for StepSeconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = StepSeconds;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of seconds by step")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StepSeconds, A::Error> {
                let mut steps = Vec::new();
                while let Some(step) = map.next_entry()? {
                    steps.push(step);
                }
                Ok(StepSeconds(steps))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_keep_their_order_through_json() {
        let steps: StepSeconds = [("train", 9.5), ("gate", 1.0), ("approve", 0.1)].into_iter().collect();
        let json = serde_json::to_string(&steps).unwrap();
        assert_eq!(json, r#"{"train":9.5,"gate":1.0,"approve":0.1}"#);
        assert_eq!(serde_json::from_str::<StepSeconds>(&json).unwrap(), steps);
        assert_eq!(steps.of("gate"), Some(1.0));
        assert_eq!(steps.of("push"), None);
    }
}
