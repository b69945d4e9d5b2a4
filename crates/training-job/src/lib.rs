//! A training job: everything that defines a run, who can do it, and the documents that the daemon and a worker exchange.
//!
//! Nothing here computes with tensors: the daemon plans runs and reads their reports without libtorch.

pub mod documents;
pub mod job;
pub mod params;
pub mod policy;
pub mod report;
pub mod tune;

pub use job::{Trainer, TrainingJob, TrainingResult};
pub use params::{CheckedParameters, ParameterFaults, TrainingParameters};
pub use policy::{HoldoutSettings, Part, TrainingPolicy, part_of, sample_weights};
pub use report::{EpochRecord, Progress, TrainingControl, TrainingReport};
pub use tune::{TuningParameters, TuningReport};
