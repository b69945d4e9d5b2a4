//! Where the tensors live: CUDA where there is one, the CPU otherwise.
//!
//! Whoever starts the worker loads `libtorch_cuda.so` (`LD_PRELOAD`, see `systemd/examples/gpu.conf`);
//! here libtorch is only asked what it sees.

use tch::Device;

use crate::error::TrainingError;
use delayd_training_job::params::DevicePreference;

/// The device for a preference, and a line for the run's record.
pub fn choose(preference: DevicePreference) -> Result<(Device, String), TrainingError> {
    let gpus = if preference == DevicePreference::Cpu { 0 } else { visible_gpus() };
    match (preference, gpus) {
        (DevicePreference::Cuda, 0) => {
            Err(TrainingError::Device { wanted: "cuda", reason: "libtorch sees no CUDA device" })
        }
        (_, 0) => Ok((Device::Cpu, "cpu".to_owned())),
        (_, gpus) => Ok((Device::Cuda(0), format!("cuda:0 of {gpus}"))),
    }
}

fn visible_gpus() -> i64 {
    if tch::Cuda::is_available() { tch::Cuda::device_count() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_chosen_when_asked_for_and_a_gpu_is_never_invented() {
        assert_eq!(choose(DevicePreference::Cpu).unwrap(), (Device::Cpu, "cpu".to_owned()));
        if visible_gpus() == 0 {
            assert_eq!(choose(DevicePreference::Auto).unwrap().0, Device::Cpu);
            assert!(choose(DevicePreference::Cuda).unwrap_err().to_string().contains("sees no CUDA device"));
        }
    }
}
