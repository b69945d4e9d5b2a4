//! How objects that somebody else wrote are read: within bounds, one at a time, and with a note beforehand.
//!
//! Bounds cannot foresee everything, and an allocation that fails ends the process without a word. So before an object
//! is parsed, a note of it is written into the state directory, and removed when its parser is done, however that
//! ended. A note that a later process finds tells of an object whose reading ended an earlier one. Since the process
//! may have been ended by somebody else in just that moment, the object is tried once more, alone; after a second
//! death it is refused until it holds other bytes. It reads nothing itself.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::formats::ParseLimits;
use delayd_core::error::PortError;
use delayd_core::ids::Digest;

/// Where the notes lie in the state directory.
const FOLDER: &str = "being-read";

/// Deaths of the process in the middle of an object after which it is not read again.
const MOST_DEATHS: u32 = 2;

/// Objects are read one at a time in the whole process: memory is bounded for one, and a note names the guilty one.
static READING: Mutex<()> = Mutex::new(());

/// Reads objects within bounds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ObjectReader {
    /// The bounds.
    pub limits: ParseLimits,
    /// Where the notes lie; without a place none are written.
    notes: Option<PathBuf>,
}

/// That an object is being read, or was when the process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    /// Its key in the object store.
    key: String,
    /// The digest of its bytes.
    digest: Digest,
    /// How often it was begun to be read, without an end.
    begun: u32,
}

/// What to do with an object of which there may be a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Read it, and note that it was begun so often.
    Read { begun: u32 },
    /// Do not.
    Refuse { deaths: u32 },
}

/// Other bytes under the same key are another object.
fn decide(note: Option<&Note>, digest: &Digest) -> Step {
    let deaths = note.filter(|note| note.digest == *digest).map_or(0, |note| note.begun);
    if deaths >= MOST_DEATHS { Step::Refuse { deaths } } else { Step::Read { begun: deaths + 1 } }
}

impl ObjectReader {
    /// A reader whose notes lie in a folder under this one, beside the ledger; none are written where there is none.
    #[must_use]
    pub fn new(limits: ParseLimits, beside: Option<&Path>) -> Self {
        Self { limits, notes: beside.map(|folder| folder.join(FOLDER)) }
    }

    /// A reader without notes, for programs that end after it.
    #[must_use]
    pub fn within(limits: ParseLimits) -> Self {
        Self { limits, notes: None }
    }

    /// Calls `parse` while nothing else is read. It blocks: call it where blocking is allowed.
    ///
    /// # Errors
    /// When the object ended the process before, or its note cannot be written.
    pub fn read<T>(&self, key: &str, digest: &Digest, parse: impl FnOnce(&ParseLimits) -> T) -> Result<T, DataError> {
        let _alone = READING.lock().unwrap_or_else(PoisonError::into_inner);
        let _noted = self.note(key, digest)?;
        Ok(parse(&self.limits))
    }

    /// Keys of objects under this prefix that were being read when the process ended, and may be tried once more.
    #[must_use]
    pub fn suspects(&self, prefix: &str) -> Vec<String> {
        let files = self.notes.iter().flat_map(fs::read_dir).flatten().flatten();
        let notes = files.filter_map(|file| note_in(&file.path()));
        let tried = notes.filter(|note| note.begun < MOST_DEATHS && note.key.starts_with(prefix));
        let mut keys: Vec<String> = tried.map(|note| note.key).collect();
        keys.sort_unstable();
        keys
    }

    fn note(&self, key: &str, digest: &Digest) -> Result<Option<Noted>, DataError> {
        let Some(folder) = &self.notes else { return Ok(None) };
        let path = folder.join(format!("{}.json", Digest::of(key.as_bytes()).hex()));
        match decide(note_in(&path).as_ref(), digest) {
            Step::Refuse { deaths } => {
                let (key, note) = (key.to_owned(), path.display().to_string());
                Err(DataError::EndedReader { key, digest: digest.clone(), deaths, note })
            }
            Step::Read { begun } => {
                if begun > 1 {
                    tracing::warn!(
                        object.key = key,
                        "the daemon ended while it read this object; it is tried once more"
                    );
                }
                let note = Note { key: key.to_owned(), digest: digest.clone(), begun };
                let written = write(folder, &path, &note);
                written.map_err(|error| PortError::io(format!("noting that {key} is being read"), error))?;
                Ok(Some(Noted(path)))
            }
        }
    }
}

