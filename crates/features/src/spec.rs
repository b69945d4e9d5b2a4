//! The fitted transform, what is fitted to a training set before the network is, and the encoder that applies it: from a
//! raw row to what the network reads.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::NaiveDateTime;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::calendar::HolidayCalendar;
use crate::input::{CategoryInput, KnownWhen, NumericInput, SpecError, Transform};
use crate::row::{Airport, FlightRow, RawInputs, Tables};

/// One encoded category: its vocabulary, in index order from 1. Index 0 is the
/// bucket for values that were not seen often enough in training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CategoryFeature {
    pub input: CategoryInput,
    /// The values that have an index of their own, sorted.
    pub vocabulary: Vec<String>,
}

/// One standardised number: `clamp((transform(x) - mean) / std, ±limit)`; a
/// missing value becomes 0, and 1 in its indicator where it has one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumericFeature {
    pub input: String,
    /// How it is bent first.
    pub transform: Transform,
    pub mean: f32,
    pub std: f32,
    /// Whether a 0/1 column for "missing" follows the number.
    pub missing_indicator: bool,
}

/// The whole transform, serialisable and identified by its hash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureSpec {
    pub format: u32,
    /// Minutes before the scheduled departure at which the delay is predicted.
    pub horizon_minutes: u32,
    /// Encoded categories, in column order.
    pub categories: Vec<CategoryFeature>,
    /// Encoded numbers, in column order.
    pub numerics: Vec<NumericFeature>,
    /// Airports that were known at the fit.
    pub airports: BTreeMap<String, Airport>,
    pub holidays: HolidayCalendar,
}

/// Choices of a fit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FitOptions {
    pub categories: Vec<CategoryInput>,
    pub numerics: Vec<String>,
    /// A value must occur this often to have an index of its own.
    pub min_category_rows: usize,
    /// Minutes before departure at which is predicted.
    pub horizon_minutes: u32,
}

impl Default for FitOptions {
    fn default() -> Self {
        Self {
            categories: CategoryInput::ALL.to_vec(),
            numerics: NumericInput::ALL.iter().map(|input| input.name().to_owned()).collect(),
            min_category_rows: 20,
            horizon_minutes: 120,
        }
    }
}

/// How a spec differs from an earlier one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SpecDifference {
    pub added_values: BTreeMap<String, Vec<String>>,
    pub removed_values: BTreeMap<String, Vec<String>>,
    pub added_numerics: Vec<String>,
    pub removed_numerics: Vec<String>,
    /// Shift of each number's mean in old standard deviations, where over 0.1.
    pub mean_shift: BTreeMap<String, f32>,
}

/// A number is clamped at this many standard deviations.
pub(crate) const STANDARDISED_LIMIT: f32 = 5.0;

/// [`FeatureSpec::fit`], row by row.
pub struct SpecFit<'a> {
    airports: &'a BTreeMap<String, Airport>,
    holidays: &'a HolidayCalendar,
    options: &'a FitOptions,
    inputs: Vec<NumericInput>,
    tables: Tables,
    counts: Vec<HashMap<String, usize>>,
    moments: Vec<Moments>,
    rows: usize,
}

impl<'a> SpecFit<'a> {
    pub fn new(
        airports: &'a BTreeMap<String, Airport>,
        holidays: &'a HolidayCalendar,
        options: &'a FitOptions,
    ) -> Result<Self, SpecError> {
        let inputs = options.numerics.iter().map(|name| input_named(name)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            airports,
            holidays,
            options,
            tables: Tables::new(airports, holidays)?,
            counts: vec![HashMap::new(); options.categories.len()],
            moments: vec![Moments::default(); inputs.len()],
            inputs,
            rows: 0,
        })
    }

    pub fn add(&mut self, row: &FlightRow) {
        self.rows += 1;
        let raw = RawInputs::of(row, &self.tables);
        for (count, category) in self.counts.iter_mut().zip(&self.options.categories) {
            raw.with_category(row, *category, |value| match count.get_mut(value) {
                Some(rows) => *rows += 1,
                None => {
                    count.insert(value.to_owned(), 1);
                }
            });
        }
        for (moment, input) in self.moments.iter_mut().zip(&self.inputs) {
            moment.add(input.transform().apply(raw.numeric(*input)));
        }
    }

    pub fn finish(self) -> Result<FeatureSpec, SpecError> {
        if self.rows == 0 {
            return Err(SpecError::Empty);
        }
        let options = self.options;
        let categories = options.categories.iter().zip(self.counts).map(|(input, count)| {
            let kept = count.into_iter().filter(|(_, rows)| *rows >= options.min_category_rows);
            let vocabulary: BTreeSet<String> = kept.map(|(value, _)| value).collect();
            CategoryFeature { input: *input, vocabulary: vocabulary.into_iter().collect() }
        });
        let numerics = self.inputs.iter().zip(self.moments).map(|(input, moment)| NumericFeature {
            input: input.name().to_owned(),
            transform: input.transform(),
            mean: moment.mean(),
            std: moment.std(),
            missing_indicator: moment.missing_share() > 0.001,
        });
        Ok(FeatureSpec {
            format: FeatureSpec::FORMAT,
            horizon_minutes: options.horizon_minutes,
            categories: categories.collect(),
            numerics: numerics.collect(),
            airports: self.airports.clone(),
            holidays: self.holidays.clone(),
        })
    }
}

