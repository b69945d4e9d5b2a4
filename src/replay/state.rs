//! The state directory of a replay. A replay begins with none; it removes what an
//! earlier replay left there, and never what is anybody else's.

use std::path::Path;

use super::ReplayError;
use crate::daemon::ledger_path;
use delayd_core::own_folder;
use delayd_ledger::ensure_unused;

/// Says whose the directory is.
const MARK: &str = ".replay";

/// Empties the state directory for a replay.
///
/// # Errors
/// It is a daemon's, a process has it open, or it cannot be changed.
pub(super) fn take_over(dir: &Path) -> Result<(), ReplayError> {
    let failed = |error: std::io::Error| ReplayError::State(format!("state directory {}: {error}", dir.display()));
    let empty = match std::fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(error) => return Err(failed(error)),
    };
    if !empty {
        if !dir.join(MARK).exists() {
            return Err(ReplayError::State(format!(
                "{} holds the state of a daemon, and a replay begins with none; name another directory with --state",
                dir.display()
            )));
        }
        ensure_unused(&ledger_path(dir)).map_err(|error| ReplayError::State(error.to_string()))?;
        std::fs::remove_dir_all(dir).map_err(failed)?;
    }
    own_folder::create(dir).map_err(failed)?;
    std::fs::write(dir.join(MARK), "made by `delayd replay`; the next replay removes it\n").map_err(failed)
}

/// A daemon goes on with what a replay left: no replay removes it from now on.
/// Answers whether it was a replay's.
///
/// # Errors
/// When the mark cannot be removed.
pub fn keep_for_a_daemon(dir: &Path) -> std::io::Result<bool> {
    match std::fs::remove_file(dir.join(MARK)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use delayd_ledger::Ledger;

    #[test]
    fn a_replay_removes_what_a_replay_left_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("state");
        take_over(&dir).unwrap();
        std::fs::write(dir.join("report"), "of last time").unwrap();
        take_over(&dir).unwrap();
        assert!(!dir.join("report").exists());

        let ledger = Ledger::open(&ledger_path(&dir)).unwrap();
        let refused = take_over(&dir).unwrap_err().to_string();
        assert!(refused.contains("another daemon uses it") && ledger_path(&dir).exists(), "{refused}");
        drop(ledger);

        assert!(keep_for_a_daemon(&dir).unwrap());
        assert!(!keep_for_a_daemon(&dir).unwrap(), "it is the daemon's already");
        let refused = take_over(&dir).unwrap_err().to_string();
        assert!(refused.contains("--state") && ledger_path(&dir).exists(), "{refused}");
    }
}
