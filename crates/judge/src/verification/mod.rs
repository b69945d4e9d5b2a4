//! Is a fresh deployment what it should be? [`probe`] replays rows at it as real
//! requests, [`verify`] judges what came of it and what the cluster says. Both
//! know nothing of approving or rolling back: that is the coordinator's.

pub mod measurement;
pub mod verify;

pub use measurement::{Measurement, MeasurementSource};
pub use verify::{Check, CheckOutcome, Verdict, VerificationInputs, VerificationPolicy, VerificationReport};
