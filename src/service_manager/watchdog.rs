//! The beat for the service manager's watchdog, on a thread of its own: where the
//! daemon's threads stand still it can still say why it no longer beats.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::ServiceManager;

/// Beats while the daemon is well; ends when it is dropped.
#[derive(Debug)]
pub struct Watchdog {
    /// `None` only while dropping.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Beats four times per `period`, as long as `illness` finds nothing. What it finds
    /// is logged and told once, and so is its end.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(
        manager: ServiceManager,
        period: Duration,
        illness: impl Fn() -> Option<String> + Send + 'static,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            let mut ill = None;
            loop {
                let now = illness();
                match &now {
                    None => manager.beat(),
                    Some(why) if ill != now => {
                        tracing::error!(error = why, "the service manager's watchdog gets no beat");
                        manager.status(&format!("no beat for the watchdog: {why}"));
                    }
                    Some(_) => {}
                }
                if now.is_none() && ill.is_some() {
                    tracing::info!("the service manager's watchdog gets its beats again");
                }
                ill = now;
                if stopped.recv_timeout(period / 4) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It panics only where `illness` does, and that was told by the panic itself.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::sync::{Arc, Mutex};
    use std::time::Instant;

    use super::*;

    const PERIOD: Duration = Duration::from_millis(200);

    fn next(socket: &UnixDatagram) -> Option<String> {
        let mut message = [0; 1024];
        let length = socket.recv(&mut message).ok()?;
        Some(String::from_utf8_lossy(&message[..length]).trim_end().to_owned())
    }

    #[test]
    fn it_beats_while_the_daemon_is_well_and_says_why_when_it_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let illness = Arc::new(Mutex::new(None));
        let seen = illness.clone();
        let watchdog = Watchdog::start(ServiceManager::at(path), PERIOD, move || seen.lock().unwrap().clone()).unwrap();
        let begun = Instant::now();
        for _ in 0..4 {
            assert_eq!(next(&socket).unwrap(), "WATCHDOG=1");
        }
        assert!(begun.elapsed() < PERIOD * 4, "several beats per period: {:?}", begun.elapsed());

        *illness.lock().unwrap() = Some("actor `data` hangs".to_owned());
        let told = std::iter::from_fn(|| next(&socket)).find(|message| message != "WATCHDOG=1");
        assert_eq!(told.unwrap(), "STATUS=no beat for the watchdog: actor `data` hangs");
        socket.set_read_timeout(Some(PERIOD * 2)).unwrap();
        assert_eq!(next(&socket), None, "silence from then on");

        *illness.lock().unwrap() = None;
        assert_eq!(next(&socket).unwrap(), "WATCHDOG=1");
        drop(watchdog);
        while next(&socket).is_some() {}
    }
}
