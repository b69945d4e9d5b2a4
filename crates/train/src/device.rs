//! What computes: the device (CUDA where there is one, the CPU otherwise), libtorch's threads and the one that training
//! runs on, and the versions of the libraries.
//!
//! The starter of the worker loads `libtorch_cuda.so` (`LD_PRELOAD`, see `systemd/examples/gpu.conf`);
//! here libtorch is only asked what it sees.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread::JoinHandle;

use delayd_training_job::params::DevicePreference;
use tch::Device;

use crate::error::TrainingError;

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

/// libtorch keeps one number for the process and copies it into each thread when
/// that thread first computes; the lock keeps the two steps together.
static LIMIT: Mutex<()> = Mutex::new(());

/// Lets libtorch use so many threads for what the calling thread computes.
pub(crate) fn limit_threads(threads: usize) {
    let guard = LIMIT.lock();
    tch::set_num_threads(threads.clamp(1, 1024) as i32);
    // The first question makes libtorch settle the number for this thread.
    let _ = tch::get_num_threads();
    drop(guard);
}

pub(crate) fn panicked(payload: &(dyn Any + Send)) -> TrainingError {
    let text = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
    TrainingError::Panicked(text.unwrap_or("no message").to_owned())
}

/// Runs work on a thread of its own and hands its result to `done`, also when
/// libtorch (or anything else in it) panics.
pub fn run_on_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> Result<T, TrainingError> + Send + 'static,
    done: impl FnOnce(Result<T, TrainingError>) + Send + 'static,
) -> Result<JoinHandle<()>, TrainingError> {
    let caught = delayd_core::spans::carried(move || {
        // The work's captures are dropped with the panic: nothing half-done is seen again.
        let result = catch_unwind(AssertUnwindSafe(work));
        done(result.unwrap_or_else(|payload| Err(panicked(&*payload))));
    });
    std::thread::Builder::new().name(name.to_owned()).spawn(caught).map_err(TrainingError::Thread)
}

/// The version of the libtorch bindings, from `Cargo.lock`.
pub const TCH_VERSION: &str = env!("DELAYD_TCH_VERSION");
/// The libtorch that was built with, from its headers; `unknown` where `LIBTORCH` did not name it.
pub const LIBTORCH_VERSION: &str = match option_env!("DELAYD_LIBTORCH_VERSION") {
    Some(version) => version,
    None => "unknown",
};

pub fn library_versions() -> BTreeMap<String, String> {
    let named = [("tch", TCH_VERSION), ("libtorch", LIBTORCH_VERSION)];
    named.into_iter().map(|(name, version)| (name.to_owned(), version.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn the_cpu_is_chosen_when_asked_for_and_a_gpu_is_never_invented() {
        assert_eq!(choose(DevicePreference::Cpu).unwrap(), (Device::Cpu, "cpu".to_owned()));
        if visible_gpus() == 0 {
            assert_eq!(choose(DevicePreference::Auto).unwrap().0, Device::Cpu);
            assert!(choose(DevicePreference::Cuda).unwrap_err().to_string().contains("sees no CUDA device"));
        }
    }

    #[test]
    fn a_panic_on_the_training_thread_arrives_as_an_error() {
        let (sender, receiver) = mpsc::channel();
        let work = || -> Result<(), TrainingError> { panic!("libtorch said no") };
        let handle = run_on_thread("train-test", work, move |result| sender.send(result).unwrap()).unwrap();
        let error = receiver.recv().unwrap().unwrap_err();
        assert_eq!(error.to_string(), "training thread panicked: libtorch said no");
        handle.join().unwrap();
    }

    #[test]
    fn the_work_runs_on_a_thread_of_the_given_name() {
        let (sender, receiver) = mpsc::channel();
        let work = || Ok(std::thread::current().name().map(str::to_owned));
        run_on_thread("train-run_1", work, move |result| sender.send(result).unwrap()).unwrap();
        assert_eq!(receiver.recv().unwrap().unwrap().as_deref(), Some("train-run_1"));
    }
}
