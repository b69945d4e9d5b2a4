//! Everything that can go wrong between examples and a bundle.

use delayd_features::SpecError;
use delayd_model::{BundleError, NetError};
use delayd_training_job::TrainingControl;

use delayd_core::error::ErrorKind;
use delayd_training_job::params::ParameterFaults;

/// Why a training run ended without a model.
#[derive(Debug, thiserror::Error)]
pub enum TrainingError {
    /// The dataset cannot be read.
    #[error(transparent)]
    Data(#[from] delayd_data::DataError),
    /// The parameters cannot be used.
    #[error("training parameters cannot be used")]
    Parameters(#[from] ParameterFaults),
    /// Not enough to learn from.
    #[error(
        "training set has {found} {what}, at least {needed} are needed; widen the training window or lower `min_rows`"
    )]
    TooFewRows {
        /// Which rows: with an outcome, to learn from, in the validation tail.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many are needed.
        needed: usize,
    },
    /// All outcomes are alike.
    #[error(
        "{part} of {rows} rows holds no {missing} flight; widen the window, or check the outcome column of its sources"
    )]
    OneClass {
        /// Which part of the data.
        part: &'static str,
        /// Its rows.
        rows: usize,
        /// The class that is missing: `delayed` or `punctual`.
        missing: &'static str,
    },
    /// The loss is no number any more.
    #[error(
        "loss of member {member} became {loss} in epoch {epoch}; lower `learning_rate` (now {learning_rate}) or check the inputs"
    )]
    NotFinite {
        /// Which member, from 0.
        member: usize,
        /// Which epoch, from 1.
        epoch: usize,
        /// What the loss was.
        loss: f64,
        /// The learning rate of the run.
        learning_rate: f64,
    },
    /// Somebody asked for it to stop.
    #[error("training was cancelled in epoch {epoch}")]
    Cancelled {
        /// The epoch in which it stopped, from 1; 0 before the first.
        epoch: usize,
    },
    /// libtorch refused an operation.
    #[error("libtorch failed while {doing}")]
    Torch {
        /// What was being done.
        doing: &'static str,
        /// What libtorch said.
        source: tch::TchError,
    },
    /// The features cannot be fitted or applied.
    #[error("features cannot be fitted to the training set")]
    Features(#[from] SpecError),
    /// The bundle cannot be built.
    #[error("trained model cannot be bundled")]
    Bundle(#[from] BundleError),
    /// The weights cannot be read back.
    #[error("trained weights cannot be read by the plain forward pass")]
    Weights(#[from] NetError),
    /// The weights cannot be written, or those of a bundle not read.
    #[error("weights cannot be written or read as safetensors")]
    Export(#[from] safetensors::SafeTensorError),
    /// The parameters or metrics cannot be written as JSON.
    #[error("training record cannot be written as JSON")]
    Record(#[from] serde_json::Error),
    /// The service would compute something else than training did.
    #[error(
        "plain forward pass and libtorch disagree by {difference:.6} on row {row} (tolerance {tolerance}): {plain:.6} against {torch:.6}"
    )]
    Disagreement {
        /// Which row of the check.
        row: usize,
        /// What the service would compute.
        plain: f32,
        /// What libtorch computed.
        torch: f32,
        /// The difference.
        difference: f32,
        /// The largest difference allowed.
        tolerance: f32,
    },
    /// The training thread died.
    #[error("training thread panicked: {0}")]
    Panicked(String),
    /// The thread cannot be started.
    #[error("training thread cannot be started")]
    Thread(#[source] std::io::Error),
    /// The run's folder cannot be used.
    #[error("the run's folder cannot be used: {0}")]
    Folder(String),
    /// A device was demanded that is not there.
    #[error("device `{wanted}` was demanded, but {reason}; set `device = \"auto\"` to train on the CPU")]
    Device {
        /// What was demanded.
        wanted: &'static str,
        /// Why it cannot be had.
        reason: &'static str,
    },
}

impl TrainingError {
    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Parameters(_)
            | Self::TooFewRows { .. }
            | Self::OneClass { .. }
            | Self::NotFinite { .. }
            | Self::Features(_) => ErrorKind::Invalid,
            Self::Data(error) => error.kind(),
            Self::Cancelled { .. } => ErrorKind::Cancelled,
            Self::Device { .. } => ErrorKind::Unavailable,
            Self::Thread(source) => ErrorKind::of_io(source),
            Self::Torch { .. }
            | Self::Bundle(_)
            | Self::Weights(_)
            | Self::Export(_)
            | Self::Record(_)
            | Self::Disagreement { .. }
            | Self::Folder(_)
            | Self::Panicked(_) => ErrorKind::Internal,
        }
    }
}

impl From<TrainingError> for delayd_core::failure::StepFailure {
    fn from(error: TrainingError) -> Self {
        Self::of(error.kind(), &error)
    }
}

/// Ends a run that has to end: it was cancelled, or its time is up.
pub(crate) fn stop_if_asked(control: &TrainingControl, epoch: usize) -> Result<(), TrainingError> {
    if control.must_stop() { Err(TrainingError::Cancelled { epoch }) } else { Ok(()) }
}

/// Puts what was being done before libtorch's own words.
pub(crate) trait WhileDoing<T> {
    fn while_doing(self, doing: &'static str) -> Result<T, TrainingError>;
}

impl<T> WhileDoing<T> for Result<T, tch::TchError> {
    fn while_doing(self, doing: &'static str) -> Result<T, TrainingError> {
        self.map_err(|source| TrainingError::Torch { doing, source })
    }
}
