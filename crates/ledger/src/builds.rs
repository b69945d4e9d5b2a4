//! Builds of the inference service from its source: which commit, by which
//! command and toolchain, and what came out.

use chrono::{DateTime, Utc};
use rusqlite::{Row, params};
use serde::{Deserialize, Serialize};

use super::columns::{At, Count, Json};
use super::query;
use super::records::{Reads, Records, Writes};
use delayd_core::ids::{CycleId, Digest};

/// The service's build in one cycle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BuildRecord {
    /// The cycle.
    pub cycle: CycleId,
    /// The repository, as configured; it never holds a credential.
    pub repository: String,
    /// The commit, tag or branch that was asked for.
    pub revision: String,
    /// The commit that it stood for.
    pub commit: String,
    /// The folder of the repository that was built; empty for its root.
    pub subdirectory: String,
    /// The command.
    pub command: Vec<String>,
    /// Digest of everything configured that can change what comes out.
    pub command_digest: Digest,
    /// What `rustc -V` said; empty where there is none.
    pub toolchain: String,
    /// Digest of the executable.
    pub binary_digest: Digest,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// Whether an earlier build of the same commit by the same command was taken.
    pub reused: bool,
    /// When the step began.
    pub started_at: DateTime<Utc>,
    /// When it was done.
    pub finished_at: DateTime<Utc>,
}

impl BuildRecord {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            cycle: row.get("cycle")?,
            repository: row.get("repository")?,
            revision: row.get("revision")?,
            commit: row.get("commit_id")?,
            subdirectory: row.get("subdirectory")?,
            command: row.get::<_, Json<_>>("command")?.0,
            command_digest: row.get("command_digest")?,
            toolchain: row.get("toolchain")?,
            binary_digest: row.get("binary_digest")?,
            size_bytes: row.get::<_, Count>("size_bytes")?.0,
            reused: row.get("reused")?,
            started_at: row.get::<_, At>("started_at")?.0,
            finished_at: row.get::<_, At>("finished_at")?.0,
        })
    }
}

impl<W: Writes> Records<W> {
    /// Notes a build; a cycle's later build takes the place of its earlier one.
    pub fn save_build(&self, build: BuildRecord) -> W::Answer<()> {
        self.write("noting a build", move |tx| {
            tx.execute(
        "INSERT OR REPLACE INTO builds (cycle, repository, revision, commit_id, subdirectory, command, command_digest,
             toolchain, binary_digest, size_bytes, reused, started_at, finished_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        params![
            build.cycle,
            build.repository,
            build.revision,
            build.commit,
            build.subdirectory,
            Json(&build.command),
            build.command_digest,
            build.toolchain,
            build.binary_digest,
            Count(build.size_bytes),
            build.reused,
            At(build.started_at),
            At(build.finished_at)
        ],
    )?;
            Ok(())
        })
    }
}

impl<R: Reads> Records<R> {
    /// A cycle's build; `None` where the service at hand was packaged.
    pub fn build_of(&self, cycle: CycleId) -> R::Answer<Option<BuildRecord>> {
        self.read("reading a cycle's build", move |connection| {
            query::one(connection, "SELECT * FROM builds WHERE cycle = ?1", [cycle], BuildRecord::from_row)
        })
    }
}
