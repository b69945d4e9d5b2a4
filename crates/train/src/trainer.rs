//! Fits the members of a DelayNet: weighted cross-entropy, a learning-rate schedule,
//! early stopping on the tail, the best weights kept.
//!
//! Members are independent of each other and run side by side; each gets its share
//! of libtorch's threads. The result depends on the rows, the parameters and the
//! seed alone.

use std::time::Instant;

use delayd_judge::evaluation::metrics;
use delayd_model::Architecture;
use delayd_training_job::params::{OptimizerKind, Schedule, TrainingParameters};
use delayd_training_job::report::{EpochRecord, Progress, TrainingControl};
use delayd_training_job::tune::derived_seed;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use tch::nn::{Adam, AdamW, Optimizer, OptimizerConfig};
use tch::{Device, Kind, Reduction, Tensor};

use crate::device::{limit_threads, panicked};
use crate::error::{TrainingError, WhileDoing, stop_if_asked};
use crate::network::{Masks, Member};
use crate::rows::{LabelledRows, positive_weight};
use crate::weights::MemberWeights;

/// Rows to learn from and rows to judge by.
#[derive(Debug)]
pub(crate) struct TrainingSets {
    pub(crate) train: LabelledRows,
    pub(crate) tail: LabelledRows,
}

impl TrainingSets {
    pub(crate) fn share(&self) -> Self {
        Self { train: self.train.share(), tail: self.tail.share() }
    }

    fn device(&self) -> Device {
        self.train.targets.device()
    }
}

#[derive(Debug, Clone)]
pub(crate) struct FittedMember {
    pub(crate) weights: MemberWeights,
    pub(crate) epochs: Vec<EpochRecord>,
    pub(crate) best: EpochRecord,
}

#[derive(Debug, Clone)]
pub(crate) struct Start {
    pub(crate) weights: MemberWeights,
    pub(crate) warm: bool,
}

/// Fits all members, side by side where there are threads for it.
pub(crate) fn fit_members(
    architecture: &Architecture,
    sets: &TrainingSets,
    starts: &[Start],
    parameters: &TrainingParameters,
    control: &TrainingControl,
) -> Result<Vec<FittedMember>, TrainingError> {
    let parallel = if sets.device() == Device::Cpu { parameters.torch_threads.min(starts.len()).max(1) } else { 1 };
    let torch_threads = (parameters.torch_threads / parallel).max(1);
    let mut fitted = Vec::with_capacity(starts.len());
    for (wave, starts) in starts.chunks(parallel).enumerate() {
        let jobs: Vec<(usize, &Start, TrainingSets)> =
            starts.iter().enumerate().map(|(n, start)| (wave * parallel + n, start, sets.share())).collect();
        let results: Vec<Result<FittedMember, TrainingError>> = std::thread::scope(|scope| {
            let spawned: Vec<_> = jobs
                .into_iter()
                .map(|(member, start, sets)| {
                    let work = move || {
                        limit_threads(torch_threads);
                        MemberRun { architecture, sets: &sets, parameters, control, member }.fit(start)
                    };
                    std::thread::Builder::new().name(format!("train-member-{member}")).spawn_scoped(scope, work)
                })
                .collect();
            let join = |handle: std::io::Result<std::thread::ScopedJoinHandle<'_, _>>| match handle {
                Ok(handle) => handle.join().unwrap_or_else(|panic| Err(panicked(&*panic))),
                Err(source) => Err(TrainingError::Thread(source)),
            };
            spawned.into_iter().map(join).collect()
        });
        for result in results {
            fitted.push(result?);
        }
    }
    Ok(fitted)
}

/// One member's run.
struct MemberRun<'a> {
    architecture: &'a Architecture,
    sets: &'a TrainingSets,
    parameters: &'a TrainingParameters,
    control: &'a TrainingControl,
    member: usize,
}

/// What stays the same over the steps of a run.
struct Steps {
    batches: usize,
    epochs: usize,
    learning_rate: f64,
    positive_weight: Tensor,
    positive_log_weight: f32,
}