impl FeatureSpec {
    /// The format this build writes and reads.
    pub const FORMAT: u32 = 1;

    /// Fits vocabularies, means and deviations to rows.
    pub fn fit(
        rows: &[FlightRow],
        airports: &BTreeMap<String, Airport>,
        holidays: &HolidayCalendar,
        options: &FitOptions,
    ) -> Result<Self, SpecError> {
        let mut fit = SpecFit::new(airports, holidays, options)?;
        rows.iter().for_each(|row| fit.add(row));
        fit.finish()
    }

    /// The spec's identity: SHA-256 of its canonical JSON, in hex.
    pub fn hash(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        hex::encode(Sha256::digest(json))
    }

    /// Width of the numeric part of an encoded row, indicators included.
    pub fn numeric_width(&self) -> usize {
        self.numerics.iter().map(|feature| 1 + usize::from(feature.missing_indicator)).sum()
    }

    /// How many indexes each category has, the unseen bucket included.
    pub fn cardinalities(&self) -> Vec<usize> {
        self.categories.iter().map(|feature| feature.vocabulary.len() + 1).collect()
    }

    pub fn check(&self) -> Result<(), SpecError> {
        if self.format != Self::FORMAT {
            return Err(SpecError::Format { found: self.format, expected: Self::FORMAT });
        }
        for feature in &self.numerics {
            let input = input_named(&feature.input)?;
            debug_assert!(input.known_when() <= KnownWhen::PredictionTime);
            if !(feature.std.is_finite() && feature.std > 0.0 && feature.mean.is_finite()) {
                return Err(SpecError::Scale(feature.input.clone()));
            }
        }
        Ok(())
    }

    pub fn difference_from(&self, earlier: &Self) -> SpecDifference {
        let mut difference = SpecDifference::default();
        for feature in &self.categories {
            let before = earlier.categories.iter().find(|other| other.input == feature.input);
            let before: BTreeSet<&String> = before.map(|other| other.vocabulary.iter().collect()).unwrap_or_default();
            let now: BTreeSet<&String> = feature.vocabulary.iter().collect();
            let name = feature.input.name().to_owned();
            let added: Vec<String> = now.difference(&before).map(|value| (*value).clone()).collect();
            let removed: Vec<String> = before.difference(&now).map(|value| (*value).clone()).collect();
            if !added.is_empty() {
                difference.added_values.insert(name.clone(), added);
            }
            if !removed.is_empty() {
                difference.removed_values.insert(name, removed);
            }
        }
        for feature in &self.numerics {
            match earlier.numerics.iter().find(|other| other.input == feature.input) {
                None => difference.added_numerics.push(feature.input.clone()),
                Some(before) => {
                    let shift = (feature.mean - before.mean) / before.std;
                    if shift.abs() > 0.1 {
                        difference.mean_shift.insert(feature.input.clone(), shift);
                    }
                }
            }
        }
        let gone = earlier.numerics.iter().filter(|old| self.numerics.iter().all(|new| new.input != old.input));
        difference.removed_numerics = gone.map(|feature| feature.input.clone()).collect();
        difference
    }
}

