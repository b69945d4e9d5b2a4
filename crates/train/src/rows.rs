//! The rows of a run: which are trained on, which judge, how much each weighs; and the same rows as tensors, encoded once
//! in parallel and resident on the device. A batch is a selection of indexes, there is no loader.

use chrono::{DateTime, Duration, Utc};
use delayd_data::Example;
use delayd_features::{Encoder, FlightRow};
use delayd_training_job::params::{ClassWeighting, TrainingParameters, ValidationTail};
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use crate::error::{TrainingError, WhileDoing};
use crate::input::ExampleSource;

/// What a run has to know of every row that it may use, in the order of training.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowFacts {
    pub prediction_time: DateTime<Utc>,
    known_at: DateTime<Utc>,
    pub delayed: bool,
}

/// The rows of a run, as indexes into its facts, in time order.
#[derive(Debug)]
pub(crate) struct Split {
    pub facts: Vec<RowFacts>,
    pub train: Vec<usize>,
    /// Kept for early stopping, calibration and threshold: the newest.
    pub tail: Vec<usize>,
    pub tail_start: DateTime<Utc>,
}

/// The rows of a stretch that have an outcome, in a total order, so that the order in which sources were read changes
/// nothing.
pub(crate) fn in_order(stretch: Vec<Example>) -> Vec<Example> {
    let mut rows: Vec<Example> = stretch.into_iter().filter(|example| example.outcome.is_some()).collect();
    rows.sort_by(|a, b| sort_key(a).cmp(&sort_key(b)));
    rows
}

fn sort_key(example: &Example) -> (DateTime<Utc>, DateTime<Utc>, &str, u32, &str, &str) {
    let row = &example.row;
    (example.prediction_time, row.scheduled_departure, &row.carrier, row.flight_number, &row.origin, &row.dest)
}

/// Splits the rows with an outcome at one moment. A row predicted before that
/// moment whose outcome came after it belongs to neither part: at the moment of
/// the split nobody could have learnt from it.
pub(crate) fn split(source: &dyn ExampleSource, parameters: &TrainingParameters) -> Result<Split, TrainingError> {
    let mut facts = Vec::new();
    for stretch in source.outcomes()? {
        facts.extend(in_order(stretch?).iter().filter_map(|example| {
            let outcome = example.outcome?;
            let (prediction_time, known_at) = (example.prediction_time, outcome.known_at);
            Some(RowFacts { prediction_time, known_at, delayed: outcome.delayed })
        }));
    }
    let needed = parameters.min_rows;
    if facts.len() < needed {
        return Err(TrainingError::TooFewRows { what: "rows with an outcome", found: facts.len(), needed });
    }
    let tail_start = tail_start(&facts, parameters.validation_tail);
    let indexes = |wanted: &dyn Fn(&RowFacts) -> bool| -> Vec<usize> {
        facts.iter().enumerate().filter(|(_, row)| wanted(row)).map(|(index, _)| index).collect()
    };
    let train = indexes(&|row| row.prediction_time < tail_start && row.known_at <= tail_start);
    let tail = indexes(&|row| row.prediction_time >= tail_start);
    check_part(&facts, &train, "rows before the validation tail", needed / 2)?;
    check_part(&facts, &tail, "rows in the validation tail", 20)?;
    Ok(Split { facts, train, tail, tail_start })
}

fn tail_start(facts: &[RowFacts], tail: ValidationTail) -> DateTime<Utc> {
    let time_at = |position: usize| facts[position].prediction_time;
    match tail {
        ValidationTail::Fraction(part) => {
            let position = (facts.len() as f64 * (1.0 - part)) as usize;
            time_at(position.min(facts.len() - 1))
        }
        ValidationTail::Days(days) => time_at(facts.len() - 1) - Duration::seconds((days * 86_400.0) as i64),
    }
}

fn check_part(facts: &[RowFacts], rows: &[usize], part: &'static str, needed: usize) -> Result<(), TrainingError> {
    if rows.len() < needed.max(2) {
        return Err(TrainingError::TooFewRows { what: part, found: rows.len(), needed: needed.max(2) });
    }
    let delayed = rows.iter().filter(|index| facts[**index].delayed).count();
    let missing = match (delayed, rows.len() - delayed) {
        (0, _) => "delayed",
        (_, 0) => "punctual",
        _ => return Ok(()),
    };
    Err(TrainingError::OneClass { part, rows: rows.len(), missing })
}

impl Split {
    pub(crate) fn labels(&self, rows: &[usize]) -> Vec<bool> {
        rows.iter().map(|index| self.facts[*index].delayed).collect()
    }

