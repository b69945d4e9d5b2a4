//! What the cluster remembers across restarts of the daemon, in one JSON file
//! that is replaced as a whole. It remembers processes, never requests.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use delayd_core::atomic_file::write_atomically;
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ports::Release;

const FILE: &str = "cluster.json";

/// Everything the cluster remembers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClusterState {
    /// The port clients use; 0 until one was chosen.
    pub(super) public_port: u16,
    /// Number of the last replica that was named; names are never used again.
    pub(super) last_replica: u64,
    /// The release that was applied as a whole.
    pub(super) release: Option<Release>,
    /// Every replica, dead ones until they are replaced.
    pub(super) replicas: Vec<ReplicaRecord>,
}

/// One replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReplicaRecord {
    pub(super) name: String,
    pub(super) release: Release,
    /// The port it listens on for clients.
    pub(super) port: u16,
    pub(super) phase: Phase,
    /// Unknown for the moment between naming and starting it.
    pub(super) process: Option<ProcessIdentity>,
    /// Base URL of its administrative routes, once it is ready.
    pub(super) admin_url: Option<String>,
    /// How often this replica was started again, under other names before.
    pub(super) restarts: u32,
    /// How many starts in a row came to nothing or did not last.
    pub(super) failures_in_a_row: u32,
    pub(super) reason: Option<String>,
}

/// Where a replica is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    /// Named, perhaps started, not ready yet.
    Starting,
    /// Became ready and was not told to stop.
    Serving,
    Draining,
    /// Dead without being told to stop; to be replaced.
    Failed,
}

impl ReplicaRecord {
    /// Whether it serves this release on this port; the number of replicas aside.
    pub(super) fn serves(&self, release: &Release, port: u16) -> bool {
        let mut other = release.clone();
        other.replicas = self.release.replicas;
        self.port == port && self.release == other
    }
}

impl ClusterState {
    /// Reads the state kept in `folder`; an empty one when there is none.
    pub(super) fn load(folder: &Path) -> Result<Self, PortError> {
        let path = Self::path(folder);
        let action = || format!("reading the cluster's state {}", path.display());
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                let advice = "stop the `delayd-serve` processes and move the file away to start over";
                PortError::new(ErrorKind::Corrupt, action(), format!("{error}; {advice}"))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(PortError::io(action(), error)),
        }
    }

    /// Replaces the state kept in `folder`.
    pub(super) fn save(&self, folder: &Path) -> Result<(), PortError> {
        let path = Self::path(folder);
        let action = || format!("writing the cluster's state {}", path.display());
        let bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| PortError::new(ErrorKind::Internal, action(), error.to_string()))?;
        write_atomically(&path, &bytes).map_err(|error| PortError::io(action(), error))
    }

    fn path(folder: &Path) -> PathBuf {
        folder.join(FILE)
    }
}

/// `/proc/net/tcp`'s code for a listening socket (`TCP_LISTEN` in the kernel's `tcp_states.h`).
const LISTENING: &str = "0A";

/// A process that is not confused with a later one of the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessIdentity {
    pub(super) pid: u32,
    /// When it started, in clock ticks since boot.
    start_ticks: u64,
    /// Which boot that was.
    boot: String,
}

impl ProcessIdentity {
    /// The process that has this id now, unless it is gone or a zombie.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field, the command's name, is in brackets and may hold anything.
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let state = fields.next()?;
        // Field 22 of proc_pid_stat(5), the 20th after the name.
        let start_ticks = fields.nth(18)?.parse().ok()?;
        if matches!(state, "Z" | "X" | "x") {
            return None;
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        Some(Self { pid, start_ticks, boot })
    }

    /// Whether this very process still runs.
    pub(super) fn is_alive(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }

    /// Sends a signal. A process that is gone already is no error.
    pub(super) fn signal(&self, signal: Signal) -> std::io::Result<()> {
        let Ok(pid) = i32::try_from(self.pid) else { return Ok(()) };
        if !self.is_alive() {
            return Ok(());
        }
        match kill(Pid::from_raw(pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(super) fn memory_bytes(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kibibytes: u64 = resident.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kibibytes * 1024)
    }

    /// Whether the process holds a socket that accepts connections on `port`.
    pub(super) fn listens_on(&self, port: u16) -> bool {
        let listening = listening_inodes(port);
        let Ok(files) = fs::read_dir(format!("/proc/{}/fd", self.pid)) else { return false };
        files.flatten().filter_map(|file| fs::read_link(file.path()).ok()).any(|target| {
            let name = target.to_string_lossy();
            let inode = name.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
            inode.is_some_and(|inode| listening.contains(inode))
        })
    }
}

fn listening_inodes(port: u16) -> HashSet<String> {
    let suffix = format!(":{port:04X}");
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let lines = tables.iter().flat_map(|table| table.lines());
    let sockets = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    sockets
        .filter(|fields| fields.len() > 9 && fields[1].ends_with(&suffix) && fields[3] == LISTENING)
        .map(|fields| fields[9].to_owned())
        .collect()
}

/// The process that was started with `argument` among its arguments.
pub(super) fn find_by_argument(argument: &Path) -> Option<ProcessIdentity> {
    let wanted = argument.as_os_str().as_encoded_bytes();
    let processes = fs::read_dir("/proc").ok()?;
    processes.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let command_line = fs::read(entry.path().join("cmdline")).ok()?;
        let matches = command_line.split(|byte| *byte == 0).any(|word| word == wanted);
        matches.then(|| ProcessIdentity::of(pid)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_uses_memory() {
        let me = ProcessIdentity::of(std::process::id()).unwrap();
        assert!(me.is_alive());
        assert!(me.memory_bytes().unwrap() > 100_000);
    }

    #[test]
    fn a_process_with_a_reused_number_is_another_process() {
        let mut other = ProcessIdentity::of(std::process::id()).unwrap();
        other.start_ticks += 1;
        assert!(!other.is_alive());
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        while ProcessIdentity::of(pid).is_some() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") Z"));
        child.wait().unwrap();
    }

    #[test]
    fn a_listening_socket_is_seen_until_it_is_closed() {
        let me = ProcessIdentity::of(std::process::id()).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(me.listens_on(port));
        drop(listener);
        assert!(!me.listens_on(port));
    }

    #[test]
    fn a_process_is_found_by_an_argument_of_its_own() {
        let argument = format!("3600.{}", std::process::id());
        let mut child = std::process::Command::new("sleep").arg(&argument).spawn().unwrap();
        let mut found = None;
        for _ in 0..100 {
            found = find_by_argument(Path::new(&argument));
            if found.is_some() {
                break;
            }
            // Until the child has replaced itself by `sleep` it still has our own arguments.
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found.unwrap().pid, child.id());
    }
}
