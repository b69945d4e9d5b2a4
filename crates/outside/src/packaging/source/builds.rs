//! Builds as a whole: how they are stopped (one by itself when nobody waits for it any more, all of them when the daemon
//! stops), and what is kept of them: finished executables by commit and command, each of which is found only if it is
//! still, byte for byte, what was built.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{io_error, remove_folder};
use crate::packaging::oci::copy_hashing;
use delayd_core::atomic_file::write_atomically;
use delayd_core::error::PortError;
use delayd_core::ids::Digest;

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

const BINARY: &str = "delayd-serve";
const RECORD: &str = "build.json";

pub(super) struct BuildCache {
    root: PathBuf,
}

/// An executable in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CachedBuild {
    pub(super) binary: PathBuf,
    pub(super) digest: Digest,
    pub(super) size_bytes: u64,
    pub(super) toolchain: String,
}

/// What lies beside an executable.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    commit: String,
    digest: Digest,
    size_bytes: u64,
    toolchain: String,
}

impl BuildCache {
    pub(super) fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn folder(&self, key: &Digest) -> PathBuf {
        self.root.join(key.hex())
    }

    /// The executable of `key`. A damaged one is told, and counts as none.
    pub(super) fn find(&self, key: &Digest) -> Result<Option<CachedBuild>, PortError> {
        let folder = self.folder(key);
        let (path, binary) = (folder.join(RECORD), folder.join(BINARY));
        let Some(bytes) = read(&path)? else { return Ok(None) };
        let record: Record = match serde_json::from_slice(&bytes) {
            Ok(record) => record,
            Err(error) => return Ok(damaged(&path, &error.to_string())),
        };
        let file = match File::open(&binary) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(damaged(&binary, "it is gone")),
            Err(error) => return Err(io_error("opening", &binary)(error)),
        };
        let (found, size_bytes) = copy_hashing(file, io::sink()).map_err(io_error("reading", &binary))?;
        if found != record.digest {
            return Ok(damaged(&binary, &format!("its digest is {found}, {} was built", record.digest)));
        }
        // So that pruning knows what was used last.
        write_atomically(&path, &bytes).map_err(io_error("writing", &path))?;
        Ok(Some(CachedBuild { binary, digest: found, size_bytes, toolchain: record.toolchain }))
    }

    pub(super) fn keep(
        &self,
        key: &Digest,
        built: &Path,
        commit: &str,
        toolchain: &str,
    ) -> Result<CachedBuild, PortError> {
        let folder = self.folder(key);
        remove_folder(&folder)?;
        fs::create_dir_all(&folder).map_err(io_error("creating", &folder))?;
        let binary = folder.join(BINARY);
        let from = File::open(built).map_err(io_error("opening", built))?;
        let mut to = File::create(&binary).map_err(io_error("creating", &binary))?;
        let (digest, size_bytes) = copy_hashing(from, &mut to).map_err(io_error("writing", &binary))?;
        to.set_permissions(fs::Permissions::from_mode(0o755))
            .and_then(|()| to.sync_all())
            .map_err(io_error("writing", &binary))?;
        let record =
            Record { commit: commit.to_owned(), digest: digest.clone(), size_bytes, toolchain: toolchain.to_owned() };
        let path = folder.join(RECORD);
        // The record comes last: an executable that was not copied whole has none.
        serde_json::to_vec(&record)
            .map_err(io::Error::other)
            .and_then(|bytes| write_atomically(&path, &bytes))
            .map_err(io_error("writing", &path))?;
        Ok(CachedBuild { binary, digest, size_bytes, toolchain: toolchain.to_owned() })
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, PortError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("reading", path)(error)),
    }
}

fn damaged(path: &Path, how: &str) -> Option<CachedBuild> {
    tracing::warn!(path = %path.display(), how, "an executable in the build cache is damaged and is built again");
    None
}

/// Removes all but the `keep` executables that were used last.
pub(super) fn prune(root: &Path, keep: usize) -> Result<(), PortError> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("reading", root)(error)),
    };
    let used = |path: &Path| fs::metadata(path.join(RECORD)).and_then(|record| record.modified()).ok();
    let mut builds: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    builds.sort_by_key(|path| std::cmp::Reverse(used(path)));
    for path in builds.into_iter().skip(keep) {
        fs::remove_dir_all(&path).map_err(io_error("removing", &path))?;
    }
    Ok(())
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

#[cfg(test)]
mod cache_tests {
    use super::*;

    #[test]
    fn a_damaged_executable_is_not_found_and_a_whole_one_is() {
        let folder = tempfile::tempdir().unwrap();
        let cache = BuildCache::at(&folder.path().join("cache"));
        let key = Digest::of(b"commit and command");
        assert_eq!(cache.find(&key).unwrap(), None);
        let built = folder.path().join("built");
        fs::write(&built, "the executable").unwrap();
        let kept = cache.keep(&key, &built, "0123", "rustc 1.95.0").unwrap();
        assert_eq!((kept.digest.clone(), kept.size_bytes), (Digest::of(b"the executable"), 14));
        assert_eq!(cache.find(&key).unwrap(), Some(kept.clone()));
        fs::write(&kept.binary, "something else").unwrap();
        assert_eq!(cache.find(&key).unwrap(), None);
        fs::remove_file(&kept.binary).unwrap();
        assert_eq!(cache.find(&key).unwrap(), None);
    }

    #[test]
    fn only_the_builds_that_were_used_last_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let cache = BuildCache::at(folder.path());
        let built = folder.path().join("../built-for-pruning");
        fs::write(&built, "x").unwrap();
        let keys: Vec<Digest> = (0..3_u8).map(|number| Digest::of(&[number])).collect();
        for (age, key) in keys.iter().enumerate() {
            cache.keep(key, &built, "0123", "").unwrap();
            let then = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000 - age as u64);
            File::options().write(true).open(cache.folder(key).join(RECORD)).unwrap().set_modified(then).unwrap();
        }
        // The oldest is used again, and so is the newest now.
        assert!(cache.find(&keys[2]).unwrap().is_some());
        prune(folder.path(), 2).unwrap();
        let left: Vec<bool> = keys.iter().map(|key| cache.folder(key).exists()).collect();
        assert_eq!(left, [true, false, true]);
        fs::remove_file(built).unwrap();
    }
}
