//! Threads: libtorch's own, and the one that training runs on.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread::JoinHandle;

use crate::error::TrainingError;

/// libtorch keeps one number for the process and copies it into each thread when
/// that thread first computes; the lock keeps the two steps together.
static LIMIT: Mutex<()> = Mutex::new(());

/// Lets libtorch use so many threads for what the calling thread computes.
pub(crate) fn limit(threads: usize) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

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