impl MemberRun<'_> {
    fn fit(&self, start: &Start) -> Result<FittedMember, TrainingError> {
        let device = self.sets.device();
        let network = Member::new(self.architecture, &start.weights, device)?;
        let steps = self.steps(start.warm)?;
        let mut optimizer = self.optimizer(&network, steps.learning_rate)?;
        let seed = |purpose| derived_seed(self.parameters.seed, purpose, self.member);
        let mut random = ChaCha8Rng::seed_from_u64(seed("order"));
        let longest = self.parameters.batch_size.min(self.sets.train.rows())
            * self.architecture.hidden.max(self.architecture.cardinalities.len());
        let dropout = self.parameters.dropout;
        let mut masks = Masks::new(dropout, self.parameters.unseen_share, longest, seed("masks"), device)?;

        let mut epochs = Vec::new();
        let mut best: Option<(EpochRecord, MemberWeights)> = None;
        if start.warm {
            let record = self.validate(&network, &steps, 0, None, Instant::now())?;
            best = Some((record.clone(), start.weights.clone()));
            self.note(&mut epochs, record, &steps);
        }
        for epoch in 1..=steps.epochs {
            let began = Instant::now();
            let loss = self.epoch(&network, &mut optimizer, &mut masks, &mut random, &steps, epoch)?;
            let record = self.validate(&network, &steps, epoch, Some(loss), began)?;
            let better = best.as_ref().is_none_or(|(best, _)| record.validation_log_loss < best.validation_log_loss);
            self.note(&mut epochs, record.clone(), &steps);
            if better {
                best = Some((record, network.weights()?));
            }
            let best_epoch = best.as_ref().map_or(0, |(best, _)| best.epoch);
            if epoch - best_epoch >= self.parameters.patience {
                break;
            }
        }
        // `max_epochs` is at least 1, so there is a best epoch.
        let (best, weights) = best.ok_or(TrainingError::Cancelled { epoch: 0 })?;
        Ok(FittedMember { weights, epochs, best })
    }

    fn steps(&self, warm: bool) -> Result<Steps, TrainingError> {
        let parameters = self.parameters;
        let rows = self.sets.train.rows();
        let weight = positive_weight(parameters.class_weighting, &self.sets.train);
        let factor = if warm { parameters.warm_start_learning_rate_factor } else { 1.0 };
        let tensor = Tensor::f_from_slice(&[weight as f32]).and_then(|t| t.f_to_device(self.sets.device()));
        Ok(Steps {
            batches: rows.div_ceil(parameters.batch_size).max(1),
            epochs: if warm { parameters.warm_start_max_epochs } else { parameters.max_epochs },
            learning_rate: parameters.learning_rate * factor,
            positive_weight: tensor.while_doing("weighing the classes")?,
            positive_log_weight: weight.ln() as f32,
        })
    }

    fn optimizer(&self, network: &Member, learning_rate: f64) -> Result<Optimizer, TrainingError> {
        let wd = self.parameters.weight_decay;
        let built = match self.parameters.optimizer {
            OptimizerKind::Adam => Adam { wd, ..Adam::default() }.build(network.store(), learning_rate),
            OptimizerKind::AdamW => AdamW { wd, ..AdamW::default() }.build(network.store(), learning_rate),
        };
        built.while_doing("building the optimiser")
    }

    /// One pass over the training rows; answers the mean loss.
    fn epoch(
        &self,
        network: &Member,
        optimizer: &mut Optimizer,
        masks: &mut Masks,
        random: &mut ChaCha8Rng,
        steps: &Steps,
        epoch: usize,
    ) -> Result<f64, TrainingError> {
        let doing = "training";
        let train = &self.sets.train;
        let mut order: Vec<i64> = (0..train.rows() as i64).collect();
        order.shuffle(random);
        let order = Tensor::f_from_slice(&order).and_then(|t| t.f_to_device(self.sets.device())).while_doing(doing)?;
        let mut total = Tensor::f_zeros([1], (Kind::Double, self.sets.device())).while_doing(doing)?;
        for batch in 0..steps.batches {
            stop_if_asked(self.control, epoch)?;
            // Batches of equal size: a tiny last one would pull the weights about.
            let bounds = |n: usize| (n * train.rows() / steps.batches) as i64;
            let (start, end) = (bounds(batch), bounds(batch + 1));
            let indexes = order.f_narrow(0, start, end - start).while_doing(doing)?;
            let step = (epoch - 1) * steps.batches + batch;
            let factor = learning_rate_factor(self.parameters.schedule, step, steps.epochs * steps.batches);
            optimizer.set_lr(steps.learning_rate * factor);
            let inputs = train.inputs.select(&indexes)?;
            let logits = network.forward(&inputs, Some(masks)).while_doing(doing)?;
            let loss = self.loss(&logits, &indexes, steps).while_doing(doing)?;
            optimizer.zero_grad();
            loss.f_backward().while_doing(doing)?;
            optimizer.step();
            let share = (end - start) as f64 / train.rows() as f64;
            let weighted = loss.f_detach().and_then(|t| t.f_to_kind(Kind::Double)).and_then(|t| t.f_mul_scalar(share));
            total = weighted.and_then(|weighted| total.f_add(&weighted)).while_doing(doing)?;
        }
        let loss = total.f_double_value(&[0]).while_doing(doing)?;
        if loss.is_finite() {
            return Ok(loss);
        }
        let learning_rate = steps.learning_rate;
        Err(TrainingError::NotFinite { member: self.member, epoch, loss, learning_rate })
    }

    fn loss(&self, logits: &Tensor, indexes: &Tensor, steps: &Steps) -> Result<Tensor, tch::TchError> {
        let smoothing = self.parameters.label_smoothing;
        let mut targets = self.sets.train.targets.f_index_select(0, indexes)?;
        if smoothing > 0.0 {
            targets = targets.f_mul_scalar(1.0 - smoothing)?.f_add_scalar(0.5 * smoothing)?;
        }
        let weights = self.sets.train.weights.f_index_select(0, indexes)?;
        logits.f_binary_cross_entropy_with_logits(
            &targets,
            Some(&weights),
            Some(&steps.positive_weight),
            Reduction::Mean,
        )
    }

    fn validate(
        &self,
        network: &Member,
        steps: &Steps,
        epoch: usize,
        train_loss: Option<f64>,
        began: Instant,
    ) -> Result<EpochRecord, TrainingError> {
        let tail = &self.sets.tail;
        // A class weight shifts the log-odds by its logarithm; undone here, so that
        // the log-loss judges probabilities and not the weighting.
        let probability = |logit: f32| 1.0 / (1.0 + (steps.positive_log_weight - logit).exp());
        let scores: Vec<f32> = network.logits(&tail.inputs)?.into_iter().map(probability).collect();
        let log_loss = metrics::log_loss(&scores, &tail.labels, None).unwrap_or(f64::NAN);
        let learning_rate = steps.learning_rate;
        if !log_loss.is_finite() {
            return Err(TrainingError::NotFinite { member: self.member, epoch, loss: log_loss, learning_rate });
        }
        let last_step = (epoch.max(1) * steps.batches).saturating_sub(1);
        let factor = learning_rate_factor(self.parameters.schedule, last_step, steps.epochs * steps.batches);
        let seconds = began.elapsed().as_secs_f64();
        let rows = if epoch == 0 { 0.0 } else { self.sets.train.rows() as f64 };
        Ok(EpochRecord {
            member: self.member,
            epoch,
            train_loss,
            validation_log_loss: log_loss,
            validation_roc_auc: metrics::roc_auc(&scores, &tail.labels),
            learning_rate: learning_rate * factor,
            seconds,
            rows_per_second: rows / seconds.max(1e-9),
        })
    }

    fn note(&self, epochs: &mut Vec<EpochRecord>, record: EpochRecord, steps: &Steps) {
        self.control.tell(&Progress::EpochFinished { max_epochs: steps.epochs, record: record.clone() });
        epochs.push(record);
    }
}

