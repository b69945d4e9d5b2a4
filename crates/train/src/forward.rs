//! A bundle's network in libtorch, outside of training: what the benchmark compares the plain forward pass with. It is
//! here because no other crate links libtorch.

use delayd_features::{Encoder, FlightRow};
use delayd_model::Bundle;
use tch::Device;

use crate::error::TrainingError;
use crate::network::{Member, ensemble_logits};
use crate::tensors::EncodedRows;
use crate::threads::limit;
use crate::weights::of_bundle;

/// All members of a bundle's network, on the CPU.
#[derive(Debug)]
pub struct TorchNet(Vec<Member>);

/// Encoded rows as tensors on the CPU.
#[derive(Debug)]
pub struct TorchRows(EncodedRows);

impl TorchNet {
    /// Builds the network. From then on libtorch computes on the calling thread with `threads` threads.
    pub fn of_bundle(bundle: &Bundle, threads: usize) -> Result<Self, TrainingError> {
        limit(threads);
        let architecture = &bundle.model.architecture;
        let members = of_bundle(bundle)?;
        let members = members.iter().map(|weights| Member::new(architecture, weights, Device::Cpu));
        members.collect::<Result<_, _>>().map(Self)
    }

    /// The logit of each row, the mean over the members.
    pub fn logits(&self, rows: &TorchRows) -> Result<Vec<f32>, TrainingError> {
        ensemble_logits(&self.0, &rows.0)
    }
}

impl TorchRows {
    /// Encodes rows, in order.
    pub fn encode(encoder: &Encoder, rows: &[&FlightRow]) -> Result<Self, TrainingError> {
        EncodedRows::encode(encoder, rows, Device::Cpu).map(Self)
    }
}
