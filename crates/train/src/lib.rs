//! Training: from examples to a bundle, on a thread of its own.
//!
//! [`train`] is the whole of it: a pure function of examples, parameters and, for a
//! warm start, the live model. It does no I/O: the registry stores the bundle, the
//! ledger the report. The gate (`delayd_judge::evaluation::gate`) decides whether the result
//! proceeds; nothing here compares models with each other except the search's trials.

mod bundle_writer;
pub mod device;
pub mod error;
pub mod input;
pub mod job;
pub mod network;
mod rows;
pub mod run;
mod trainer;
mod trial;
mod weights;
pub mod worker;

pub use device::run_on_thread;
pub use error::TrainingError;
pub use run::{TrainedModel, TrainingInput, train, train_trial};