/// Share of the steps in which the cosine schedule warms up.
const WARM_UP: f64 = 0.05;
/// Share of the steps in which the one-cycle schedule rises.
const RISE: f64 = 0.3;
/// Where a rise begins and a fall ends, as a share of the highest rate.
const FLOOR: f64 = 0.01;

/// The factor of the highest learning rate at `step` of `steps`, from 0.
fn learning_rate_factor(schedule: Schedule, step: usize, steps: usize) -> f64 {
    let progress = (step as f64 + 0.5) / steps.max(1) as f64;
    match schedule {
        Schedule::Constant => 1.0,
        Schedule::Cosine => rise_and_fall(progress, WARM_UP),
        Schedule::OneCycle => rise_and_fall(progress, RISE),
    }
}

fn rise_and_fall(progress: f64, rise: f64) -> f64 {
    if progress < rise {
        return FLOOR + (1.0 - FLOOR) * progress / rise;
    }
    let fallen = ((progress - rise) / (1.0 - rise)).clamp(0.0, 1.0);
    FLOOR + (1.0 - FLOOR) * (1.0 + (std::f64::consts::PI * fallen).cos()) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schedule_stays_within_its_bounds_and_a_cosine_ends_near_nothing() {
        for schedule in [Schedule::Constant, Schedule::Cosine, Schedule::OneCycle] {
            assert!((0..100).all(|step| (0.0..=1.0).contains(&learning_rate_factor(schedule, step, 100))));
        }
        assert!(learning_rate_factor(Schedule::Cosine, 99, 100) < 0.02);
        assert!(learning_rate_factor(Schedule::Cosine, 5, 100) > 0.98);
        assert!(learning_rate_factor(Schedule::OneCycle, 5, 100) < 0.25);
        assert!(learning_rate_factor(Schedule::OneCycle, 30, 100) > 0.98);
        assert_eq!(learning_rate_factor(Schedule::Constant, 0, 1), 1.0);
    }
}
