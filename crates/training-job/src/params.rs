//! The parameters of a training run, checked as a whole before anything starts.

use delayd_core::Stored;
use std::fmt;

use delayd_core::fault::is_positive;
use serde::{Deserialize, Serialize};

/// What the configuration asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DevicePreference {
    /// CUDA where libtorch sees a GPU, otherwise the CPU.
    #[default]
    Auto,
    /// The CPU, whatever there is.
    Cpu,
    /// The first GPU, or an error.
    Cuda,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerKind {
    /// Adam (Kingma & Ba 2015); weight decay acts through the gradient.
    Adam,
    /// AdamW (Loshchilov & Hutter 2019); weight decay acts on the weights.
    AdamW,
}

/// How the learning rate goes over the steps of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    Constant,
    /// Short warm-up, then half a cosine down to nothing at `max_epochs`.
    Cosine,
    /// Up over the first 30 %, then half a cosine down (Smith & Topin 2019).
    OneCycle,
}

/// Which rows are kept from learning, for early stopping, calibration and threshold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValidationTail {
    /// The last days before the newest example.
    Days(f64),
    /// The last share of the rows in time order.
    Fraction(f64),
}

/// How much a delayed flight weighs against a punctual one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassWeighting {
    /// The same.
    None,
    /// As many times more as it is rarer.
    Balanced,
    /// This many times more.
    Factor(f64),
}

/// How the probability is chosen from which a flight counts as delayed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThresholdChoice {
    /// The one with the best F1 on the tail.
    MaxF1,
    /// The highest that finds this share of the tail's delayed flights.
    TargetRecall(f64),
    Fixed(f64),
}

/// Width of an embedding: `min(max_width, round(factor · values^exponent))`, at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddingRule {
    /// Multiplies.
    pub factor: f64,
    /// Power of the number of values.
    pub exponent: f64,
    /// No wider than this.
    pub max_width: usize,
}

impl Default for EmbeddingRule {
    fn default() -> Self {
        Self { factor: 1.6, exponent: 0.5, max_width: 16 }
    }
}

impl EmbeddingRule {
    /// The width for a category of so many indexes.
    pub fn width(&self, cardinality: usize) -> usize {
        let width = (self.factor * (cardinality as f64).powf(self.exponent)).round() as usize;
        width.clamp(1, self.max_width.max(1))
    }
}

/// Every parameter of a run. What the defaults reach on New York's 2013 stands in
/// `scripts/bench/quality/README.md`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingParameters {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Residual blocks.
    pub blocks: usize,
    /// Networks whose logits are averaged.
    pub members: usize,
    /// Width of the embeddings.
    pub embedding: EmbeddingRule,
    /// Share of a block's inner values dropped in training.
    pub dropout: f64,
    /// Share of category values treated as unseen in training, so that the bucket for the unseen is learnt.
    pub unseen_share: f64,
    /// The optimiser.
    pub optimizer: OptimizerKind,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Learning rate over the steps.
    pub schedule: Schedule,
    /// Rows per step.
    pub batch_size: usize,
    /// Passes over the rows, at most.
    pub max_epochs: usize,
    /// Epochs without a better validation loss before it stops.
    pub patience: usize,
    /// Rows kept from learning.
    pub validation_tail: ValidationTail,
    /// Class imbalance.
    pub class_weighting: ClassWeighting,
    /// Labels are drawn this far towards one half.
    pub label_smoothing: f64,
    /// The threshold.
    pub threshold: ThresholdChoice,
    /// Age in days at which a row weighs half; `None` lets all weigh the same.
    pub history_half_life_days: Option<f64>,
    /// Whether to start from the live model's weights where they fit.
    pub warm_start: bool,
    /// Multiplies the learning rate of a warm start.
    pub warm_start_learning_rate_factor: f64,
    /// Passes over the rows of a warm start, at most.
    pub warm_start_max_epochs: usize,
    /// Fixes everything random.
    pub seed: u64,
    /// Threads of libtorch; part of what the digest depends on.
    pub torch_threads: usize,
    /// Where to train.
    pub device: DevicePreference,
    /// The drift reference counts the rows of these last days.
    pub reference_days: f64,
    /// Rows with an outcome without which no model is trained.
    pub min_rows: usize,
}

