//! One training run from examples to a bundle: split, fit features, encode, search,
//! fit, calibrate, choose the threshold, measure importance, pack, check.

use std::time::Instant;

use chrono::{DateTime, Utc};
use delayd_features::{Encoder, FeatureSpec, FlightRow, SpecFit};
use delayd_judge::evaluation::metrics::{Confusion, Metrics};
use delayd_model::{Architecture, Bundle, Calibration};
use delayd_training_job::params::{CheckedParameters, ThresholdChoice, TrainingParameters};
use delayd_training_job::report::{
    ChosenThreshold, Progress, StartedFrom, TrainingControl, TrainingRecord, TrainingReport,
};
use delayd_training_job::tune::{TrialRecord, TrialTask, TuningParameters, derived_seed};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tch::Device;

use crate::bundle_writer::{self, KeptRows, Parts, permutation_importance};
use crate::device::{self, library_versions, limit_threads};
use crate::error::{TrainingError, stop_if_asked};
use crate::network::{Member, ensemble_logits};
use crate::rows::{EncodedRows, LabelledRows, Split, in_order, positive_weight, split};
use crate::trainer::{FittedMember, Start, TrainingSets, fit_members};
use crate::trial::{TrialRunner, log_odds, search};
use crate::weights::{MemberWeights, fresh, warm};

pub use crate::input::{ExampleSource, TrainingInput};

#[derive(Debug, Clone)]
pub struct TrainedModel {
    pub bundle: Bundle,
    pub report: TrainingReport,
}

/// Rows encoded for libtorch, with all that came before.
struct Prepared {
    split: Split,
    encoder: Encoder,
    sets: TrainingSets,
    kept: KeptRows,
    device: Device,
    device_name: String,
}

impl Prepared {
    fn new(
        input: &TrainingInput<'_>,
        parameters: &CheckedParameters,
        control: &TrainingControl,
    ) -> Result<Self, TrainingError> {
        let (device, device_name) = device::choose(parameters.device)?;
        limit_threads(parameters.torch_threads);
        let split = split(input.examples, parameters)?;
        control.tell(&Progress::Encoding { train_rows: split.train.len(), tail_rows: split.tail.len() });
        let spec = fit_spec(input, &split)?;
        stop_if_asked(control, 0)?;
        let encoder = Encoder::new(spec)?;
        let (sets, kept) = encode(input, &split, &encoder, parameters, device)?;
        stop_if_asked(control, 0)?;
        Ok(Self { split, encoder, sets, kept, device, device_name })
    }
}

/// Trains a model. Blocks for as long as it takes: see [`crate::run_on_thread`].
pub fn train(
    input: &TrainingInput<'_>,
    parameters: &CheckedParameters,
    tuning: Option<&TuningParameters>,
    control: &TrainingControl,
) -> Result<TrainedModel, TrainingError> {
    let began = Instant::now();
    let prepared = Prepared::new(input, parameters, control)?;
    let (encoder, sets) = (&prepared.encoder, &prepared.sets);
    let encoding_seconds = began.elapsed().as_secs_f64();

    let searched = Instant::now();
    let shape = |parameters: &TrainingParameters| architecture(encoder.spec(), parameters);
    let (parameters, tuning) = match tuning.filter(|tuning| tuning.trials > 1) {
        Some(tuning) => search(parameters, tuning, sets, &shape, control).map(|(p, r)| (p, Some(r)))?,
        None => (parameters.clone(), None),
    };
    let tuning_seconds = searched.elapsed().as_secs_f64();

    let fitting = Instant::now();
    let architecture = shape(&parameters);
    let (starts, started_from) = starts(input.previous, encoder, &architecture, &parameters, sets);
    let fitted = fit_members(&architecture, sets, &starts, &parameters, control)?;
    let fitting_seconds = fitting.elapsed().as_secs_f64();

    control.tell(&Progress::Packing);
    let (bundle, mut report) = pack(input, &prepared, &parameters, architecture, &fitted, started_from, control)?;
    report.tuning = tuning;
    report.encoding_seconds = encoding_seconds;
    report.tuning_seconds = tuning_seconds;
    report.fitting_seconds = fitting_seconds;
    report.total_seconds = began.elapsed().as_secs_f64();
    Ok(TrainedModel { bundle, report })
}

