//! The replicas' log files: one per replica, cut back when they grow, the oldest
//! removed. Replicas write to them directly, so that they outlive the daemon.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// How much of a log's end an error quotes.
const TAIL_BYTES: u64 = 4096;
const TAIL_LINES: usize = 5;

/// The log file of a replica.
pub(super) fn path(folder: &Path, replica: &str) -> PathBuf {
    folder.join(format!("{replica}.log"))
}

/// Opens a replica's log for appending, so that cutting it back does not leave a hole.
pub(super) fn open(folder: &Path, replica: &str) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path(folder, replica))
}

/// The last few lines, in one; empty when there are none.
pub(super) fn tail(folder: &Path, replica: &str) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(path(folder, replica))?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_else(|error| format!("(its log cannot be read: {error})"));
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join(" | ")
}

/// Cuts back every log above `max_bytes` (the replica's previous part is kept as
/// `.log.1`) and removes the oldest beyond `keep_files`, but none in `in_use`.
pub(super) fn rotate(folder: &Path, max_bytes: u64, keep_files: usize, in_use: &[String]) -> io::Result<()> {
    let mut unused = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some((replica, part)) = name.split_once(".log") else { continue };
        let metadata = fs::metadata(&path)?;
        if part.is_empty() && metadata.len() > max_bytes {
            fs::copy(&path, path.with_extension("log.1"))?;
            OpenOptions::new().write(true).open(&path)?.set_len(0)?;
        }
        if !in_use.iter().any(|used| used == replica) {
            unused.push((metadata.modified()?, path));
        }
    }
    unused.sort();
    let surplus = unused.len().saturating_sub(keep_files);
    unused.iter().take(surplus).try_for_each(|(_, path)| fs::remove_file(path))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_log_that_grew_is_cut_back_while_its_replica_writes_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = open(folder.path(), "a").unwrap();
        log.write_all(&[b'x'; 2000]).unwrap();
        rotate(folder.path(), 1000, 10, &["a".to_owned()]).unwrap();
        log.write_all(b"after\n").unwrap();
        assert_eq!(fs::read(path(folder.path(), "a")).unwrap(), b"after\n");
        assert_eq!(fs::metadata(folder.path().join("a.log.1")).unwrap().len(), 2000);
    }

    #[test]
    fn only_logs_of_replicas_that_are_gone_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c", "d"] {
            open(folder.path(), name).unwrap();
        }
        rotate(folder.path(), 1000, 1, &["a".to_owned(), "b".to_owned()]).unwrap();
        let left = ["a", "b", "c", "d"].map(|name| path(folder.path(), name).exists());
        assert_eq!((left[0], left[1]), (true, true));
        assert_eq!(left.iter().filter(|kept| **kept).count(), 3);
    }

    #[test]
    fn the_tail_is_the_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = open(folder.path(), "a").unwrap();
        for number in 0..2000 {
            writeln!(log, "line {number}").unwrap();
        }
        assert_eq!(tail(folder.path(), "a"), "line 1995 | line 1996 | line 1997 | line 1998 | line 1999");
    }
}
