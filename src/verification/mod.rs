//! Is a fresh deployment what it should be? [`probe`] replays rows at it as real
//! requests, [`verify`] judges what came of it and what the cluster says. Both
//! know nothing of approving or rolling back: that is the coordinator's.

mod actor;
pub mod measurement;
pub mod messages;
pub mod probe;
mod stage;
pub mod verify;

pub use actor::VerificationActor;
pub use measurement::{Measurement, MeasurementSource};
pub use stage::VerificationStage;
pub use verify::{Check, CheckOutcome, Verdict, VerificationInputs, VerificationPolicy, VerificationReport};
