//! What the training set looked like, as counts in fixed bins, and the same bins
//! filled by live traffic. Counts add up across replicas and windows, so watching
//! drift costs the same at ten requests or ten million.

use std::collections::HashMap;

use delayd_features::{CategoryInput, FeatureSpec, FlightRow, NumericInput, RawInputs};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Bins of one number: `edges.len() + 1` bins, then one for "missing".
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumericReference {
    pub input: String,
    /// Ascending inner edges; a value on an edge belongs to the bin above it.
    pub edges: Vec<f32>,
    /// Rows per bin in the reference, the last for missing values.
    pub counts: Vec<u64>,
    /// How much the model uses it: the share of the total loss of ROC-AUC when
    /// each input is shuffled in turn; all together add up to 1.
    pub importance: f64,
}

/// Counts of one category: one per value, then one for all others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CategoryReference {
    pub input: CategoryInput,
    /// Values with a bin of their own.
    pub values: Vec<String>,
    /// Rows per value in the reference, the last for all others.
    pub counts: Vec<u64>,
    /// As in [`NumericReference::importance`].
    pub importance: f64,
}

/// The reference of a model version.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriftReference {
    /// Rows it was counted over.
    pub rows: u64,
    pub numerics: Vec<NumericReference>,
    pub categories: Vec<CategoryReference>,
    /// Scores in [`DriftReference::SCORE_BINS`] equal bins from 0 to 1.
    pub score_counts: Vec<u64>,
}

/// Two sketches, or a sketch and a reference, that do not have the same bins.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("sketch has the bins of reference {found}, not of {expected}")]
pub struct SketchError {
    pub found: String,
    pub expected: String,
}

/// Live counts in a reference's bins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sketch {
    /// [`DriftReference::layout`] of the reference it belongs to.
    pub layout: String,
    pub rows: u64,
    pub numerics: Vec<Vec<u64>>,
    pub categories: Vec<Vec<u64>>,
    pub scores: Vec<u64>,
}

impl DriftReference {
    pub const SCORE_BINS: usize = 20;
    /// Quantile bins of a number, at most.
    const NUMERIC_BINS: usize = 10;
    /// Values of a category with a bin of their own, at most: the most frequent.
    const CATEGORY_BINS: usize = 40;

    /// Counts a training (or reference) set. `scores` are the model's own scores
    /// of the same rows; `importance` gives each input's weight by name.
    pub fn build(
        spec: &FeatureSpec,
        rows: &[FlightRow],
        raws: &[RawInputs],
        scores: &[f32],
        importance: &HashMap<String, f64>,
    ) -> Self {
        let weight = |name: &str| importance.get(name).copied().unwrap_or(0.0);
        let inputs = spec.numerics.iter().filter_map(|feature| NumericInput::from_name(&feature.input));
        let numerics = inputs.map(|input| {
            let edges = quantile_edges(raws.iter().map(|raw| raw.numeric(input)));
            NumericReference {
                input: input.name().to_owned(),
                counts: vec![0; edges.len() + 2],
                edges,
                importance: weight(input.name()),
            }
        });
        let categories = spec.categories.iter().map(|feature| {
            let mut counts: HashMap<String, u64> = HashMap::new();
            for (row, raw) in rows.iter().zip(raws) {
                raw.with_category(row, feature.input, |value| match counts.get_mut(value) {
                    Some(count) => *count += 1,
                    None => {
                        counts.insert(value.to_owned(), 1);
                    }
                });
            }
            let mut frequent: Vec<(String, u64)> = counts.into_iter().collect();
            frequent.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            frequent.truncate(Self::CATEGORY_BINS);
            let values: Vec<String> = frequent.into_iter().map(|(value, _)| value).collect();
            CategoryReference {
                input: feature.input,
                counts: vec![0; values.len() + 1],
                values,
                importance: weight(feature.input.name()),
            }
        });
        let mut reference = Self {
            rows: rows.len() as u64,
            numerics: numerics.collect(),
            categories: categories.collect(),
            score_counts: vec![0; Self::SCORE_BINS],
        };
        let mut sketch = reference.empty_sketch();
        let counter = reference.counter();
        for ((row, raw), score) in rows.iter().zip(raws).zip(scores) {
            counter.count(&mut sketch, row, raw, *score);
        }
        for (numeric, counts) in reference.numerics.iter_mut().zip(sketch.numerics) {
            numeric.counts = counts;
        }
        for (category, counts) in reference.categories.iter_mut().zip(sketch.categories) {
            category.counts = counts;
        }
        reference.score_counts = sketch.scores;
        reference
    }

    /// The identity of the bins (not of the counts): sketches of equal layout add up.
    pub fn layout(&self) -> String {
        let mut hash = Sha256::new();
        // Lengths go first, so that no two layouts run into the same bytes.
        let text = |hash: &mut Sha256, text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        };
        for numeric in &self.numerics {
            text(&mut hash, &numeric.input);
            hash.update((numeric.edges.len() as u64).to_le_bytes());
            numeric.edges.iter().for_each(|edge| hash.update(edge.to_le_bytes()));
        }
        for category in &self.categories {
            text(&mut hash, category.input.name());
            hash.update((category.values.len() as u64).to_le_bytes());
            category.values.iter().for_each(|value| text(&mut hash, value));
        }
        hex::encode(&hash.finalize()[..8])
    }

    pub fn empty_sketch(&self) -> Sketch {
        Sketch {
            layout: self.layout(),
            rows: 0,
            numerics: self.numerics.iter().map(|numeric| vec![0; numeric.edges.len() + 2]).collect(),
            categories: self.categories.iter().map(|category| vec![0; category.values.len() + 1]).collect(),
            scores: vec![0; Self::SCORE_BINS],
        }
    }

    /// The reference made ready for counting row by row.
    pub fn counter(&self) -> SketchCounter {
        let numerics =
            self.numerics.iter().map(|numeric| (NumericInput::from_name(&numeric.input), numeric.edges.clone()));
        let categories = self.categories.iter().map(|category| {
            let bins = category.values.iter().cloned().zip(0..).collect();
            (category.input, bins, category.values.len())
        });
        SketchCounter { numerics: numerics.collect(), categories: categories.collect() }
    }
}

