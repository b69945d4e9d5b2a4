//! From a fitted network to a bundle: drift reference, golden rows, metrics, record,
//! model card; and the check that the service will compute what training computed.
//!
//! Nothing that depends on the machine's speed goes into the bundle, so that the same
//! dataset, parameters, seed and commit give the same digest on the CPU.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use chrono::Duration;
use delayd_features::{Encoder, FeatureSpec, FlightRow, RawInputs};
use delayd_judge::evaluation::metrics::{Metrics, roc_auc};
use delayd_judge::evaluation::robustness::Perturbation;
use delayd_model::{Bundle, DriftReference, GoldenRow, ModelFile, PredictScratch, Predictor};
use delayd_training_job::report::{EpochRecord, StartedFrom, TrainingControl, TrainingRecord, TrainingReport};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde_json::json;
use tch::{Device, Tensor};

use crate::error::{TrainingError, WhileDoing, stop_if_asked};
use crate::network::{Member, ensemble_logits};
use crate::rows::{EncodedRows, LabelledRows, Split, evenly_spaced};
use crate::weights::{MemberWeights, numeric_columns, to_safetensors};

/// Rows of the drift reference, at most.
const REFERENCE_ROWS: usize = 30_000;
/// Plain golden rows; the unusual ones come on top.
const PLAIN_GOLDEN_ROWS: usize = 11;
/// Rows of the tail on which libtorch and the plain forward pass are compared.
const CHECKED_ROWS: usize = 512;

/// Rows as they are, by their index in the split's facts.
pub(crate) type KeptRows = HashMap<usize, FlightRow>;

/// The rows that a bundle needs as they are: for golden rows, for the comparison with libtorch, for the drift reference.
pub(crate) fn rows_to_keep(split: &Split, reference_days: f64) -> HashSet<usize> {
    let tail = &split.tail;
    let of_tail = |count| evenly_spaced(tail.len(), count).map(|n| tail[n]);
    let mut wanted: HashSet<usize> = of_tail(PLAIN_GOLDEN_ROWS).chain(of_tail(CHECKED_ROWS)).collect();
    wanted.extend(reference_rows(split, reference_days));
    wanted
}

/// Rows of the last `reference_days` of the training set and the tail.
fn reference_rows(split: &Split, reference_days: f64) -> Vec<usize> {
    let time = |row: &usize| split.facts[*row].prediction_time;
    let until = split.tail.last().map_or(split.tail_start, time);
    let from = until - Duration::seconds((reference_days * 86_400.0) as i64);
    let recent = split.train.iter().chain(&split.tail).copied();
    let recent: Vec<usize> = recent.filter(|row| time(row) >= from).collect();
    evenly_spaced(recent.len(), REFERENCE_ROWS).map(|n| recent[n]).collect()
}

pub(crate) struct Parts<'a> {
    pub(crate) split: &'a Split,
    pub(crate) kept: &'a KeptRows,
    pub(crate) encoder: &'a Encoder,
    pub(crate) members: &'a [Member],
    pub(crate) weights: &'a [MemberWeights],
    pub(crate) tail_scores: &'a [f32],
    pub(crate) importance: &'a HashMap<String, f64>,
    pub(crate) record: &'a TrainingRecord,
    pub(crate) validation: &'a Metrics,
    pub(crate) epochs: Vec<EpochRecord>,
    pub(crate) device: Device,
}

pub(crate) struct Written {
    pub(crate) bundle: Bundle,
    pub(crate) digest: String,
    pub(crate) largest_disagreement: f32,
}

pub(crate) fn write(parts: &Parts<'_>) -> Result<Written, TrainingError> {
    let mut bundle = Bundle {
        features: parts.encoder.spec().clone(),
        model: ModelFile {
            architecture: parts.record.architecture.clone(),
            calibration: parts.record.calibration,
            threshold: parts.record.threshold.value,
        },
        weights: to_safetensors(parts.weights)?,
        reference: DriftReference::default(),
        golden: parts.golden_rows()?,
        metrics: parts.metrics_json()?,
        training: serde_json::to_value(parts.record)?,
        card: parts.card(),
    };
    // Reading the bundle checks the golden rows.
    let predictor = Predictor::from_bundle(&bundle)?;
    let largest_disagreement = parts.compare(&predictor)?;
    bundle.reference = parts.reference(&predictor)?;
    let digest = bundle.digest()?;
    Ok(Written { bundle, digest, largest_disagreement })
}