/// Runs one trial of a search by itself: what a worker on another machine does. The
/// budget's wall time bounds this trial alone.
/// When the rows do not suffice, libtorch fails, or the run is cancelled; a trial that
/// goes wrong by its own parameters is a record that says so.
pub fn train_trial(
    input: &TrainingInput<'_>,
    parameters: &CheckedParameters,
    tuning: &TuningParameters,
    task: &TrialTask,
    control: &TrainingControl,
) -> Result<TrialRecord, TrainingError> {
    tuning.check()?;
    let prepared = Prepared::new(input, parameters, control)?;
    let shape = |parameters: &TrainingParameters| architecture(prepared.encoder.spec(), parameters);
    let record = TrialRunner::new(tuning, &prepared.sets, &shape, control)?.run(task);
    if control.is_cancelled() { Err(TrainingError::Cancelled { epoch: 0 }) } else { Ok(record) }
}

/// Goes through all rows with an outcome, in the order of the split's facts. `wanted` rows of a stretch, each with its
/// place among them, are given to `use_rows` together.
fn go_through(
    input: &TrainingInput<'_>,
    wanted: &[usize],
    mut use_rows: impl FnMut(usize, &[(usize, FlightRow)]) -> Result<(), TrainingError>,
) -> Result<(), TrainingError> {
    let (mut first, mut place) = (0, 0);
    for stretch in input.examples.examples()? {
        let rows = in_order(stretch?);
        let until = first + rows.len();
        let end = place + wanted[place..].partition_point(|index| *index < until);
        let taken = &wanted[place..end];
        let mut rows: Vec<Option<FlightRow>> = rows.into_iter().map(|example| Some(example.row)).collect();
        let rows: Vec<(usize, FlightRow)> =
            taken.iter().filter_map(|index| Some((*index, rows.get_mut(index - first)?.take()?))).collect();
        use_rows(place, &rows)?;
        (first, place) = (until, end);
    }
    Ok(())
}

/// The transform is fitted on the rows that are trained on, never on the tail.
fn fit_spec(input: &TrainingInput<'_>, split: &Split) -> Result<FeatureSpec, TrainingError> {
    let mut fit = SpecFit::new(input.airports, input.holidays, input.fit)?;
    go_through(input, &split.train, |_, rows| {
        rows.iter().for_each(|(_, row)| fit.add(row));
        Ok(())
    })?;
    Ok(fit.finish()?)
}

/// Encodes the training rows and the tail, and keeps the few rows as they are that the bundle needs.
fn encode(
    input: &TrainingInput<'_>,
    split: &Split,
    encoder: &Encoder,
    parameters: &TrainingParameters,
    device: Device,
) -> Result<(TrainingSets, KeptRows), TrainingError> {
    let mut train = EncodedRows::room(encoder, split.train.len(), device)?;
    let mut tail = EncodedRows::room(encoder, split.tail.len(), device)?;
    let wanted = bundle_writer::rows_to_keep(split, parameters.reference_days);
    let mut kept = KeptRows::with_capacity(wanted.len());
    // A row predicted before the tail is no row of it: every training row comes first.
    let both = [split.train.as_slice(), split.tail.as_slice()].concat();
    go_through(input, &both, |place, rows| {
        let in_train = split.train.len().saturating_sub(place).min(rows.len());
        for (set, start, rows) in [
            (&mut train, place, &rows[..in_train]),
            (&mut tail, place.saturating_sub(split.train.len()), &rows[in_train..]),
        ] {
            let of_set: Vec<&FlightRow> = rows.iter().map(|(_, row)| row).collect();
            if !of_set.is_empty() {
                set.put(start, &EncodedRows::encode(encoder, &of_set, device)?)?;
            }
        }
        let needed = rows.iter().filter(|(index, _)| wanted.contains(index));
        kept.extend(needed.map(|(index, row)| (*index, row.clone())));
        Ok(())
    })?;
    let mut weights = split.age_weights(parameters.history_half_life_days);
    if let Some(sample_weights) = input.sample_weights {
        let times: Vec<DateTime<Utc>> = split.facts.iter().map(|row| row.prediction_time).collect();
        let given = sample_weights(&times);
        for (weight, index) in weights.iter_mut().zip(&split.train) {
            *weight *= given.get(*index).copied().unwrap_or(1.0);
        }
    }
    let sets = TrainingSets {
        train: LabelledRows::new(train, split.labels(&split.train), &weights)?,
        tail: LabelledRows::new(tail, split.labels(&split.tail), &vec![1.0; split.tail.len()])?,
    };
    Ok((sets, kept))
}