/// A reference's bins, compiled for counting.
#[derive(Debug, Clone)]
pub struct SketchCounter {
    numerics: Vec<(Option<NumericInput>, Vec<f32>)>,
    categories: Vec<(CategoryInput, HashMap<String, usize>, usize)>,
}

impl SketchCounter {
    /// Counts one row into a sketch of the same reference.
    pub fn count(&self, sketch: &mut Sketch, row: &FlightRow, raw: &RawInputs, score: f32) {
        sketch.rows += 1;
        for ((input, edges), counts) in self.numerics.iter().zip(&mut sketch.numerics) {
            let value = input.map_or(f32::NAN, |input| raw.numeric(input));
            if let Some(slot) = counts.get_mut(bin_of(edges, value)) {
                *slot += 1;
            }
        }
        for ((input, bins, others), counts) in self.categories.iter().zip(&mut sketch.categories) {
            let bin = raw.with_category(row, *input, |value| bins.get(value).copied().unwrap_or(*others));
            if let Some(slot) = counts.get_mut(bin) {
                *slot += 1;
            }
        }
        let bin = (score * DriftReference::SCORE_BINS as f32).max(0.0) as usize;
        if let Some(slot) = sketch.scores.get_mut(bin.min(DriftReference::SCORE_BINS - 1)) {
            *slot += 1;
        }
    }
}

/// The bin of a value; the last, after all intervals, for `NaN`.
fn bin_of(edges: &[f32], value: f32) -> usize {
    if value.is_nan() { edges.len() + 1 } else { edges.partition_point(|edge| *edge <= value) }
}

impl Sketch {
    /// Adds another sketch of the same bins.
    pub fn merge(&mut self, other: &Self) -> Result<(), SketchError> {
        self.combine(other, u64::saturating_add)
    }

    /// Subtracts an earlier state of the same counters: what came in between.
    pub fn subtract(&mut self, earlier: &Self) -> Result<(), SketchError> {
        self.combine(earlier, u64::saturating_sub)
    }

    fn combine(&mut self, other: &Self, apply: fn(u64, u64) -> u64) -> Result<(), SketchError> {
        if self.layout != other.layout {
            return Err(SketchError { found: other.layout.clone(), expected: self.layout.clone() });
        }
        self.rows = apply(self.rows, other.rows);
        let mine = self.numerics.iter_mut().chain(&mut self.categories).chain(std::iter::once(&mut self.scores));
        let theirs = other.numerics.iter().chain(&other.categories).chain(std::iter::once(&other.scores));
        for (counts, others) in mine.zip(theirs) {
            counts.iter_mut().zip(others).for_each(|(count, other)| *count = apply(*count, *other));
        }
        Ok(())
    }
}

/// Distinct deciles of the values that are there.
fn quantile_edges(values: impl Iterator<Item = f32>) -> Vec<f32> {
    let mut sorted: Vec<f32> = values.filter(|value| value.is_finite()).collect();
    sorted.sort_by(f32::total_cmp);
    let bins = DriftReference::NUMERIC_BINS;
    let mut edges: Vec<f32> = (1..bins).filter_map(|n| sorted.get(sorted.len() * n / bins).copied()).collect();
    edges.dedup();
    // An edge at the smallest value would leave an empty bin below it.
    if edges.len() > 1 && edges.first() == sorted.first() {
        edges.remove(0);
    }
    edges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_an_edge_belongs_to_the_bin_above_and_nan_to_the_last() {
        let edges = [1.0, 2.0];
        let bins: Vec<usize> = [0.5, 1.0, 1.5, 2.0, 9.0, f32::NAN].iter().map(|value| bin_of(&edges, *value)).collect();
        assert_eq!(bins, [0, 1, 1, 2, 2, 3]);
    }

    #[test]
    fn sketches_of_two_replicas_add_up_and_an_earlier_state_can_be_taken_away() {
        let sketch = |a, b| Sketch {
            layout: "x".into(),
            rows: a + b,
            numerics: vec![vec![a, b]],
            categories: vec![],
            scores: vec![a, b],
        };
        let mut sum = sketch(1, 2);
        sum.merge(&sketch(10, 20)).unwrap();
        assert_eq!(sum, sketch(11, 22));
        sum.subtract(&sketch(1, 2)).unwrap();
        assert_eq!(sum, sketch(10, 20));
    }

    #[test]
    fn sketches_of_different_references_are_not_mixed() {
        let sketch = |layout: &str| Sketch {
            layout: layout.into(),
            rows: 0,
            numerics: vec![],
            categories: vec![],
            scores: vec![],
        };
        assert!(sketch("a").merge(&sketch("b")).is_err());
    }

    #[test]
    fn a_constant_number_has_one_edge_and_a_mostly_zero_one_keeps_its_tail() {
        assert_eq!(quantile_edges(std::iter::repeat_n(3.0, 100)), [3.0]);
        let mostly_zero = (0..100).map(|n| if n < 85 { 0.0 } else { n as f32 });
        assert_eq!(quantile_edges(mostly_zero), [90.0]);
    }
}
