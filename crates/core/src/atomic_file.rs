//! Files that are either the old one or the new one, whatever happens between:
//! write beside, fsync, rename, fsync the folder.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

static STAGED: AtomicU64 = AtomicU64::new(0);

/// A file under a temporary name that disappears unless it is published.
#[derive(Debug)]
pub struct StagedFile {
    path: PathBuf,
    file: File,
}

impl StagedFile {
    /// Opens a new empty file in `folder`. Its name ends with this process's id and
    /// the namespace that the id belongs to, so that [`remove_abandoned`] can tell what
    /// a dead process left behind.
    pub fn create_in(folder: &Path) -> io::Result<Self> {
        let namespace = pid_namespace();
        loop {
            let number = STAGED.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!(".staged-{number}-{}-{namespace}", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Self { path, file }),
                // Left by an earlier process with our id (in a container every daemon is process 1).
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Replaces `target` by this file, durably.
    pub fn publish(self, target: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, target)?;
        sync_parent(target)
    }
}

impl Write for StagedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        // After a rename there is nothing to remove; otherwise a leftover is invisible and swept at the next start.
        let _ = fs::remove_file(&self.path);
    }
}

/// Writes `bytes` to `target`, all of them or none.
pub fn write_atomically(target: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut staged = StagedFile::create_in(target.parent().unwrap_or_else(|| Path::new(".")))?;
    staged.write_all(bytes)?;
    staged.publish(target)
}

/// A staged file of another container is abandoned after this long.
const FOREIGN_AGE: Duration = Duration::from_secs(86_400);

/// The namespace of process ids: containers that share a folder cannot see each
/// other's processes.
fn pid_namespace() -> String {
    // `pid:[4026531836]`; without /proc there is one namespace as far as we know.
    let link = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    link.to_string_lossy().chars().filter(char::is_ascii_digit).collect()
}

/// Removes the staged files in `folder` whose process is gone. Whether one of another
/// container is, cannot be seen from here; it is left for a day.
pub fn remove_abandoned(folder: &Path) -> io::Result<()> {
    let ours = pid_namespace();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some((_, owner)) = name.strip_prefix(".staged-").and_then(|rest| rest.split_once('-')) else { continue };
        let abandoned = match owner.split_once('-') {
            Some((_, namespace)) if namespace != ours => match entry.metadata() {
                Ok(metadata) => metadata.modified()?.elapsed().is_ok_and(|age| age > FOREIGN_AGE),
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                Err(error) => return Err(error),
            },
            Some((pid, _)) => !Path::new("/proc").join(pid).exists(),
            None => !Path::new("/proc").join(owner).exists(),
        };
        if abandoned {
            remove_if_there(&path)?;
        }
    }
    Ok(())
}

/// Another process may sweep at the same time.
fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

fn sync_parent(target: &Path) -> io::Result<()> {
    match target.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_process_staged_is_swept_and_our_own_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        // Beyond the largest process id that Linux hands out.
        let abandoned = folder.path().join(".staged-0-4194999");
        fs::write(&abandoned, "half").unwrap();
        let ours = StagedFile::create_in(folder.path()).unwrap();
        remove_abandoned(folder.path()).unwrap();
        assert!(!abandoned.exists());
        assert!(ours.path.exists());
    }

    #[test]
    fn what_another_container_stages_now_is_left_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let (theirs, old) = (folder.path().join(".staged-0-4194999-1"), folder.path().join(".staged-1-4194999-1"));
        fs::write(&theirs, "half").unwrap();
        fs::write(&old, "half").unwrap();
        let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        File::options().write(true).open(&old).unwrap().set_modified(long_ago).unwrap();
        remove_abandoned(folder.path()).unwrap();
        assert!(theirs.exists() && !old.exists());
    }

    #[test]
    fn a_staged_file_that_is_not_published_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        drop(StagedFile::create_in(folder.path()).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