pub fn architecture(spec: &FeatureSpec, parameters: &TrainingParameters) -> Architecture {
    let cardinalities = spec.cardinalities();
    Architecture {
        embedding_widths: cardinalities.iter().map(|values| parameters.embedding.width(*values)).collect(),
        cardinalities,
        numeric_width: spec.numeric_width(),
        hidden: parameters.hidden,
        blocks: parameters.blocks,
        members: parameters.members,
    }
}

fn starts(
    previous: Option<&Bundle>,
    encoder: &Encoder,
    architecture: &Architecture,
    parameters: &TrainingParameters,
    sets: &TrainingSets,
) -> (Vec<Start>, StartedFrom) {
    // With a class weight the network learns shifted log-odds; it starts there.
    let shift = positive_weight(parameters.class_weighting, &sets.train).ln();
    let prior = log_odds(&sets.train) + shift;
    let cold: Vec<MemberWeights> = (0..parameters.members)
        .map(|member| {
            let mut random = ChaCha8Rng::seed_from_u64(derived_seed(parameters.seed, "weights", member));
            fresh(architecture, prior, &mut random)
        })
        .collect();
    let scratch = |reason: String, cold: Vec<MemberWeights>| {
        let starts = cold.into_iter().map(|weights| Start { weights, warm: false }).collect();
        (starts, StartedFrom::Scratch(reason))
    };
    let Some(previous) = previous.filter(|_| parameters.warm_start) else {
        let reason = if parameters.warm_start { "there is no earlier model" } else { "`warm_start` is off" };
        return scratch(reason.to_owned(), cold);
    };
    match warm(previous, encoder.spec(), architecture, &cold) {
        Err(reason) => scratch(reason.to_string(), cold),
        Ok(weights) => {
            let earlier = previous.model.architecture.members;
            let start = |(member, weights)| Start { weights, warm: member < earlier };
            (weights.into_iter().enumerate().map(start).collect(), StartedFrom::EarlierWeights)
        }
    }
}

/// Calibrates, chooses the threshold, measures, and writes the bundle.
fn pack(
    input: &TrainingInput<'_>,
    prepared: &Prepared,
    parameters: &CheckedParameters,
    architecture: Architecture,
    fitted: &[FittedMember],
    started_from: StartedFrom,
    control: &TrainingControl,
) -> Result<(Bundle, TrainingReport), TrainingError> {
    let Prepared { split, encoder, sets, kept, device, device_name } = prepared;
    let members = fitted
        .iter()
        .map(|member| Member::new(&architecture, &member.weights, *device))
        .collect::<Result<Vec<_>, _>>()?;
    let tail = &sets.tail;
    let logits = ensemble_logits(&members, &tail.inputs)?;
    let calibration = Calibration::fit(&logits, &tail.labels);
    let scores: Vec<f32> = logits.iter().map(|logit| calibration.probability(*logit)).collect();
    let threshold = choose_threshold(parameters.threshold, &scores, &tail.labels);
    let validation = Metrics::of(&scores, &tail.labels, threshold.value);
    let seed = derived_seed(parameters.seed, "importance", 0);
    let importance = permutation_importance(&members, encoder.spec(), tail, seed, control)?;
    let time = |index: usize| split.facts[index].prediction_time;
    let record = TrainingRecord {
        parameters: TrainingParameters::clone(parameters),
        dataset: input.dataset.map(str::to_owned),
        commit: delayd_core::build::commit().map(str::to_owned),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        libraries: library_versions(),
        device: device_name.clone(),
        weights: architecture.parameters(),
        architecture,
        started_from,
        train_rows: sets.train.rows(),
        train_positives: sets.train.positives(),
        tail_rows: tail.rows(),
        train_from: split.train.first().map_or(DateTime::<Utc>::default(), |index| time(*index)),
        tail_from: split.tail_start,
        tail_until: split.tail.last().map_or(split.tail_start, |index| time(*index)),
        positive_weight: positive_weight(parameters.class_weighting, &sets.train),
        best_epochs: fitted.iter().map(|member| member.best.epoch).collect(),
        calibration,
        threshold,
    };
    let weights: Vec<MemberWeights> = fitted.iter().map(|member| member.weights.clone()).collect();
    let parts = Parts {
        split,
        kept,
        encoder,
        members: &members,
        weights: &weights,
        tail_scores: &scores,
        importance: &importance,
        record: &record,
        validation: &validation,
        epochs: fitted.iter().flat_map(|member| &member.epochs).cloned().collect(),
        device: *device,
    };
    let written = bundle_writer::write(&parts)?;
    let report = parts.report(&written)?;
    Ok((written.bundle, report))
}