impl Stored for TrainingParameters {
    const NAME: &'static str = "training parameters";
}

impl Default for TrainingParameters {
    fn default() -> Self {
        Self {
            hidden: 128,
            blocks: 2,
            members: 1,
            embedding: EmbeddingRule::default(),
            dropout: 0.2,
            unseen_share: 0.005,
            optimizer: OptimizerKind::AdamW,
            learning_rate: 2e-3,
            weight_decay: 1e-2,
            schedule: Schedule::Cosine,
            batch_size: 1024,
            max_epochs: 6,
            patience: 2,
            validation_tail: ValidationTail::Days(14.0),
            class_weighting: ClassWeighting::None,
            label_smoothing: 0.0,
            threshold: ThresholdChoice::MaxF1,
            history_half_life_days: None,
            warm_start: true,
            warm_start_learning_rate_factor: 0.5,
            warm_start_max_epochs: 3,
            seed: 2013,
            torch_threads: 2,
            device: DevicePreference::Auto,
            reference_days: 56.0,
            min_rows: 500,
        }
    }
}

/// Every value that cannot be used, with its key and what was expected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParameterFaults(pub Vec<String>);

impl ParameterFaults {
    pub(crate) fn expect(&mut self, holds: bool, key: &str, given: impl fmt::Debug, expected: &str) {
        if !holds {
            self.0.push(format!("`{key}` is {given:?}, expected {expected}"));
        }
    }

    fn count(&mut self, key: &str, given: usize, most: usize, expected: &str) {
        self.expect((1..=most).contains(&given), key, given, expected);
    }

    pub(crate) fn or<T>(self, checked: T) -> Result<T, Self> {
        if self.0.is_empty() { Ok(checked) } else { Err(self) }
    }
}

impl fmt::Display for ParameterFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for ParameterFaults {}

/// Parameters that were checked; there is no other way to get them.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct CheckedParameters(TrainingParameters);

impl CheckedParameters {
    pub fn into_inner(self) -> TrainingParameters {
        self.0
    }
}

impl std::ops::Deref for CheckedParameters {
    type Target = TrainingParameters;
    fn deref(&self) -> &TrainingParameters {
        &self.0
    }
}

fn share(value: f64) -> bool {
    (0.0..1.0).contains(&value)
}

impl TrainingParameters {
    /// Checks every value.
    pub fn check(self) -> Result<CheckedParameters, ParameterFaults> {
        let mut faults = ParameterFaults::default();
        self.check_network(&mut faults);
        self.check_optimisation(&mut faults);
        self.check_data(&mut faults);
        faults.or(CheckedParameters(self))
    }

    fn check_network(&self, faults: &mut ParameterFaults) {
        faults.count("hidden", self.hidden, 4096, "a width from 1 to 4096");
        faults.expect(self.blocks <= 32, "blocks", self.blocks, "0 to 32 blocks");
        faults.count("members", self.members, 16, "1 to 16 members");
        let EmbeddingRule { factor, exponent, max_width } = self.embedding;
        faults.expect(is_positive(factor), "embedding.factor", factor, "a positive number");
        faults.expect((0.0..=1.0).contains(&exponent), "embedding.exponent", exponent, "a power from 0 to 1");
        faults.count("embedding.max_width", max_width, 512, "a width from 1 to 512");
        faults.expect(share(self.dropout), "dropout", self.dropout, "a share from 0 to below 1");
        faults.expect(share(self.unseen_share), "unseen_share", self.unseen_share, "a share from 0 to below 1");
    }

