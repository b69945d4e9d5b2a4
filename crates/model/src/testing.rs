//! A small bundle that is real in every part but its training: random weights,
//! a spec fitted on synthetic flights, a drift reference and golden rows that
//! come out. For the tests and benches of every crate that needs a bundle;
//! behind the feature `testing`, never part of a release.
#![allow(clippy::expect_used)] // Test support: a failure here is a broken test.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Duration, Utc};
use delayd_features::{Airport, Encoder, FeatureSpec, FitOptions, FlightRow, HolidayCalendar, NumericInput, RawInputs};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::{
    Architecture, Bundle, Calibration, DelayNet, DriftReference, GoldenRow, ModelFile, PredictScratch, Predictor,
};

/// Airports of the synthetic flights.
pub fn tiny_airports() -> BTreeMap<String, Airport> {
    let airport = |latitude_deg, longitude_deg, zone: &str| Airport {
        latitude_deg,
        longitude_deg,
        elevation_ft: 20.0,
        time_zone: zone.to_owned(),
    };
    BTreeMap::from([
        ("JFK".to_owned(), airport(40.64, -73.78, "America/New_York")),
        ("LGA".to_owned(), airport(40.78, -73.87, "America/New_York")),
        ("ORD".to_owned(), airport(41.98, -87.90, "America/Chicago")),
        ("LAX".to_owned(), airport(33.94, -118.41, "America/Los_Angeles")),
    ])
}

/// Synthetic flights between [`tiny_airports`], the same for the same seed.
pub fn tiny_rows(seed: u64, count: usize) -> Vec<FlightRow> {
    let mut random = SplitMix(seed);
    let first: DateTime<Utc> = "2013-03-01T10:00:00Z".parse().expect("a valid date");
    let row = |n: usize| {
        let carrier = ["B6", "AA", "UA"][random.below(3)];
        let (origin, dest) = [("JFK", "LAX"), ("JFK", "ORD"), ("LGA", "ORD")][random.below(3)];
        let departure = first + Duration::minutes(17 * n as i64);
        let number = 1 + random.below(900) as u32;
        let mut row = FlightRow::scheduled(carrier, number, origin, dest, departure);
        row.scheduled_arrival = Some(departure + Duration::minutes(120 + random.below(240) as i64));
        for input in NumericInput::ALL.iter().filter(|input| input.is_context()) {
            if random.below(20) > 0 {
                row.set(*input, 20.0 * random.unit());
            }
        }
        row
    };
    (0..count).map(row).collect()
}

/// A bundle over [`tiny_rows`]; another seed gives other weights and another digest.
pub fn tiny_bundle(seed: u64) -> Bundle {
    bundle_of(seed, 32, 2, 2)
}

/// As [`tiny_bundle`], with the width, blocks and members of a full network.
pub fn bundle_of(seed: u64, hidden: usize, blocks: usize, members: usize) -> Bundle {
    let rows = tiny_rows(seed, 400);
    let spec = FeatureSpec::fit(&rows, &tiny_airports(), &HolidayCalendar::us_federal(), &FitOptions::default())
        .expect("the synthetic flights can be fitted");
    let architecture = Architecture {
        cardinalities: spec.cardinalities(),
        embedding_widths: spec.cardinalities().iter().map(|size| (*size).min(4)).collect(),
        numeric_width: spec.numeric_width(),
        hidden,
        blocks,
        members,
    };
    let weights = random_weights(&architecture, seed);
    let model = ModelFile { architecture, calibration: Calibration { slope: 1.2, intercept: -0.9 }, threshold: 0.3 };
    let encoder = Encoder::new(spec.clone()).expect("the spec was fitted by this build");
    let net = DelayNet::from_safetensors(&model.architecture, &weights).expect("the weights fit the architecture");
    let predictor = Predictor::new(encoder, net, model.calibration, model.threshold);
    let mut scratch = PredictScratch::default();
    let scores: Vec<f32> = rows.iter().map(|row| predictor.predict(row, &mut scratch).score).collect();
    let raws: Vec<RawInputs> = rows.iter().map(|row| predictor.encoder().raw(row)).collect();
    let golden = rows.iter().zip(&scores).take(16).map(|(row, score)| GoldenRow::record(row, *score)).collect();
    Bundle {
        reference: DriftReference::build(&spec, &rows, &raws, &scores, &HashMap::new()),
        features: spec,
        model,
        weights,
        golden,
        metrics: serde_json::json!({ "roc_auc": 0.5 }),
        training: serde_json::json!({ "seed": seed }),
        card: "# A model for tests\n".to_owned(),
    }
}

/// Random tensors of an architecture, as a safetensors file.
pub fn random_weights(architecture: &Architecture, seed: u64) -> Vec<u8> {
    let mut random = SplitMix(seed);
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = architecture
        .tensors()
        .into_iter()
        .map(|(name, shape)| {
            // Rows of a matrix keep the size of what they are multiplied with.
            let scale = 1.7 / (*shape.last().unwrap_or(&1) as f32).sqrt();
            let centre = if name.ends_with("norm.weight") { 1.0 } else { 0.0 };
            let count: usize = shape.iter().product();
            let values = (0..count).flat_map(|_| (centre + scale * (2.0 * random.unit() - 1.0)).to_le_bytes());
            let values = values.collect();
            (name, shape, values)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).expect("the bytes fit the shape"))
    });
    safetensors::serialize(views, None).expect("the tensors can be written")
}

/// SplitMix64 (Steele, Lea and Flood 2014): enough for test data, no dependency.
#[derive(Debug)]
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1_u64 << 24) as f32
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}
