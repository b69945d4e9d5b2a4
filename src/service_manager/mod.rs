//! What the service manager gets from us: systemd, or another that speaks `sd_notify(3)`.
//!
//! READY once the daemon answers, STATUS with where the loop is, a beat for the watchdog
//! only while actors and timers really move, STOPPING at the end. And what it gives: the
//! sockets that it listens on for us. Without a service manager all of it does nothing.
//!
//! It decides nothing and restarts nothing: supervision restarts actors, the service
//! manager restarts the process.

mod sockets;
mod status;
mod watchdog;

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

pub(crate) use sockets::PassedSockets;
pub(crate) use status::attend;
pub(crate) use watchdog::{Watchdog, unhealthy_reason};

/// A service manager that does not read its socket must not hold the daemon up.
const SEND_LIMIT: Duration = Duration::from_secs(2);

/// The service manager, if there is one.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServiceManager {
    /// A socket's path, or `@` and an abstract name.
    address: Option<Arc<OsStr>>,
}

impl ServiceManager {
    /// The one that the environment names (`NOTIFY_SOCKET`).
    pub(crate) fn of_environment() -> Self {
        let address = std::env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty());
        Self { address: address.map(Arc::from) }
    }

    /// The one that listens at this address.
    #[cfg(test)]
    pub(crate) fn at(address: impl AsRef<OsStr>) -> Self {
        Self { address: Some(Arc::from(address.as_ref())) }
    }

    /// Whether there is one.
    pub(crate) fn is_there(&self) -> bool {
        self.address.is_some()
    }

    /// How often the service manager wants to hear a beat; `None` for never.
    pub(crate) fn watchdog_period() -> Option<Duration> {
        sd_notify::watchdog_enabled().filter(|period| !period.is_zero())
    }

    /// The daemon answers.
    pub(crate) fn ready(&self, status: &str) {
        self.notify(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
    }

    /// What the daemon does now, one line for `systemctl status`.
    pub(crate) fn status(&self, status: &str) {
        self.notify(&[NotifyState::Status(&one_line(status))]);
    }

    /// The daemon ends.
    pub(crate) fn stopping(&self, status: &str) {
        self.notify(&[NotifyState::Stopping, NotifyState::Status(&one_line(status))]);
    }

    /// A sign of life for the watchdog.
    pub(crate) fn beat(&self) {
        self.notify(&[NotifyState::Watchdog]);
    }

    fn notify(&self, states: &[NotifyState<'_>]) {
        let Some(address) = &self.address else { return };
        let message: String = states.iter().map(|state| format!("{state}\n")).collect();
        if let Err(error) = send(address, message.as_bytes()) {
            // The daemon works without being heard; a missed beat has its own consequence.
            tracing::warn!(%error, message = message.trim_end(), "the service manager could not be notified");
        }
    }
}

fn send(address: &OsStr, message: &[u8]) -> std::io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(SEND_LIMIT))?;
    let address = match address.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(address)?,
    };
    socket.send_to_addr(message, &address).map(drop)
}

/// A line end would begin another assignment.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What arrives at a real socket.
    fn heard(tell: impl Fn(&ServiceManager)) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        tell(&ServiceManager::at(path));
        let mut message = [0; 4096];
        let length = socket.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    }

    #[test]
    fn the_service_manager_receives_each_notification() {
        type Tell = fn(&ServiceManager);
        let table: [(Tell, &str); 4] = [
            (|manager| manager.ready("model_v2 is live"), "READY=1\nSTATUS=model_v2 is live\n"),
            (|manager| manager.status("cycle_3 trains"), "STATUS=cycle_3 trains\n"),
            (|manager| manager.stopping("SIGTERM"), "STOPPING=1\nSTATUS=SIGTERM\n"),
            (ServiceManager::beat, "WATCHDOG=1\n"),
        ];
        for (tell, expected) in table {
            assert_eq!(heard(tell), expected);
        }
    }

    #[test]
    fn a_status_cannot_smuggle_in_another_assignment() {
        assert_eq!(heard(|manager| manager.status("bad\nMAINPID=1\r\n  line")), "STATUS=bad MAINPID=1 line\n");
    }

    #[test]
    fn an_abstract_socket_is_reached_too() {
        let name = format!("delayd-test-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        ServiceManager::at(format!("@{name}")).beat();
        let mut message = [0; 64];
        let length = socket.recv(&mut message).unwrap();
        assert_eq!(&message[..length], b"WATCHDOG=1\n");
    }

    #[test]
    fn without_a_service_manager_nothing_fails() {
        ServiceManager::default().ready("alone");
        ServiceManager::at("/nowhere/notify").beat();
        assert!(!ServiceManager::default().is_there());
    }
}