    fn check_optimisation(&self, faults: &mut ParameterFaults) {
        let Self { learning_rate: rate, weight_decay: decay, label_smoothing: smoothing, .. } = *self;
        faults.expect(is_positive(rate) && rate <= 1.0, "learning_rate", rate, "a number above 0, at most 1");
        faults.expect(decay.is_finite() && decay >= 0.0, "weight_decay", decay, "a number from 0");
        faults.count("batch_size", self.batch_size, 1 << 20, "1 to 1048576 rows");
        faults.count("max_epochs", self.max_epochs, 1000, "1 to 1000 epochs");
        faults.count("patience", self.patience, 1000, "1 to 1000 epochs");
        faults.count("warm_start_max_epochs", self.warm_start_max_epochs, 1000, "1 to 1000 epochs");
        let factor = self.warm_start_learning_rate_factor;
        faults.expect(is_positive(factor), "warm_start_learning_rate_factor", factor, "a positive number");
        let holds = (0.0..0.5).contains(&smoothing);
        faults.expect(holds, "label_smoothing", smoothing, "a share from 0 to below 0.5");
        faults.count("torch_threads", self.torch_threads, 1024, "1 to 1024 threads");
        if let ClassWeighting::Factor(factor) = self.class_weighting {
            faults.expect(is_positive(factor), "class_weighting.factor", factor, "a positive number");
        }
    }

    fn check_data(&self, faults: &mut ParameterFaults) {
        match self.validation_tail {
            ValidationTail::Days(days) => {
                faults.expect(is_positive(days), "validation_tail.days", days, "a positive number of days");
            }
            ValidationTail::Fraction(part) => {
                faults.expect(share(part) && part > 0.0, "validation_tail.fraction", part, "a share between 0 and 1");
            }
        }
        match self.threshold {
            ThresholdChoice::MaxF1 => {}
            ThresholdChoice::TargetRecall(recall) => {
                let holds = recall > 0.0 && recall <= 1.0;
                faults.expect(holds, "threshold.target_recall", recall, "a share above 0, at most 1");
            }
            ThresholdChoice::Fixed(value) => {
                let holds = (0.0..=1.0).contains(&value);
                faults.expect(holds, "threshold.fixed", value, "a probability from 0 to 1");
            }
        }
        if let Some(days) = self.history_half_life_days {
            faults.expect(is_positive(days), "history_half_life_days", days, "a positive number of days, or none");
        }
        let days = self.reference_days;
        faults.expect(is_positive(days), "reference_days", days, "a positive number of days");
        faults.expect(self.min_rows >= 50, "min_rows", self.min_rows, "at least 50 rows");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_pass_and_survive_toml() {
        let defaults = TrainingParameters::default();
        let text = toml::to_string(&defaults).unwrap();
        assert_eq!(toml::from_str::<TrainingParameters>(&text).unwrap(), defaults);
        defaults.check().unwrap();
    }

    #[test]
    fn every_fault_is_reported_at_once_under_its_key() {
        let faults = TrainingParameters {
            hidden: 0,
            dropout: 1.0,
            learning_rate: f64::NAN,
            validation_tail: ValidationTail::Fraction(1.5),
            threshold: ThresholdChoice::TargetRecall(0.0),
            history_half_life_days: Some(-1.0),
            ..TrainingParameters::default()
        }
        .check()
        .unwrap_err();
        let keys: Vec<&str> = faults.0.iter().filter_map(|fault| fault.split('`').nth(1)).collect();
        let expected = [
            "hidden",
            "dropout",
            "learning_rate",
            "validation_tail.fraction",
            "threshold.target_recall",
            "history_half_life_days",
        ];
        assert_eq!(keys, expected);
        assert!(faults.to_string().contains("`hidden` is 0, expected a width from 1 to 4096"), "{faults}");
    }

    #[test]
    fn an_unknown_key_is_refused_and_choices_read_as_they_are_written() {
        assert!(toml::from_str::<TrainingParameters>("learning_rat = 0.1").is_err());
        let read: TrainingParameters =
            toml::from_str("validation_tail = { days = 7 }\nthreshold = { target_recall = 0.6 }\noptimizer = \"adam\"")
                .unwrap();
        assert_eq!(read.validation_tail, ValidationTail::Days(7.0));
        assert_eq!(read.threshold, ThresholdChoice::TargetRecall(0.6));
        assert_eq!(read.optimizer, OptimizerKind::Adam);
    }

    #[test]
    fn embeddings_grow_with_the_root_of_the_values_up_to_their_bound() {
        let rule = EmbeddingRule::default();
        assert_eq!([1, 4, 25, 1000].map(|values| rule.width(values)), [2, 3, 8, 16]);
    }
}