impl Parts<'_> {
    fn row(&self, index: usize) -> Result<&FlightRow, TrainingError> {
        self.kept.get(&index).ok_or(TrainingError::ExamplesChanged { row: index })
    }

    /// Ordinary rows, and the unusual ones that break services: an unseen carrier,
    /// unseen airports, no weather, no operations, nothing but the schedule.
    fn golden_rows(&self) -> Result<Vec<GoldenRow>, TrainingError> {
        let tail = &self.split.tail;
        let plain = evenly_spaced(tail.len(), PLAIN_GOLDEN_ROWS).map(|n| self.row(tail[n]).cloned());
        let mut rows: Vec<FlightRow> = plain.collect::<Result<_, _>>()?;
        let Some(usual) = rows.first().cloned() else { return Ok(Vec::new()) };
        use Perturbation::{MissingOperations, MissingWeather, UnseenAirports, UnseenCarrier};
        for fault in [UnseenCarrier, UnseenAirports, MissingWeather, MissingOperations] {
            rows.extend(fault.apply(&[&usual], 0));
        }
        let departure = usual.scheduled_departure;
        rows.push(FlightRow::scheduled(usual.carrier, usual.flight_number, usual.origin, usual.dest, departure));
        let encoded = EncodedRows::encode(self.encoder, &rows.iter().collect::<Vec<_>>(), self.device)?;
        let logits = ensemble_logits(self.members, &encoded)?;
        let score = |logit: &f32| self.record.calibration.probability(*logit);
        Ok(rows.iter().zip(&logits).map(|(row, logit)| GoldenRow::record(row, score(logit))).collect())
    }

    /// Compares the plain forward pass with libtorch on rows of the tail.
    fn compare(&self, predictor: &Predictor) -> Result<f32, TrainingError> {
        let mut scratch = PredictScratch::default();
        let mut largest = 0.0_f32;
        for position in evenly_spaced(self.split.tail.len(), CHECKED_ROWS) {
            let row = self.split.tail[position];
            let plain = predictor.predict(self.row(row)?, &mut scratch).score;
            let torch = self.tail_scores[position];
            let difference = (plain - torch).abs();
            let tolerance = GoldenRow::TOLERANCE;
            // A NaN is a disagreement too.
            if difference.is_nan() || difference > tolerance {
                return Err(TrainingError::Disagreement { row, plain, torch, difference, tolerance });
            }
            largest = largest.max(difference);
        }
        Ok(largest)
    }

    /// Counts the last `reference_days` of the training set and the tail.
    fn reference(&self, predictor: &Predictor) -> Result<DriftReference, TrainingError> {
        let wanted = reference_rows(self.split, self.record.parameters.reference_days);
        let kept: Vec<&FlightRow> = wanted.into_iter().map(|index| self.row(index)).collect::<Result<_, _>>()?;
        // Borrowed by itself: `self` holds tensors, which threads cannot share.
        let encoder = self.encoder;
        let score = |scratch: &mut PredictScratch, row: &&FlightRow| {
            let raw = encoder.raw(row);
            let score = predictor.predict_raw(row, &raw, scratch).score;
            (FlightRow::clone(row), raw, score)
        };
        let counted: Vec<(FlightRow, RawInputs, f32)> =
            kept.par_iter().map_init(PredictScratch::default, score).collect();
        let mut rows = Vec::with_capacity(counted.len());
        let mut raws = Vec::with_capacity(counted.len());
        let mut scores = Vec::with_capacity(counted.len());
        for (row, raw, score) in counted {
            rows.push(row);
            raws.push(raw);
            scores.push(score);
        }
        Ok(DriftReference::build(self.encoder.spec(), &rows, &raws, &scores, self.importance))
    }

    fn metrics_json(&self) -> Result<serde_json::Value, TrainingError> {
        let epochs: Vec<_> = self.epochs.iter().map(untimed).collect();
        Ok(json!({
            "schema": 1,
            "judged_on": "the validation tail: later than every row learnt from, also used for early stopping, calibration and threshold",
            "validation": serde_json::to_value(self.validation)?,
            "threshold": serde_json::to_value(&self.record.threshold)?,
            "epochs": epochs,
            "importance": self.sorted_importance(),
        }))
    }

    fn sorted_importance(&self) -> Vec<(String, f64)> {
        let mut sorted: Vec<(String, f64)> =
            self.importance.iter().map(|(name, share)| (name.clone(), *share)).collect();
        sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        sorted
    }

    pub(crate) fn report(&self, written: &Written) -> Result<TrainingReport, TrainingError> {
        Ok(TrainingReport {
            record: self.record.clone(),
            validation: self.validation.clone(),
            epochs: self.epochs.clone(),
            tuning: None,
            importance: self.sorted_importance(),
            bundle_digest: written.digest.clone(),
            largest_disagreement: written.largest_disagreement,
            encoding_seconds: 0.0,
            tuning_seconds: 0.0,
            fitting_seconds: 0.0,
            total_seconds: 0.0,
        })
    }

    fn card(&self) -> String {
        let record = self.record;
        let validation = self.validation;
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
        let started = match &record.started_from {
            StartedFrom::Scratch(reason) => format!("from random weights ({reason})"),
            StartedFrom::EarlierWeights => "from the earlier model's weights".to_owned(),
        };
        let shape = &record.architecture;
        let mut card = String::from("# DelayNet: will this flight arrive 15 minutes late or more?\n\n");
        let lines = [
            (
                "Predicts",
                format!(
                    "the probability, {} minutes before scheduled departure, from what is known then",
                    self.encoder.spec().horizon_minutes
                ),
            ),
            ("Dataset", record.dataset.clone().unwrap_or_else(|| "not named".to_owned())),
            (
                "Learnt from",
                format!(
                    "{} flights from {} to {}, {:.1} % of them delayed",
                    record.train_rows,
                    record.train_from,
                    record.tail_from,
                    100.0 * record.train_positives as f64 / record.train_rows.max(1) as f64
                ),
            ),
            ("Judged on", format!("{} later flights until {}", validation.rows, record.tail_until)),
            (
                "Network",
                format!(
                    "{} member(s), {} blocks of width {}, {} weights, {started}",
                    shape.members, shape.blocks, shape.hidden, record.weights
                ),
            ),
            (
                "Trained on",
                format!(
                    "{}, seed {}, {} thread(s)",
                    record.device, record.parameters.seed, record.parameters.torch_threads
                ),
            ),
        ];
        for (name, text) in lines {
            let _ = writeln!(card, "- **{name}:** {text}");
        }
        card.push_str("\n| metric on the tail | value |\n| --- | --- |\n");
        let rows = [
            ("ROC-AUC", validation.roc_auc),
            ("PR-AUC", validation.pr_auc),
            ("log-loss", validation.log_loss),
            ("Brier score", validation.brier),
            ("calibration error", validation.expected_calibration_error),
            ("threshold", Some(f64::from(validation.threshold))),
            ("recall of delayed flights", Some(validation.recall)),
            ("precision", Some(validation.precision)),
            ("accuracy", Some(validation.accuracy)),
        ];
        for (name, value) in rows {
            let _ = writeln!(card, "| {name} | {} |", number(value));
        }
        card.push_str("\nMost used inputs: ");
        let used: Vec<String> = self.sorted_importance().into_iter().take(8).map(|(name, _)| name).collect();
        card.push_str(&used.join(", "));
        card.push_str(".\n\nThe tail also served early stopping, calibration and the threshold, so these numbers are a little too good; the evaluation report judges on rows that served nothing else.\n");
        card
    }
}

/// An epoch without what depends on the machine.
fn untimed(epoch: &EpochRecord) -> serde_json::Value {
    json!({
        "member": epoch.member,
        "epoch": epoch.epoch,
        "train_loss": epoch.train_loss,
        "validation_log_loss": epoch.validation_log_loss,
        "validation_roc_auc": epoch.validation_roc_auc,
    })
}

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
