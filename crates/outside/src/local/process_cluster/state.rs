//! What the cluster remembers across restarts of the daemon, in one JSON file
//! that is replaced as a whole. It remembers processes, never requests.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::os_process::ProcessIdentity;
use delayd_core::atomic_file::write_atomically;
use delayd_core::error::ErrorKind;
use delayd_core::error::PortError;
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
    /// What it serves.
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
    /// Why it failed.
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
    /// Told to stop.
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
                let advice = "stop the `delayd-serve` processes and move the file away to start afresh";
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