    /// The weight of each training row by its age: `0.5 ^ (age / half-life)`, the newest 1.
    pub(crate) fn age_weights(&self, half_life_days: Option<f64>) -> Vec<f32> {
        let time = |index: &usize| self.facts[*index].prediction_time;
        let newest = self.train.iter().map(time).max();
        let (Some(half_life), Some(newest)) = (half_life_days, newest) else { return vec![1.0; self.train.len()] };
        let age_days = |index: &usize| (newest - time(index)).num_seconds() as f64 / 86_400.0;
        self.train.iter().map(|index| 0.5_f64.powf(age_days(index) / half_life) as f32).collect()
    }
}

/// How many times more a delayed row weighs than a punctual one.
pub(crate) fn positive_weight(weighting: ClassWeighting, rows: &LabelledRows) -> f64 {
    let (positives, rows) = (rows.positives(), rows.rows());
    match weighting {
        ClassWeighting::None => 1.0,
        ClassWeighting::Balanced => (rows - positives) as f64 / positives.max(1) as f64,
        ClassWeighting::Factor(factor) => factor,
    }
}

#[derive(Debug)]
pub(crate) struct EncodedRows {
    /// `i64 [rows, categories]`.
    pub(crate) categories: Tensor,
    /// `f32 [rows, numeric width]`.
    pub(crate) numerics: Tensor,
    pub(crate) rows: usize,
}

impl EncodedRows {
    /// Encodes rows, in order, on all of rayon's threads.
    pub(crate) fn encode(encoder: &Encoder, rows: &[&FlightRow], device: Device) -> Result<Self, TrainingError> {
        let categories_width = encoder.spec().categories.len();
        let numerics_width = encoder.spec().numeric_width();
        let mut categories = vec![0_i64; rows.len() * categories_width];
        let mut numerics = vec![0.0_f32; rows.len() * numerics_width];
        // Blocks of rows instead of single ones: a width may be 0.
        const BLOCK: usize = 512;
        let category_blocks = chunks_of(&mut categories, BLOCK * categories_width, rows.len().div_ceil(BLOCK));
        let numeric_blocks = chunks_of(&mut numerics, BLOCK * numerics_width, rows.len().div_ceil(BLOCK));
        let blocks: Vec<_> = rows.chunks(BLOCK).zip(category_blocks).zip(numeric_blocks).collect();
        blocks.into_par_iter().for_each(|((rows, categories), numerics)| {
            let mut indexes = vec![0_u32; categories_width];
            for (n, row) in rows.iter().enumerate() {
                encoder.encode_into(row, &mut indexes, &mut numerics[n * numerics_width..(n + 1) * numerics_width]);
                let slots = &mut categories[n * categories_width..(n + 1) * categories_width];
                slots.iter_mut().zip(&indexes).for_each(|(slot, index)| *slot = i64::from(*index));
            }
        });
        let shape = |width: usize| [rows.len() as i64, width as i64];
        let doing = "moving encoded rows to the device";
        let on_device = |tensor: Result<Tensor, tch::TchError>| {
            tensor.and_then(|tensor| tensor.f_to_device(device)).while_doing(doing)
        };
        Ok(Self {
            categories: on_device(Tensor::f_from_slice(&categories).and_then(|t| t.f_view(shape(categories_width))))?,
            numerics: on_device(Tensor::f_from_slice(&numerics).and_then(|t| t.f_view(shape(numerics_width))))?,
            rows: rows.len(),
        })
    }

    /// Room for so many rows, to be filled by [`Self::put`].
    pub(crate) fn room(encoder: &Encoder, rows: usize, device: Device) -> Result<Self, TrainingError> {
        let zeros = |width: usize, kind| {
            Tensor::f_zeros([rows as i64, width as i64], (kind, device)).while_doing("making room for encoded rows")
        };
        let categories = zeros(encoder.spec().categories.len(), Kind::Int64)?;
        Ok(Self { categories, numerics: zeros(encoder.spec().numeric_width(), Kind::Float)?, rows })
    }

    /// Writes rows into place.
    pub(crate) fn put(&mut self, start: usize, rows: &Self) -> Result<(), TrainingError> {
        let mut place = self.narrow(start, rows.rows)?;
        let doing = "writing encoded rows";
        place.categories.f_copy_(&rows.categories).while_doing(doing)?;
        place.numerics.f_copy_(&rows.numerics).while_doing(doing)?;
        Ok(())
    }

    /// Another handle on the same memory, to send to another thread.
    pub(crate) fn share(&self) -> Self {
        Self { categories: self.categories.shallow_clone(), numerics: self.numerics.shallow_clone(), rows: self.rows }
    }

