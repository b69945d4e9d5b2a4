//! A build's log: every line at once in a file of bounded size, and the last lines
//! in memory for the error.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// So many last lines go into an error and its alert.
const TAIL_LINES: usize = 30;
/// And so many bytes of each.
const TAIL_LINE_BYTES: usize = 500;
/// Shorter values are masked nowhere: they would mask half the log.
const SHORTEST_MASKED: usize = 6;

/// The log that a build writes.
#[derive(Debug)]
pub(super) struct BuildLog {
    path: PathBuf,
    file: File,
    written: u64,
    maximum_bytes: u64,
    tail: VecDeque<String>,
    masked: Vec<String>,
}

impl BuildLog {
    /// Begins a log anew. What `masked` holds is written as `***`.
    pub(super) fn begin(path: &Path, maximum_bytes: u64, masked: Vec<String>) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let masked = masked.into_iter().filter(|value| value.len() >= SHORTEST_MASKED).collect();
        let file = File::create(path)?;
        Ok(Self { path: path.to_owned(), file, written: 0, maximum_bytes, tail: VecDeque::new(), masked })
    }

    /// Its file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// One more line.
    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        let text = self.masked.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***"));
        let before = self.written;
        self.written += text.len() as u64 + 1;
        if self.written <= self.maximum_bytes {
            writeln!(self.file, "{text}")?;
        } else if before <= self.maximum_bytes {
            writeln!(self.file, "[delayd] the log is full at {} bytes; what follows is not kept", self.maximum_bytes)?;
        }
        if !text.trim().is_empty() {
            if self.tail.len() == TAIL_LINES {
                self.tail.pop_front();
            }
            self.tail.push_back(shortened(text));
        }
        Ok(())
    }

    /// The last lines, for an error.
    pub(super) fn tail(&self) -> String {
        self.tail.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// Ends the log. One that overflowed ends with its last lines, which are the
    /// ones that tell why a build failed.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        if self.written > self.maximum_bytes {
            writeln!(self.file, "[delayd] the last lines were:\n{}", self.tail())?;
        }
        self.file.flush()
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > TAIL_LINE_BYTES {
        let end = (0..=TAIL_LINE_BYTES).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_overflows_keeps_its_beginning_and_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cycle_1/build.log");
        let mut log = BuildLog::begin(&path, 100, Vec::new()).unwrap();
        for number in 0..1000 {
            log.line(&format!("line {number}")).unwrap();
        }
        log.finish().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("line 0\nline 1\n") && text.ends_with("line 999\n"), "{text}");
        assert!(text.contains("the log is full at 100 bytes") && !text.contains("line 500\n"), "{text}");
        assert!(text.len() < 1000);
        assert_eq!(log.tail().lines().count(), TAIL_LINES);
    }

    #[test]
    fn secrets_are_masked_in_the_file_and_in_the_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("build.log");
        let masked = vec!["s3cret-token".to_owned(), "no".to_owned()];
        let mut log = BuildLog::begin(&path, 1000, masked).unwrap();
        log.line("fetching with s3cret-token, no harm done").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "fetching with ***, no harm done\n");
        assert_eq!(log.tail(), "fetching with ***, no harm done");
    }
}
