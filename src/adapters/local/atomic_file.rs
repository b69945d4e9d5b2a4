//! Files that are either the old one or the new one, whatever happens between:
//! write beside, fsync, rename, fsync the folder.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

static STAGED: AtomicU64 = AtomicU64::new(0);

/// A file under a temporary name that disappears unless it is published.
#[derive(Debug)]
pub(crate) struct StagedFile {
    path: PathBuf,
    file: File,
}

impl StagedFile {
    /// Opens a new empty file in `folder`. Its name ends with this process's id,
    /// so that [`remove_abandoned`] can tell what a dead process left behind.
    pub(crate) fn create_in(folder: &Path) -> io::Result<Self> {
        loop {
            let number = STAGED.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!(".staged-{number}-{}", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Self { path, file }),
                // Left by an earlier process with our id (in a container every daemon is process 1).
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Replaces `target` by this file, durably.
    pub(crate) fn publish(self, target: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, target)?;
        sync_parent(target)
    }

    /// Gives this file the name `target`; `AlreadyExists` when there is one.
    pub(crate) fn publish_new(self, target: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        // A hard link is the one operation that names a complete file and fails when the name is taken.
        fs::hard_link(&self.path, target)?;
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
pub(crate) fn write_atomically(target: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut staged = StagedFile::create_in(target.parent().unwrap_or_else(|| Path::new(".")))?;
    staged.write_all(bytes)?;
    staged.publish(target)
}

/// Removes the staged files in `folder` whose process is gone.
pub(crate) fn remove_abandoned(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let owner = name.strip_prefix(".staged-").and_then(|rest| rest.split_once('-')).map(|(_, pid)| pid.to_owned());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
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
    fn a_staged_file_that_is_not_published_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        drop(StagedFile::create_in(folder.path()).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