    /// The rows of these indexes (`i64` on the same device).
    pub(crate) fn select(&self, indexes: &Tensor) -> Result<Self, TrainingError> {
        let doing = "selecting rows";
        Ok(Self {
            categories: self.categories.f_index_select(0, indexes).while_doing(doing)?,
            numerics: self.numerics.f_index_select(0, indexes).while_doing(doing)?,
            rows: indexes.size().first().map_or(0, |rows| *rows as usize),
        })
    }

    /// A stretch of rows, without a copy.
    pub(crate) fn narrow(&self, start: usize, rows: usize) -> Result<Self, TrainingError> {
        let doing = "narrowing rows";
        let narrow = |tensor: &Tensor| tensor.f_narrow(0, start as i64, rows as i64).while_doing(doing);
        Ok(Self { categories: narrow(&self.categories)?, numerics: narrow(&self.numerics)?, rows })
    }
}

/// Cuts a slice into `count` pieces of `size`, the last one shorter; of size 0 where a width is 0.
fn chunks_of<T>(mut values: &mut [T], size: usize, count: usize) -> Vec<&mut [T]> {
    let mut pieces = Vec::with_capacity(count);
    for _ in 0..count {
        let (piece, rest) = {
            let cut = size.min(values.len());
            std::mem::take(&mut values).split_at_mut(cut)
        };
        pieces.push(piece);
        values = rest;
    }
    pieces
}

#[derive(Debug)]
pub(crate) struct LabelledRows {
    pub(crate) inputs: EncodedRows,
    /// 0 or 1, `f32 [rows]`.
    pub(crate) targets: Tensor,
    /// Weight of each row, mean 1, `f32 [rows]`.
    pub(crate) weights: Tensor,
    /// The same as `targets`, for the metrics.
    pub(crate) labels: std::sync::Arc<Vec<bool>>,
}

impl LabelledRows {
    pub(crate) fn new(inputs: EncodedRows, labels: Vec<bool>, weights: &[f32]) -> Result<Self, TrainingError> {
        let device = inputs.numerics.device();
        let doing = "moving labels to the device";
        let targets: Vec<f32> = labels.iter().map(|label| f32::from(u8::from(*label))).collect();
        let mean = weights.iter().map(|weight| f64::from(*weight)).sum::<f64>() / weights.len().max(1) as f64;
        let weights: Vec<f32> = weights.iter().map(|weight| (f64::from(*weight) / mean.max(1e-30)) as f32).collect();
        let move_over =
            |values: &[f32]| Tensor::f_from_slice(values).and_then(|t| t.f_to_device(device)).while_doing(doing);
        Ok(Self {
            targets: move_over(&targets)?,
            weights: move_over(&weights)?,
            labels: std::sync::Arc::new(labels),
            inputs,
        })
    }

    pub(crate) fn rows(&self) -> usize {
        self.inputs.rows
    }

    pub(crate) fn positives(&self) -> usize {
        self.labels.iter().filter(|label| **label).count()
    }

    pub(crate) fn share(&self) -> Self {
        Self {
            inputs: self.inputs.share(),
            targets: self.targets.shallow_clone(),
            weights: self.weights.shallow_clone(),
            labels: std::sync::Arc::clone(&self.labels),
        }
    }

    /// Every n-th row, so that about `most` are left.
    pub(crate) fn thinned(&self, most: usize) -> Result<Self, TrainingError> {
        if self.rows() <= most {
            return Ok(self.share());
        }
        let kept: Vec<i64> = evenly_spaced(self.rows(), most).map(|index| index as i64).collect();
        let doing = "thinning rows";
        let indexes =
            Tensor::f_from_slice(&kept).and_then(|t| t.f_to_device(self.targets.device())).while_doing(doing)?;
        Ok(Self {
            inputs: self.inputs.select(&indexes)?,
            targets: self.targets.f_index_select(0, &indexes).while_doing(doing)?,
            weights: self.weights.f_index_select(0, &indexes).while_doing(doing)?,
            labels: std::sync::Arc::new(kept.iter().map(|index| self.labels[*index as usize]).collect()),
        })
    }
}

/// At most `most` indexes below `rows`, evenly spaced.
pub(crate) fn evenly_spaced(rows: usize, most: usize) -> impl Iterator<Item = usize> {
    let taken = rows.min(most);
    (0..taken).map(move |n| n * rows / taken)
}

/// A tensor's values on the CPU, flattened.
pub(crate) fn values_of(tensor: &Tensor) -> Result<Vec<f32>, TrainingError> {
    let flat = tensor.f_detach().and_then(|t| t.f_to_device(Device::Cpu)).and_then(|t| t.f_to_kind(Kind::Float));
    let flat = flat.and_then(|t| t.f_contiguous()).and_then(|t| t.f_view(-1)).while_doing("reading a tensor")?;
    Vec::<f32>::try_from(&flat).while_doing("reading a tensor")
}
