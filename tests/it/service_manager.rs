//! `delayd run` under a service manager: what it is told, over a real socket, and the
//! sockets that it passes. `scripts/test/debian_package` does the same with systemd.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use delayd_testkit::site;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use site::{command, ended};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);

/// A service manager's side: a folder, and the socket on which it listens.
struct Manager {
    folder: TempDir,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        Self { folder, socket }
    }

    /// The next message; `None` when none comes within `limit`.
    fn heard(&self, limit: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(limit)).unwrap();
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).ok()?;
        Some(String::from_utf8_lossy(&message[..length]).into_owned())
    }

    /// Listens until a message holds `part`.
    fn until(&self, part: &str) -> String {
        let begun = Instant::now();
        let mut all = Vec::new();
        while begun.elapsed() < LIMIT {
            let Some(message) = self.heard(Duration::from_secs(1)) else { continue };
            if message.contains(part) {
                return message;
            }
            all.push(message);
        }
        panic!("`{part}` was not heard, but {all:?}");
    }
}

/// A configuration without data, whose daemon needs a service binary to be there and
/// never starts it.
fn configuration(folder: &Path, listen: &str) -> (PathBuf, PathBuf) {
    let (config, state) = (folder.join("delayd.toml"), folder.join("state"));
    std::fs::write(&config, format!("[http]\nlisten = \"{listen}\"\n")).unwrap();
    (config, state)
}

fn daemon(config: &Path, state: &Path) -> Command {
    let mut command = command(&["--config", config.to_str().unwrap(), "--state", state.to_str().unwrap(), "run"]);
    command.env("DELAYD_SERVE_BIN", "/bin/true");
    command
}

/// A process that does not outlive its test, also when that fails.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        // One that ended already is what was wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl std::ops::Deref for Ending {
    type Target = Child;
    fn deref(&self) -> &Child {
        &self.0
    }
}

impl std::ops::DerefMut for Ending {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

fn get(address: &str, path: &str) -> String {
    answer(TcpStream::connect(address).unwrap(), path)
}

fn answer(mut stream: TcpStream, path: &str) -> String {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// A port that nobody uses now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn the_service_manager_hears_readiness_where_the_loop_is_beats_and_the_end() {
    let manager = Manager::new();
    let listen = format!("127.0.0.1:{}", free_port());
    let (config, state) = configuration(manager.folder.path(), &listen);
    let mut command = daemon(&config, &state);
    command.env("NOTIFY_SOCKET", manager.folder.path().join("notify")).env("WATCHDOG_USEC", "2000000");
    let mut child = Ending(command.stderr(Stdio::null()).spawn().unwrap());

    manager.until("READY=1\n");
    let health = get(&listen, "/healthz");
    assert!(health.starts_with("HTTP/1.1 200"), "ready means that it answers: {health}");
    manager.until("STATUS=no model is live yet; watching\n");
    manager.until("WATCHDOG=1\n");

    kill(pid(&child), Signal::SIGSTOP).unwrap();
    while manager.heard(Duration::from_millis(200)).is_some() {}
    assert_eq!(manager.heard(Duration::from_secs(2)), None, "a stopped daemon gives no beat");
    kill(pid(&child), Signal::SIGCONT).unwrap();
    manager.until("WATCHDOG=1\n");

    kill(pid(&child), Signal::SIGTERM).unwrap();
    assert_eq!(manager.until("STOPPING=1\n"), "STOPPING=1\nSTATUS=stopping; replicas keep serving\n");
    let status = ended(&mut child, LIMIT).expect("it stops when it is told to");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn no_beat_is_asked_for_and_none_is_given() {
    let manager = Manager::new();
    let (config, state) = configuration(manager.folder.path(), "127.0.0.1:0");
    let mut command = daemon(&config, &state);
    command.env("NOTIFY_SOCKET", manager.folder.path().join("notify"));
    let mut child = Ending(command.stderr(Stdio::null()).spawn().unwrap());
    manager.until("STATUS=no model is live yet");
    let later = std::iter::from_fn(|| manager.heard(Duration::from_secs(2))).collect::<Vec<_>>();
    assert!(later.iter().all(|message| !message.contains("WATCHDOG")), "{later:?}");
    kill(pid(&child), Signal::SIGTERM).unwrap();
    assert!(ended(&mut child, LIMIT).expect("it stops").success());
}

/// Starts the daemon as the service manager does that passes `socket`: as descriptor 3.
fn activated(config: &Path, state: &Path, socket: impl Into<OwnedFd>) -> Ending {
    let run = daemon(config, state);
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\""]);
    shell.arg(run.get_program()).args(run.get_args()).env("DELAYD_SERVE_BIN", "/bin/true");
    Ending(shell.stdin(Stdio::from(socket.into())).stderr(Stdio::piped()).spawn().unwrap())
}

#[test]
fn the_status_endpoint_answers_on_the_socket_that_was_passed_also_who_came_before_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let (passed, own) = (TcpListener::bind("127.0.0.1:0").unwrap(), format!("127.0.0.1:{}", free_port()));
    let address = passed.local_addr().unwrap().to_string();
    let early = TcpStream::connect(&address).unwrap();
    let (config, state) = configuration(folder.path(), &own);
    let mut child = activated(&config, &state, passed);
    let answered = answer(early, "/api/v1/status");
    assert!(answered.starts_with("HTTP/1.1 200"), "{answered}");
    assert!(get(&address, "/readyz").starts_with("HTTP/1.1 200"));
    assert!(TcpStream::connect(&own).is_err(), "the configured address is not used then");
    kill(pid(&child), Signal::SIGTERM).unwrap();
    assert!(ended(&mut child, LIMIT).expect("it stops").success());
}

#[test]
fn a_passed_socket_that_cannot_be_used_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (config, state) = configuration(folder.path(), "127.0.0.1:0");
    let mut child = activated(&config, &state, UdpSocket::bind("127.0.0.1:0").unwrap());
    let status = ended(&mut child, LIMIT).expect("it refuses at once");
    let mut told = String::new();
    child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(status.code(), Some(1), "{told}");
    assert!(told.contains("neither TCP nor Unix"), "{told}");
}
