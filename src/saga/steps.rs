//! The steps of a cycle by name and place. What each does stands in `coordinator::cycle`.
//!
//! A step's position is its place in the journal's key: it never changes, and a new step takes a number between two
//! others (decision 0009).

use super::StepName;

/// New flight logs are taken in.
pub const INGEST: StepName = StepName::new(10, "ingest");
/// What is taken in is frozen under a version.
pub const DATASET: StepName = StepName::new(20, "dataset");
/// Training: its progress is told in the journal.
pub const TRAIN: StepName = StepName::new(30, "train");
/// Challenger and live model are compared.
pub const GATE: StepName = StepName::new(40, "gate");
/// The challenger gets its version.
pub const REGISTER: StepName = StepName::new(50, "register");
/// The service's build from its source: its progress is told in the journal.
pub const BUILD: StepName = StepName::new(55, "build");
/// The image is built.
pub const PACKAGE: StepName = StepName::new(60, "package");
/// The image goes to the registry.
pub const PUSH: StepName = StepName::new(70, "push");
/// The release is rolled out.
pub const DEPLOY: StepName = StepName::new(80, "deploy");
/// The release is judged.
pub const VERIFY: StepName = StepName::new(90, "verify");
/// The model becomes the live one.
pub const APPROVE: StepName = StepName::new(100, "approve");

/// The steps, in order.
pub const STEPS: [StepName; 11] =
    [INGEST, DATASET, TRAIN, GATE, REGISTER, BUILD, PACKAGE, PUSH, DEPLOY, VERIFY, APPROVE];
