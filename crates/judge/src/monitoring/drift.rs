//! Has the input distribution shifted from training?
//!
//! A window of live counts is compared with the bundle's reference, bin by bin,
//! for every input and for the score. An input has drifted when the effect is
//! large (PSI above what chance explains), improbable (chi-square with the
//! effective sample size) and persistent (k of the last n windows); it alarms
//! alone only when the model really uses it. Diffuse drift shows in the
//! importance-weighted PSI of all inputs.
//!
//! The reference holds whole weeks, so a window must too: half a day or a
//! weekend has another mix of hours and would look like drift. Give the window
//! as its days ([`DriftWindow::from_days`]): how much days differ shows how many
//! independent observations there really are (see [`super::skew`]).
//!
//! Nothing here decides what follows from drift.

use delayd_core::Stored;
use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use delayd_features::{FlightRow, RawInputs};
use delayd_model::{DriftReference, Sketch, SketchError};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::monitoring::settings::DriftPolicy;
use crate::monitoring::skew::{Distances, design_effect, distances, shares};

/// Judges a window. `history` are the windows before it, in any order; only the
/// latest `policy.of_last_windows - 1` of the same bins count.
pub fn evaluate(
    reference: &DriftReference,
    window: &DriftWindow,
    history: &[WindowSummary],
    policy: &DriftPolicy,
) -> Result<DriftReport, SketchError> {
    let layout = reference.layout();
    if let Some(sketch) = std::iter::once(&window.sketch).chain(&window.days).find(|sketch| sketch.layout != layout) {
        return Err(SketchError { found: sketch.layout.clone(), expected: layout });
    }
    let past = Past::of(history, &layout, window.ended_at, policy);
    let mut features = compare_inputs(reference, window, &past, policy);
    let total: f64 = features.iter().map(|feature| feature.importance).sum();
    let dataset_psi = features.iter().map(|feature| contribution(feature, policy)).sum::<f64>() / total.max(1e-9);
    features.sort_by(|a, b| contribution(b, policy).total_cmp(&contribution(a, policy)));
    let score = compare_score(reference, window, &past, policy);
    let report = DriftReport {
        ended_at: window.ended_at,
        layout,
        rows: window.sketch.rows,
        days: window.days.iter().filter(|day| day.rows > 0).count() as u32,
        reference_rows: reference.rows,
        dataset_psi,
        features,
        score,
        exceeded: BTreeSet::new(),
        alarms: Vec::new(),
        status: DriftStatus::Stable,
        reason: String::new(),
        policy: policy.clone(),
    };
    Ok(conclude(report, &past, !window.days.is_empty()))
}

/// How often each signal exceeded before this window.
struct Past<'a> {
    windows: Vec<&'a WindowSummary>,
}

impl<'a> Past<'a> {
    fn of(history: &'a [WindowSummary], layout: &str, before: DateTime<Utc>, policy: &DriftPolicy) -> Self {
        let mut windows: Vec<&WindowSummary> =
            history.iter().filter(|past| past.layout == layout && past.ended_at < before).collect();
        windows.sort_by_key(|past| std::cmp::Reverse(past.ended_at));
        windows.truncate(policy.of_last_windows.saturating_sub(1) as usize);
        Self { windows }
    }

    /// Windows that exceeded, this one included.
    fn count(&self, signal: &str, now: bool) -> u32 {
        let before = self.windows.iter().filter(|past| past.exceeded.contains(signal)).count() as u32;
        before + u32::from(now)
    }
}

fn contribution(feature: &FeatureDrift, policy: &DriftPolicy) -> f64 {
    let counts =
        feature.distances.chi_square_p < policy.significance && !policy.ignored_inputs.contains(&feature.input);
    if counts { feature.importance * feature.distances.excess_psi.min(policy.psi_cap) } else { 0.0 }
}

fn compare_inputs(
    reference: &DriftReference,
    window: &DriftWindow,
    past: &Past<'_>,
    policy: &DriftPolicy,
) -> Vec<FeatureDrift> {
    let numerics = reference.numerics.iter().enumerate().filter_map(|(index, numeric)| {
        let days: Vec<&[u64]> =
            window.days.iter().filter_map(|day| Some(day.numerics.get(index)?.as_slice())).collect();
        let signal = Signal {
            input: &numeric.input,
            kind: SignalKind::Numeric,
            importance: numeric.importance,
            threshold: policy.feature_psi,
            reference: &numeric.counts,
            window: window.sketch.numerics.get(index)?,
            bins: interval_names(&numeric.edges),
        };
        Some(signal.judge(&days, past, policy))
    });
    let categories = reference.categories.iter().enumerate().filter_map(|(index, category)| {
        let days: Vec<&[u64]> =
            window.days.iter().filter_map(|day| Some(day.categories.get(index)?.as_slice())).collect();
        let mut bins = category.values.clone();
        bins.push("other".to_owned());
        let signal = Signal {
            input: category.input.name(),
            kind: SignalKind::Category,
            importance: category.importance,
            threshold: policy.feature_psi,
            reference: &category.counts,
            window: window.sketch.categories.get(index)?,
            bins,
        };
        Some(signal.judge(&days, past, policy))
    });
    numerics.chain(categories).collect()
}

