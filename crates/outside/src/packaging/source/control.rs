//! How builds are stopped: one by itself when nobody waits for it any more, all of
//! them when the daemon stops.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// All builds of a daemon.
#[derive(Debug, Clone, Default)]
pub struct Builds(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    stopping: AtomicBool,
    running: Mutex<usize>,
    changed: Condvar,
}

impl Builds {
    /// Ends every build and waits until its processes are gone, but no longer than
    /// `limit`. No new one begins after that.
    pub fn stop(&self, limit: Duration) {
        self.0.stopping.store(true, Ordering::Release);
        let running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.changed.wait_timeout_while(running, limit, |running| *running > 0);
        let (running, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if *running > 0 {
            tracing::error!(builds = *running, "a build did not end in time; the next start ends what is left of it");
        }
    }

    /// Whether the daemon stops.
    #[must_use]
    pub fn are_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::Acquire)
    }

    /// A build begins; it counts as running until the answer is dropped.
    pub fn begin(&self) -> BuildControl {
        *self.0.running.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        BuildControl { cancelled: Arc::default(), begun: Some(Arc::new(Begun(self.clone()))) }
    }
}

/// Counts a build as running.
#[derive(Debug)]
struct Begun(Builds);

impl Drop for Begun {
    fn drop(&mut self) {
        *self.0.0.running.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.0.changed.notify_all();
    }
}

/// One build's wish to stop. The default is a build that only stops by itself.
#[derive(Debug, Clone, Default)]
pub struct BuildControl {
    cancelled: Arc<AtomicBool>,
    begun: Option<Arc<Begun>>,
}

impl BuildControl {
    /// Ends the build.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    /// Whether it should end.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.cancelled.load(Ordering::Acquire) || self.begun.as_ref().is_some_and(|begun| begun.0.are_stopping())
    }

    /// Ends the build when the answer is dropped: nobody waits for it any more.
    pub fn cancel_on_drop(&self) -> CancelOnDrop {
        CancelOnDrop(Arc::clone(&self.cancelled))
    }
}

/// See [`BuildControl::cancel_on_drop`]. It does not count as running.
pub struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stopping_waits_for_what_runs() {
        let builds = Builds::default();
        let control = builds.begin();
        assert!(!control.is_stopped());
        let thread = std::thread::spawn(move || {
            while !control.is_stopped() {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        builds.stop(Duration::from_secs(60));
        assert!(thread.join().is_ok());
        assert!(builds.begin().is_stopped(), "none begins after the stop");
    }

    #[test]
    fn a_build_that_nobody_waits_for_is_cancelled() {
        let control = BuildControl::default();
        let guard = control.cancel_on_drop();
        assert!(!control.is_stopped());
        drop(guard);
        assert!(control.is_stopped());
    }
}