pub(crate) fn input_named(name: &str) -> Result<NumericInput, SpecError> {
    NumericInput::from_name(name).ok_or_else(|| SpecError::UnknownInput(name.to_owned()))
}

/// Running mean and variance (Welford), skipping what is missing.
#[derive(Debug, Clone, Default)]
struct Moments {
    present: u64,
    missing: u64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, value: f32) {
        if !value.is_finite() {
            self.missing += 1;
            return;
        }
        self.present += 1;
        let delta = f64::from(value) - self.mean;
        self.mean += delta / self.present as f64;
        self.squares += delta * (f64::from(value) - self.mean);
    }

    fn mean(&self) -> f32 {
        self.mean as f32
    }

    fn std(&self) -> f32 {
        let variance = if self.present > 1 { self.squares / self.present as f64 } else { 0.0 };
        if variance > 1e-12 { variance.sqrt() as f32 } else { 1.0 }
    }

    fn missing_share(&self) -> f64 {
        self.missing as f64 / (self.missing + self.present).max(1) as f64
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// One index per category; 0 is the unseen bucket.
    pub categories: Vec<u32>,
    /// Standardised numbers, each followed by its missing indicator where it has one.
    pub numerics: Vec<f32>,
}

/// A spec made ready for use.
#[derive(Debug, Clone)]
pub struct Encoder {
    spec: FeatureSpec,
    tables: Tables,
    categories: Vec<(CategoryInput, HashMap<String, u32>)>,
    numerics: Vec<NumericInput>,
}

impl Encoder {
    /// Compiles a spec.
    pub fn new(spec: FeatureSpec) -> Result<Self, SpecError> {
        spec.check()?;
        let tables = Tables::new(&spec.airports, &spec.holidays)?;
        let categories = spec
            .categories
            .iter()
            .map(|feature| {
                let indexes = feature.vocabulary.iter().cloned().zip(1..).collect();
                (feature.input, indexes)
            })
            .collect();
        let numerics = spec.numerics.iter().map(|feature| input_named(&feature.input)).collect::<Result<_, _>>()?;
        Ok(Self { spec, tables, categories, numerics })
    }

    pub fn spec(&self) -> &FeatureSpec {
        &self.spec
    }

    /// Whether the airport was known at the fit.
    pub fn knows_airport(&self, code: &str) -> bool {
        self.tables.airports.contains_key(code)
    }

    /// The scheduled departure by the origin's clock; UTC where the airport is not known.
    pub fn local_departure(&self, row: &FlightRow) -> NaiveDateTime {
        self.tables.local(&row.origin, row.scheduled_departure)
    }

    /// Every input of a row, before encoding.
    pub fn raw(&self, row: &FlightRow) -> RawInputs {
        RawInputs::of(row, &self.tables)
    }

    /// Encodes a row into slices of `cardinalities().len()` and `numeric_width()` values.
    pub fn encode_into(&self, row: &FlightRow, categories: &mut [u32], numerics: &mut [f32]) {
        self.encode_raw_into(row, &self.raw(row), categories, numerics);
    }

    /// The same for a row whose raw inputs are known.
    pub fn encode_raw_into(&self, row: &FlightRow, raw: &RawInputs, categories: &mut [u32], numerics: &mut [f32]) {
        for (slot, (input, indexes)) in categories.iter_mut().zip(&self.categories) {
            *slot = raw.with_category(row, *input, |value| indexes.get(value).copied().unwrap_or(0));
        }
        let mut slots = numerics.iter_mut();
        for (feature, input) in self.spec.numerics.iter().zip(&self.numerics) {
            let value = feature.transform.apply(raw.numeric(*input));
            let missing = !value.is_finite();
            let scaled = (value - feature.mean) / feature.std;
            if let Some(slot) = slots.next() {
                *slot = if missing { 0.0 } else { scaled.clamp(-STANDARDISED_LIMIT, STANDARDISED_LIMIT) };
            }
            if feature.missing_indicator
                && let Some(slot) = slots.next()
            {
                *slot = f32::from(u8::from(missing));
            }
        }
    }

    pub fn encode(&self, row: &FlightRow) -> Encoded {
        let mut encoded =
            Encoded { categories: vec![0; self.categories.len()], numerics: vec![0.0; self.spec.numeric_width()] };
        self.encode_into(row, &mut encoded.categories, &mut encoded.numerics);
        encoded
    }
}
