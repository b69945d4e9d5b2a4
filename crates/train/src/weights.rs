//! The weights of one member outside libtorch: drawn at random, taken over from an
//! earlier model, or written and read as safetensors.
//!
//! All randomness comes from the run's own generator, never from libtorch's global
//! one, so that members and trials can run side by side and still come out the same.

use std::collections::BTreeMap;

use delayd_features::FeatureSpec;
use delayd_judge::evaluation::robustness::standard_normal;
use delayd_model::{Architecture, Bundle};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::error::TrainingError;

/// Standard deviation of a fresh embedding.
const EMBEDDING_STD: f32 = 0.1;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RawTensor {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

/// One member's tensors by name, without the `member.N.` in front.
pub(crate) type MemberWeights = BTreeMap<String, RawTensor>;

/// Names and shapes of one member, in the architecture's order.
pub(crate) fn member_tensors(architecture: &Architecture) -> Vec<(String, Vec<usize>)> {
    let one = Architecture { members: 1, ..architecture.clone() };
    let tensors = one.tensors().into_iter();
    tensors.map(|(name, shape)| (name.trim_start_matches("member.0.").to_owned(), shape)).collect()
}

/// Fresh weights: PyTorch's bounds for linear layers (uniform within the inverse
/// root of the inputs), small normal embeddings, neutral norms, and a head whose
/// bias is the log-odds of the training set.
pub(crate) fn fresh(architecture: &Architecture, prior_log_odds: f64, random: &mut ChaCha8Rng) -> MemberWeights {
    let inputs_of = |name: &str| match name.split('.').next() {
        Some("input") => architecture.input_width(),
        _ => architecture.hidden,
    };
    let tensors = member_tensors(architecture).into_iter().map(|(name, shape)| {
        let count = shape.iter().product::<usize>();
        let values = if name.starts_with("embedding.") {
            (0..count).map(|_| EMBEDDING_STD * standard_normal(random)).collect()
        } else if name.contains("norm") {
            vec![if name.ends_with(".weight") { 1.0 } else { 0.0 }; count]
        } else if name == "head.bias" {
            vec![prior_log_odds as f32; count]
        } else {
            let bound = 1.0 / (inputs_of(&name).max(1) as f32).sqrt();
            (0..count).map(|_| random.random_range(-bound..=bound)).collect()
        };
        (name, RawTensor { shape, values })
    });
    tensors.collect()
}

/// Writes all members as `weights.safetensors`.
pub(crate) fn to_safetensors(members: &[MemberWeights]) -> Result<Vec<u8>, TrainingError> {
    let named = members.iter().enumerate().flat_map(|(member, weights)| {
        weights.iter().map(move |(name, tensor)| {
            let bytes: Vec<u8> = tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect();
            (format!("member.{member}.{name}"), tensor.shape.clone(), bytes)
        })
    });
    let named: Vec<(String, Vec<usize>, Vec<u8>)> = named.collect();
    let views = named
        .iter()
        .map(|(name, shape, bytes)| TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (name.as_str(), view)))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(safetensors::serialize(views, None)?)
}

/// The members of a bundle's network as they are.
pub(crate) fn of_bundle(bundle: &Bundle) -> Result<Vec<MemberWeights>, TrainingError> {
    let architecture = &bundle.model.architecture;
    let file = SafeTensors::deserialize(&bundle.weights)?;
    let member = |member: usize| -> Result<MemberWeights, TrainingError> {
        let read = |(name, shape): (String, Vec<usize>)| -> Result<(String, RawTensor), TrainingError> {
            let view = file.tensor(&format!("member.{member}.{name}"))?;
            Ok((name, RawTensor { shape, values: floats(&view) }))
        };
        member_tensors(architecture).into_iter().map(read).collect()
    };
    (0..architecture.members).map(member).collect()
}

