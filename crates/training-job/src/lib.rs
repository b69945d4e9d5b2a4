//! A training job: everything that defines a run, who can do it, and the documents that the daemon and a worker exchange.
//!
//! Nothing here computes with tensors: the daemon plans runs and reads their reports without libtorch.

pub mod control;
pub mod documents;
pub mod holdout;
pub mod job;
pub mod params;
pub mod report;
pub mod sample_weights;
pub mod tune;

pub use control::{EpochRecord, Progress, TrainingControl};
pub use holdout::{HoldoutSettings, Part, part_of};
pub use job::{BundlePlace, Trainer, TrainingJob, TrainingResult};
pub use params::{CheckedParameters, ParameterFaults, TrainingParameters};
pub use report::TrainingReport;
pub use sample_weights::{TrainingPolicy, sample_weights};
pub use tune::{TuningParameters, TuningReport};
