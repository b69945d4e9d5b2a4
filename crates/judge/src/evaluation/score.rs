//! Many rows through the code that serves, on all cores.

use delayd_features::FlightRow;
use delayd_model::{PredictScratch, Predictor};
use rayon::prelude::*;

pub fn score_rows<R: std::borrow::Borrow<FlightRow> + Sync>(predictor: &Predictor, rows: &[R]) -> Vec<f32> {
    rows.par_iter()
        .with_min_len(64)
        .map_init(PredictScratch::default, |scratch, row| predictor.predict(row.borrow(), scratch).score)
        .collect()
}