fn floats(view: &TensorView<'_>) -> Vec<f32> {
    view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Why an earlier model's weights were not taken over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ColdReason {
    #[error("the network's {0} changed")]
    Shape(&'static str),
    #[error("the earlier weights cannot be read: {0}")]
    Unreadable(String),
}

/// The earlier model's members in the new one's shape: embeddings move with their
/// value, input columns with their feature, and columns are rescaled to the new
/// means and deviations, so that the network says of a row what it said before.
/// What is new keeps its `fresh` weights.
pub(crate) fn warm(
    earlier: &Bundle,
    spec: &FeatureSpec,
    architecture: &Architecture,
    fresh: &[MemberWeights],
) -> Result<Vec<MemberWeights>, ColdReason> {
    let old = &earlier.model.architecture;
    if old.hidden != architecture.hidden {
        return Err(ColdReason::Shape("width"));
    }
    if old.blocks != architecture.blocks {
        return Err(ColdReason::Shape("number of blocks"));
    }
    let file = SafeTensors::deserialize(&earlier.weights).map_err(|e| ColdReason::Unreadable(e.to_string()))?;
    let columns = ColumnMap::between(&earlier.features, old, spec, architecture);
    let members = fresh.iter().enumerate().map(|(member, fresh)| {
        if member >= old.members {
            return Ok(fresh.clone());
        }
        let read = |name: &str| -> Result<Vec<f32>, ColdReason> {
            let name = format!("member.{member}.{name}");
            let view = file.tensor(&name).map_err(|e| ColdReason::Unreadable(e.to_string()))?;
            Ok(floats(&view))
        };
        move_over(&columns, architecture, fresh, &read)
    });
    members.collect()
}

fn move_over(
    columns: &ColumnMap,
    architecture: &Architecture,
    fresh: &MemberWeights,
    read: &dyn Fn(&str) -> Result<Vec<f32>, ColdReason>,
) -> Result<MemberWeights, ColdReason> {
    let mut moved = fresh.clone();
    for (name, tensor) in &mut moved {
        if name.starts_with("embedding.") || name == "input.weight" || name == "input.bias" {
            continue;
        }
        let values = read(name)?;
        if values.len() == tensor.values.len() {
            tensor.values = values;
        }
    }
    for (category, rows) in columns.embedding_rows.iter().enumerate() {
        let Some((old_category, rows)) = rows else { continue };
        let table = read(&format!("embedding.{old_category}.weight"))?;
        let width = columns.embedding_widths[category];
        let Some(target) = moved.get_mut(&format!("embedding.{category}.weight")) else { continue };
        for (index, old_index) in rows.iter().enumerate() {
            // A value that is new starts from the trained weights of the unseen bucket.
            let start = old_index.unwrap_or(0) * width;
            if let Some(row) = table.get(start..start + width) {
                target.values[index * width..(index + 1) * width].copy_from_slice(row);
            }
        }
    }
    let (old_weight, mut bias) = (read("input.weight")?, read("input.bias")?);
    if let Some(weight) = moved.get_mut("input.weight") {
        columns.move_input(&old_weight, &mut bias, &mut weight.values, architecture.hidden);
    }
    if let Some(target) = moved.get_mut("input.bias") {
        target.values = bias;
    }
    Ok(moved)
}

/// Where each input column was, and how its scale changed.
struct ColumnMap {
    embedding_rows: Vec<Option<(usize, Vec<Option<usize>>)>>,
    embedding_widths: Vec<usize>,
    columns: Vec<Option<(usize, f32, f32)>>,
    old_width: usize,
}

impl ColumnMap {
    fn between(old_spec: &FeatureSpec, old: &Architecture, spec: &FeatureSpec, new: &Architecture) -> Self {
        let mut map = Self {
            embedding_rows: Vec::new(),
            embedding_widths: new.embedding_widths.clone(),
            columns: Vec::new(),
            old_width: old.input_width(),
        };
        for (feature, width) in spec.categories.iter().zip(&new.embedding_widths) {
            let old_category = old_spec.categories.iter().position(|other| other.input == feature.input);
            // An embedding of another width means other columns: it starts afresh.
            let old_category = old_category.filter(|index| old.embedding_widths.get(*index) == Some(width));
            let rows = old_category.map(|index| {
                let vocabulary = &old_spec.categories[index].vocabulary;
                let position = |value: &String| vocabulary.iter().position(|other| other == value).map(|at| at + 1);
                (index, std::iter::once(Some(0)).chain(feature.vocabulary.iter().map(position)).collect())
            });
            let start = old_category.map(|index| old.embedding_widths[..index].iter().sum::<usize>());
            map.columns.extend((0..*width).map(|offset| start.map(|start| (start + offset, 1.0, 0.0))));
            map.embedding_rows.push(rows);
        }
        let old_columns = numeric_columns(old_spec, old.embedding_widths.iter().sum());
        for feature in &spec.numerics {
            let before = old_columns.iter().find(|(index, _, _)| old_spec.numerics[*index].input == feature.input);
            map.columns.push(before.map(|(index, column, _)| {
                let before = &old_spec.numerics[*index];
                (*column, feature.std / before.std, (feature.mean - before.mean) / before.std)
            }));
            if feature.missing_indicator {
                map.columns.push(before.and_then(|(_, _, indicator)| indicator.map(|column| (column, 1.0, 0.0))));
            }
        }
        map
    }

    fn move_input(&self, old_weight: &[f32], bias: &mut [f32], weight: &mut [f32], hidden: usize) {
        let width = self.columns.len();
        for output in 0..hidden.min(bias.len()) {
            for (column, from) in self.columns.iter().enumerate() {
                let slot = &mut weight[output * width + column];
                let old = from.and_then(|(old, scale, shift)| {
                    old_weight.get(output * self.old_width + old).map(|weight| (*weight, scale, shift))
                });
                // A column that is new begins without a say.
                *slot = old.map_or(0.0, |(weight, scale, _)| weight * scale);
                bias[output] += old.map_or(0.0, |(weight, _, shift)| weight * shift);
            }
        }
    }
}

/// Per numeric feature: its index, its column and that of its missing indicator.
pub(crate) fn numeric_columns(spec: &FeatureSpec, first: usize) -> Vec<(usize, usize, Option<usize>)> {
    let mut next = first;
    let columns = spec.numerics.iter().enumerate().map(|(index, feature)| {
        let column = next;
        next += 1 + usize::from(feature.missing_indicator);
        (index, column, feature.missing_indicator.then_some(column + 1))
    });
    columns.collect()
}
