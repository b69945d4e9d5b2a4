//! From a raw row to what the network reads.

use std::collections::HashMap;

use crate::error::SpecError;
use crate::input::{CategoryInput, NumericInput};
use crate::raw_inputs::{RawInputs, Tables};
use crate::row::FlightRow;
use crate::spec::{FeatureSpec, STANDARDISED_LIMIT, input_named};

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

    /// Every input of a row, before encoding.
    pub fn raw(&self, row: &FlightRow) -> RawInputs {
        RawInputs::of(row, &self.tables)
    }

    /// Encodes a row into slices of `cardinalities().len()` and `numeric_width()` values.
    pub fn encode_into(&self, row: &FlightRow, categories: &mut [u32], numerics: &mut [f32]) {
        self.encode_raw_into(row, &self.raw(row), categories, numerics);
    }

    /// The same for a row whose raw inputs are at hand.
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
