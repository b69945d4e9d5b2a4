//! The beat for the service manager's watchdog, on a thread of its own: where the
//! daemon's threads are stuck it can still say why it no longer beats. Whether it beats is a pure judgement over what
//! supervision and the timers report.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::ServiceManager;
use crate::supervision::{ActorState, ActorStatus};

/// What is wrong with the daemon as a whole; `None` when it is healthy: an actor that
/// hangs or was given up, an actor whose silence even its watcher has missed, and timers that are stuck.
pub(crate) fn unhealthy_reason(actors: &[ActorStatus], overdue: &[String], silence_limit: Duration) -> Option<String> {
    let silent =
        |actor: &ActorStatus| actor.state == ActorState::Running && actor.last_beat_secs > silence_limit.as_secs_f64();
    let of_actors = actors.iter().filter_map(|actor| match actor.state {
        ActorState::Hung => Some(format!("actor `{}` hangs", actor.name)),
        ActorState::Dead => Some(format!("actor `{}` was given up", actor.name)),
        _ if silent(actor) => {
            Some(format!("actor `{}` has been silent for {:.0} s unnoticed", actor.name, actor.last_beat_secs))
        }
        _ => None,
    });
    let of_timers = overdue.iter().map(|timer| format!("timer `{timer}` is stuck"));
    let all: Vec<String> = of_actors.chain(of_timers).collect();
    if all.is_empty() { None } else { Some(all.join("; ")) }
}

/// Beats while the daemon is healthy; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Watchdog {
    /// `None` only while dropping.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Beats four times per `period`, as long as `unhealthy` finds nothing. What it finds
    /// is logged and reported once, and so is its end.
    pub(crate) fn start(
        manager: ServiceManager,
        period: Duration,
        unhealthy: impl Fn() -> Option<String> + Send + 'static,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            let mut last = None;
            loop {
                let now = unhealthy();
                match &now {
                    None => manager.beat(),
                    Some(why) if last != now => {
                        tracing::error!(error = why, "the service manager's watchdog gets no beat");
                        manager.status(&format!("no beat for the watchdog: {why}"));
                    }
                    Some(_) => {}
                }
                if now.is_none() && last.is_some() {
                    tracing::info!("the service manager's watchdog gets beats again");
                }
                last = now;
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
            // It panics only where `unhealthy` does, and the panic itself reported that.
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
    fn it_beats_while_the_daemon_is_healthy_and_says_why_when_it_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let unhealthy = Arc::new(Mutex::new(None));
        let seen = unhealthy.clone();
        let watchdog = Watchdog::start(ServiceManager::at(path), PERIOD, move || seen.lock().unwrap().clone()).unwrap();
        let begun = Instant::now();
        for _ in 0..4 {
            assert_eq!(next(&socket).unwrap(), "WATCHDOG=1");
        }
        assert!(begun.elapsed() < PERIOD * 4, "several beats per period: {:?}", begun.elapsed());

        *unhealthy.lock().unwrap() = Some("actor `data` hangs".to_owned());
        let told = std::iter::from_fn(|| next(&socket)).find(|message| message != "WATCHDOG=1");
        assert_eq!(told.unwrap(), "STATUS=no beat for the watchdog: actor `data` hangs");
        socket.set_read_timeout(Some(PERIOD * 2)).unwrap();
        assert_eq!(next(&socket), None, "silence from then on");

        *unhealthy.lock().unwrap() = None;
        assert_eq!(next(&socket).unwrap(), "WATCHDOG=1");
        drop(watchdog);
        while next(&socket).is_some() {}
    }

    fn actor(name: &str, state: ActorState, last_beat_secs: f64) -> ActorStatus {
        let name = name.to_owned();
        ActorStatus {
            name,
            state,
            restarts: 0,
            last_beat_secs,
            waiting_senders: 0,
            current_work: None,
            last_failure: None,
        }
    }

    #[test]
    fn a_beat_is_withheld_for_what_the_daemon_cannot_repair_itself() {
        let well = actor("data", ActorState::Running, 1.0);
        let table = [
            (vec![well.clone()], vec![], None, "all is well"),
            (vec![actor("data", ActorState::Restarting, 80.0)], vec![], None, "supervision is at it"),
            (vec![well.clone(), actor("training", ActorState::Hung, 70.0)], vec![], Some("`training` hangs"), "hung"),
            (vec![actor("monitor", ActorState::Dead, 5.0)], vec![], Some("`monitor` was given up"), "dead"),
            (vec![actor("data", ActorState::Running, 91.0)], vec![], Some("silent for 91 s"), "its watcher sleeps"),
            (vec![well], vec!["alerts".to_owned()], Some("`alerts` is stuck"), "a timer is stuck"),
        ];
        for (actors, overdue, expected, reason) in table {
            let found = unhealthy_reason(&actors, &overdue, Duration::from_secs(90));
            match expected {
                None => assert_eq!(found, None, "{reason}"),
                Some(part) => assert!(found.clone().unwrap_or_default().contains(part), "{reason}: {found:?}"),
            }
        }
    }
}
