//! How much the model uses each input: the loss of ROC-AUC when the input is
//! shuffled among rows (permutation importance, Breiman 2001).

use std::collections::HashMap;

use delayd_features::FeatureSpec;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use tch::Tensor;

use crate::error::{TrainingError, WhileDoing, stop_if_asked};
use crate::network::{Member, ensemble_logits};
use crate::tensors::{EncodedRows, LabelledRows};
use crate::weights::numeric_columns;
use delayd_judge::evaluation::metrics::roc_auc;
use delayd_training_job::control::TrainingControl;

/// Rows it is measured on, at most.
const ROWS: usize = 3000;

/// Each input's share of the total loss of ROC-AUC, by name; what does not matter
/// (or helps when shuffled) has 0.
pub(crate) fn permutation_importance(
    members: &[Member],
    spec: &FeatureSpec,
    tail: &LabelledRows,
    seed: u64,
    control: &TrainingControl,
) -> Result<HashMap<String, f64>, TrainingError> {
    let sample = tail.thinned(ROWS)?;
    let auc = |inputs: &EncodedRows| -> Result<f64, TrainingError> {
        Ok(roc_auc(&ensemble_logits(members, inputs)?, &sample.labels).unwrap_or(0.5))
    };
    let whole = auc(&sample.inputs)?;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut order: Vec<i64> = (0..sample.rows() as i64).collect();
    let mut losses = HashMap::new();
    for (index, feature) in spec.categories.iter().enumerate() {
        stop_if_asked(control, 0)?;
        order.shuffle(&mut random);
        let categories = shuffled(&sample.inputs.categories, index, 1, &order)?;
        let inputs = EncodedRows { categories, ..sample.inputs.share() };
        losses.insert(feature.input.name().to_owned(), (whole - auc(&inputs)?).max(0.0));
    }
    for (index, column, indicator) in numeric_columns(spec, 0) {
        stop_if_asked(control, 0)?;
        order.shuffle(&mut random);
        let numerics = shuffled(&sample.inputs.numerics, column, 1 + usize::from(indicator.is_some()), &order)?;
        let inputs = EncodedRows { numerics, ..sample.inputs.share() };
        losses.insert(spec.numerics[index].input.clone(), (whole - auc(&inputs)?).max(0.0));
    }
    // Summed in the order of the names: the digest must not depend on a hash map's order.
    let mut sorted: Vec<(&String, &f64)> = losses.iter().collect();
    sorted.sort_unstable_by_key(|(name, _)| *name);
    let total: f64 = sorted.iter().map(|(_, loss)| **loss).sum();
    if total > 0.0 {
        losses.values_mut().for_each(|loss| *loss /= total);
    }
    Ok(losses)
}

/// The matrix with some neighbouring columns in another order of rows.
fn shuffled(matrix: &Tensor, column: usize, width: usize, order: &[i64]) -> Result<Tensor, TrainingError> {
    let shuffle = || {
        let order_rows = order.len() as i64;
        let order = Tensor::f_from_slice(order)?.f_to_device(matrix.device())?;
        let copied = matrix.f_narrow_copy(0, 0, order_rows)?;
        let mut target = copied.f_narrow(1, column as i64, width as i64)?;
        let source = matrix.f_narrow(1, column as i64, width as i64)?.f_index_select(0, &order)?;
        target.f_copy_(&source)?;
        Ok(copied)
    };
    shuffle().while_doing("shuffling a column")
}