/// One that cannot be read says nothing.
fn note_in(path: &Path) -> Option<Note> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// On the disk before it returns: the machine may go down with the process.
fn write(folder: &Path, path: &Path, note: &Note) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let staged = path.with_extension("new");
    let mut file = File::create(&staged)?;
    file.write_all(&serde_json::to_vec(note)?)?;
    file.sync_data()?;
    fs::rename(staged, path)
}

/// Removes its note when the parser is done, also by a panic.
struct Noted(PathBuf);

impl Drop for Noted {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "the note of an object that was read stays behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(folder: &Path) -> ObjectReader {
        ObjectReader { limits: ParseLimits::default(), notes: Some(folder.join(FOLDER)) }
    }

    /// What a process leaves behind that ends while it reads.
    fn die_reading(reader: &ObjectReader, key: &str, digest: &Digest) {
        std::mem::forget(reader.note(key, digest).unwrap());
    }

    #[test]
    fn an_object_is_tried_once_more_and_refused_after_the_second_death() {
        let (poison, repaired) = (Digest::of(b"poison"), Digest::of(b"repaired"));
        let note = |begun| Some(Note { key: "a".into(), digest: poison.clone(), begun });
        for (note, digest, expected, reason) in [
            (None, &poison, Step::Read { begun: 1 }, "never seen"),
            (note(1), &poison, Step::Read { begun: 2 }, "the process may have been ended by somebody"),
            (note(2), &poison, Step::Refuse { deaths: 2 }, "twice is no coincidence"),
            (note(2), &repaired, Step::Read { begun: 1 }, "other bytes are another object"),
        ] {
            assert_eq!(decide(note.as_ref(), digest), expected, "{reason}");
        }
    }

    #[test]
    fn the_note_outlives_a_process_that_dies_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (reader, digest) = (reader(folder.path()), Digest::of(b"poison"));
        assert_eq!(reader.read("flights/a.csv", &digest, |_| 1).unwrap(), 1);
        let panicked = std::panic::catch_unwind(|| reader.read("flights/a.csv", &digest, |_| panic!("damaged")));
        assert!(panicked.is_err() && reader.suspects("flights/").is_empty(), "a panic is no death");

        die_reading(&reader, "flights/a.csv", &digest);
        assert_eq!(reader.suspects("flights/"), ["flights/a.csv"]);
        assert!(reader.suspects("weather/").is_empty());
        assert_eq!(reader.read("flights/b.csv", &digest, |_| 2).unwrap(), 2, "the others are read");
        die_reading(&reader, "flights/a.csv", &digest);
        assert!(reader.suspects("flights/").is_empty(), "it is not tried a third time");
        let refused = reader.read("flights/a.csv", &digest, |_| ()).unwrap_err();
        let text = refused.to_string();
        assert!(text.starts_with("flights/a.csv: reading it ended the daemon 2 times"), "{text}");
        assert!(!refused.is_retryable() && text.contains("delayd validate") && text.contains(FOLDER), "{text}");
        assert_eq!(reader.read("flights/a.csv", &Digest::of(b"repaired"), |_| 3).unwrap(), 3);
        assert_eq!(reader.read("flights/a.csv", &digest, |_| 4).unwrap(), 4, "a good read clears the note");
    }

    #[test]
    fn an_object_that_cannot_be_noted_is_not_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = reader(file.path()).read("a", &Digest::of(b"a"), |_| panic!("it was read")).unwrap_err();
        assert!(matches!(error, DataError::Port(_)), "{error}");
    }
}