/// The score's distribution against the reference's.
fn compare_score(
    reference: &DriftReference,
    window: &DriftWindow,
    past: &Past<'_>,
    policy: &DriftPolicy,
) -> FeatureDrift {
    let bins = DriftReference::SCORE_BINS;
    let edges: Vec<f32> = (1..bins).map(|edge| edge as f32 / bins as f32).collect();
    let mut names = interval_names(&edges);
    names.truncate(bins);
    let days: Vec<&[u64]> = window.days.iter().map(|day| day.scores.as_slice()).collect();
    let signal = Signal {
        input: SCORE,
        kind: SignalKind::Score,
        importance: 0.0,
        threshold: policy.score_psi,
        reference: &reference.score_counts,
        window: &window.sketch.scores,
        bins: names,
    };
    signal.judge(&days, past, policy)
}

/// One comparison, before it is judged.
struct Signal<'a> {
    input: &'a str,
    kind: SignalKind,
    importance: f64,
    threshold: f64,
    reference: &'a [u64],
    window: &'a [u64],
    bins: Vec<String>,
}

impl Signal<'_> {
    fn judge(self, days: &[&[u64]], past: &Past<'_>, policy: &DriftPolicy) -> FeatureDrift {
        let ordered = match self.kind {
            SignalKind::Numeric => self.reference.len().saturating_sub(1),
            SignalKind::Score => self.reference.len(),
            SignalKind::Category => 0,
        };
        let effect = design_effect(days).max(policy.minimum_design_effect);
        let distances = distances(self.reference, self.window, ordered, effect);
        let large = distances.excess_psi >= self.threshold;
        let improbable = distances.chi_square_p < policy.significance;
        let exceeded = large && improbable;
        let windows_exceeded = past.count(self.input, exceeded);
        let drifted = exceeded && windows_exceeded >= policy.persistent_windows;
        let size = format!("PSI {:.3} above chance", distances.excess_psi);
        let reason = match (large, improbable) {
            (false, _) => format!("{size} is under {}", self.threshold),
            (true, false) => {
                format!("{size} is large, but may be chance (p {:.3}): days differ as much", distances.chi_square_p)
            }
            (true, true) if drifted => {
                format!("{size} reaches {} in {windows_exceeded} of the last windows", self.threshold)
            }
            (true, true) => format!(
                "{size} reaches {}, but only in {windows_exceeded} of {} windows needed",
                self.threshold, policy.persistent_windows
            ),
        };
        FeatureDrift {
            input: self.input.to_owned(),
            kind: self.kind,
            importance: self.importance,
            distances,
            bins: self.bins,
            reference_shares: shares(self.reference),
            window_shares: shares(self.window),
            exceeded,
            windows_exceeded,
            drifted,
            reason,
        }
    }
}

fn conclude(mut report: DriftReport, past: &Past<'_>, days_known: bool) -> DriftReport {
    let policy = &report.policy;
    if report.rows < policy.minimum_rows || (days_known && report.days < policy.minimum_days) {
        report.status = DriftStatus::TooFewRows;
        report.reason = format!(
            "{} rows on {} days are too few to judge; {} rows on {} days are needed",
            report.rows, report.days, policy.minimum_rows, policy.minimum_days
        );
        return report;
    }
    let mut exceeded: BTreeSet<String> =
        report.features.iter().chain([&report.score]).filter(|f| f.exceeded).map(|f| f.input.clone()).collect();
    let whole = report.dataset_psi >= policy.dataset_psi;
    if whole {
        exceeded.insert(DATASET.to_owned());
    }
    let alone = |feature: &FeatureDrift| {
        feature.importance >= policy.important_share && !policy.ignored_inputs.contains(&feature.input)
    };
    let mut suspected: Vec<&str> = Vec::new();
    let mut alarms: Vec<String> = Vec::new();
    let judged = report.features.iter().filter(|feature| alone(feature)).chain([&report.score]);
    for (name, now) in judged.map(|feature| (feature.input.as_str(), feature.exceeded)).chain([(DATASET, whole)]) {
        if now && past.count(name, now) >= policy.persistent_windows {
            alarms.push(name.to_owned());
        } else if now {
            suspected.push(name);
        }
    }
    (report.status, report.reason) = if !alarms.is_empty() {
        (DriftStatus::Drifted, format!("{} drifted: {}", alarms.join(", "), lead(&report, &alarms)))
    } else if !suspected.is_empty() {
        let needed = policy.persistent_windows;
        let text =
            format!("{} shifted, but not yet in {needed} of {} windows", suspected.join(", "), policy.of_last_windows);
        (DriftStatus::Suspected, text)
    } else {
        let minor = exceeded.len();
        let text = format!(
            "importance-weighted PSI {:.3} is under {} and no important input shifted ({minor} minor ones did)",
            report.dataset_psi, policy.dataset_psi
        );
        (DriftStatus::Stable, text)
    };
    report.exceeded = exceeded;
    report.alarms = alarms;
    report
}

