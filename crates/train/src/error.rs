//! Everything that can go wrong between examples and a bundle.

use delayd_core::error::ErrorKind;
use delayd_features::SpecError;
use delayd_model::{BundleError, NetError};
use delayd_training_job::TrainingControl;
use delayd_training_job::params::ParameterFaults;

/// Why a training run ended without a model.
#[derive(Debug, thiserror::Error)]
pub enum TrainingError {
    /// The dataset cannot be read.
    #[error(transparent)]
    Data(#[from] delayd_data::DataError),
    /// Going through the examples again brought others.
    #[error(
        "row {row} of the examples was not there when they were read again; read the dataset's parts and try again"
    )]
    ExamplesChanged { row: usize },
    /// The parameters cannot be used.
    #[error("training parameters cannot be used")]
    Parameters(#[from] ParameterFaults),
    #[error(
        "training set has {found} {what}, at least {needed} are needed; widen the training window or lower `min_rows`"
    )]
    TooFewRows { what: &'static str, found: usize, needed: usize },
    #[error(
        "{part} of {rows} rows holds no {missing} flight; widen the window, or check the outcome column of its sources"
    )]
    OneClass { part: &'static str, rows: usize, missing: &'static str },
    #[error(
        "loss of member {member} became {loss} in epoch {epoch}; lower `learning_rate` (now {learning_rate}) or check the inputs"
    )]
    NotFinite { member: usize, epoch: usize, loss: f64, learning_rate: f64 },
    #[error("training was cancelled in epoch {epoch}")]
    Cancelled {
        /// The epoch in which it stopped, from 1; 0 before the first.
        epoch: usize,
    },
    #[error("libtorch failed while {doing}")]
    Torch { doing: &'static str, source: tch::TchError },
    #[error("features cannot be fitted to the training set")]
    Features(#[from] SpecError),
    #[error("trained model cannot be bundled")]
    Bundle(#[from] BundleError),
    #[error("trained weights cannot be read by the plain forward pass")]
    Weights(#[from] NetError),
    #[error("weights cannot be written or read as safetensors")]
    Export(#[from] safetensors::SafeTensorError),
    #[error("training record cannot be written as JSON")]
    Record(#[from] serde_json::Error),
    #[error(
        "plain forward pass and libtorch disagree by {difference:.6} on row {row} (tolerance {tolerance}): {plain:.6} against {torch:.6}"
    )]
    Disagreement { row: usize, plain: f32, torch: f32, difference: f32, tolerance: f32 },
    #[error("training thread panicked: {0}")]
    Panicked(String),
    #[error("training thread cannot be started")]
    Thread(#[source] std::io::Error),
    #[error("the run's folder cannot be used: {0}")]
    Folder(String),
    #[error("device `{wanted}` was requested, but {reason}; set `device = \"auto\"` to train on the CPU")]
    Device { wanted: &'static str, reason: &'static str },
}

impl TrainingError {
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
            | Self::ExamplesChanged { .. }
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