/// Chooses the threshold on calibrated scores. Ties go to the higher threshold:
/// fewer alerts for the same worth.
pub fn choose_threshold(choice: ThresholdChoice, scores: &[f32], labels: &[bool]) -> ChosenThreshold {
    let value = match choice {
        ThresholdChoice::Fixed(value) => value as f32,
        ThresholdChoice::MaxF1 => best_threshold(scores, labels, |f1, _| f1),
        ThresholdChoice::TargetRecall(target) => {
            // The first threshold from above that reaches the target.
            best_threshold(scores, labels, |_, recall| if recall + 1e-12 >= target { 1.0 } else { 0.0 })
        }
    };
    let counts = Confusion::at(scores, labels, value, None);
    ChosenThreshold {
        value,
        precision: counts.precision(),
        recall: counts.recall(),
        f1: counts.f1(),
        alert_share: counts.alert_share(),
    }
}

/// The highest score at which `worth(f1, recall)` is largest; one half without rows.
fn best_threshold(scores: &[f32], labels: &[bool], worth: impl Fn(f64, f64) -> f64) -> f32 {
    let mut order: Vec<usize> = (0..scores.len().min(labels.len())).collect();
    order.sort_unstable_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let positives = labels.iter().filter(|label| **label).count() as f64;
    let (mut caught, mut best) = (0.0, (f64::NEG_INFINITY, 0.5));
    for (taken, index) in order.iter().enumerate() {
        caught += f64::from(u8::from(labels[*index]));
        let next = order.get(taken + 1).map(|next| scores[*next]);
        if next == Some(scores[*index]) {
            continue;
        }
        let f1 = 2.0 * caught / (positives + taken as f64 + 1.0);
        let found = worth(f1, if positives > 0.0 { caught / positives } else { 0.0 });
        if found > best.0 {
            best = (found, scores[*index]);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCORES: [f32; 6] = [0.9, 0.8, 0.7, 0.6, 0.55, 0.1];
    const LABELS: [bool; 6] = [true, true, false, true, false, false];

    #[test]
    fn the_best_f1_is_found_at_a_score_that_occurs() {
        let chosen = choose_threshold(ThresholdChoice::MaxF1, &SCORES, &LABELS);
        assert_eq!(chosen.value, 0.6);
        assert!((chosen.f1 - 6.0 / 7.0).abs() < 1e-9 && chosen.recall == 1.0);
    }

    #[test]
    fn a_target_recall_is_reached_with_as_few_alerts_as_possible() {
        let chosen = choose_threshold(ThresholdChoice::TargetRecall(0.6), &SCORES, &LABELS);
        assert_eq!(chosen.value, 0.8);
        assert!(chosen.recall >= 0.6 && (chosen.alert_share - 2.0 / 6.0).abs() < 1e-9);
        assert_eq!(choose_threshold(ThresholdChoice::TargetRecall(1.0), &SCORES, &LABELS).value, 0.6);
    }

    #[test]
    fn a_fixed_threshold_stays_and_its_effect_is_reported() {
        let chosen = choose_threshold(ThresholdChoice::Fixed(0.75), &SCORES, &LABELS);
        assert_eq!((chosen.value, chosen.precision), (0.75, 1.0));
    }

    #[test]
    fn tied_scores_are_taken_together() {
        let chosen = choose_threshold(ThresholdChoice::MaxF1, &[0.5, 0.5, 0.2], &[true, false, false]);
        assert_eq!(chosen.value, 0.5);
        assert_eq!(chosen.alert_share, 2.0 / 3.0);
    }
}