/// The numbers behind the first alarm.
fn lead(report: &DriftReport, alarms: &[String]) -> String {
    let named = |name: &String| report.features.iter().chain([&report.score]).find(|feature| feature.input == *name);
    match alarms.first().and_then(named) {
        Some(feature) => format!("{} ({} rows, importance {:.2})", feature.reason, report.rows, feature.importance),
        None => format!(
            "importance-weighted PSI {:.3} reaches {}, led by {}",
            report.dataset_psi,
            report.policy.dataset_psi,
            report.features.iter().take(3).map(|feature| feature.input.as_str()).collect::<Vec<_>>().join(", ")
        ),
    }
}

fn interval_names(edges: &[f32]) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(edges.len() + 2);
    match (edges.first(), edges.last()) {
        (Some(first), Some(last)) => {
            names.push(format!("< {first}"));
            names.extend(edges.windows(2).map(|pair| format!("{} to {}", pair[0], pair[1])));
            names.push(format!(">= {last}"));
        }
        _ => names.push("any".to_owned()),
    }
    names.push("missing".to_owned());
    names
}

#[derive(Debug, Clone, Copy)]
pub struct CountedFlight<'a> {
    pub row: &'a FlightRow,
    pub raw: &'a RawInputs,
    pub score: f32,
}

/// Counts flights into the reference's bins on all cores; the replicas do the
/// same one by one. For flights in bulk, and for the benchmark.
pub fn count_flights(reference: &DriftReference, flights: &[CountedFlight<'_>]) -> Result<Sketch, SketchError> {
    const CHUNK: usize = 16_384;
    let (counter, empty) = (reference.counter(), reference.empty_sketch());
    let count = |chunk: &[CountedFlight<'_>]| {
        let mut sketch = empty.clone();
        chunk.iter().for_each(|flight| counter.count(&mut sketch, flight.row, flight.raw, flight.score));
        Ok(sketch)
    };
    let add = |mut sum: Sketch, part: Sketch| sum.merge(&part).map(|()| sum);
    flights.par_chunks(CHUNK).map(count).try_reduce(|| empty.clone(), add)
}

/// Name of the score among the signals of a window.
pub const SCORE: &str = "score";
/// Name of the importance-weighted sum among the signals of a window.
pub const DATASET: &str = "dataset";

/// What was counted in a window, as a sum and day by day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriftWindow {
    pub ended_at: DateTime<Utc>,
    pub sketch: Sketch,
    /// Its days; may be empty where only the sum is known.
    pub days: Vec<Sketch>,
}

impl DriftWindow {
    /// A window from its days; `None` when there are none.
    pub fn from_days(ended_at: DateTime<Utc>, days: Vec<Sketch>) -> Result<Option<Self>, SketchError> {
        let Some((first, rest)) = days.split_first() else { return Ok(None) };
        let mut sketch = first.clone();
        for day in rest {
            sketch.merge(day)?;
        }
        Ok(Some(Self { ended_at, sketch, days }))
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowSummary {
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
    pub input: String,
    pub kind: SignalKind,
    /// How much the model uses it, 0 to 1 (0 for the score).
    pub importance: f64,
    pub distances: Distances,
    /// Bins for people: intervals, values, `missing`, `other`.
    pub bins: Vec<String>,
    pub reference_shares: Vec<f64>,
    pub window_shares: Vec<f64>,
    /// Whether this window exceeds the thresholds.
    pub exceeded: bool,
    /// In how many of the last windows it did, this one included.
    pub windows_exceeded: u32,
    /// Exceeded, and persistently.
    pub drifted: bool,
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
    pub layout: String,
    pub rows: u64,
    pub days: u32,
    pub reference_rows: u64,
    /// Importance-weighted PSI (capped, significant inputs only).
    pub dataset_psi: f64,
    /// Inputs, by falling contribution.
    pub features: Vec<FeatureDrift>,
    pub score: FeatureDrift,
    pub exceeded: BTreeSet<String>,
    pub alarms: Vec<String>,
    pub status: DriftStatus,
    pub reason: String,
    pub policy: DriftPolicy,
}

impl Stored for DriftReport {
    const NAME: &'static str = "drift report";
}

impl DriftReport {
    pub fn summary(&self) -> WindowSummary {
        WindowSummary { ended_at: self.ended_at, layout: self.layout.clone(), exceeded: self.exceeded.clone() }
    }

    pub fn is_drifted(&self) -> bool {
        self.status == DriftStatus::Drifted
    }
}
