//! What marks a state directory and a ledger as a replay's. A replay starts with an empty directory; it removes what an
//! earlier replay left there, and never what is anyone else's. Whoever reads its ledger must see that it is no live loop.

use std::path::Path;

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};

use super::ReplayError;
use crate::daemon::ledger_path;
use delayd_core::own_folder;
use delayd_ledger::{Ledger, LedgerError, ensure_unused};

/// Marks a directory as a replay's.
const MARK: &str = ".replay";

/// Empties the state directory for a replay.
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
                "{} holds the state of a daemon, and a replay needs an empty one; name another directory with --state",
                dir.display()
            )));
        }
        ensure_unused(&ledger_path(dir)).map_err(|error| ReplayError::State(error.to_string()))?;
        std::fs::remove_dir_all(dir).map_err(failed)?;
    }
    own_folder::create(dir).map_err(failed)?;
    std::fs::write(dir.join(MARK), "made by `delayd replay`; the next replay removes it\n").map_err(failed)
}

/// A daemon continues with what a replay left: no replay removes it from now on.
/// Answers whether it was a replay's.
pub fn keep_for_a_daemon(dir: &Path) -> std::io::Result<bool> {
    match std::fs::remove_file(dir.join(MARK)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Name under which the ledger keeps the span.
const SETTING: &str = "replay";

/// The local days that a replay predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ReplaySpan {
    /// The first day.
    pub from: NaiveDate,
    /// The last day.
    pub until: NaiveDate,
}

impl ReplaySpan {
    /// The replay that made this ledger; `None` for a daemon's own.
    pub async fn of(ledger: &Ledger) -> Result<Option<Self>, LedgerError> {
        Ok(ledger.setting::<Option<Self>>(SETTING).await?.flatten())
    }

    /// Removes the mark: a daemon continues with the ledger, in the present.
    pub async fn forget(ledger: &Ledger, at: DateTime<Utc>) -> Result<(), LedgerError> {
        ledger.set_setting(SETTING, None::<Self>, at).await
    }

    /// Marks a ledger as this replay's.
    pub async fn mark(self, ledger: &Ledger, at: DateTime<Utc>) -> Result<(), LedgerError> {
        ledger.set_setting(SETTING, Some(self), at).await
    }
}

impl std::fmt::Display for ReplaySpan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "replay of {} to {}", self.from, self.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[tokio::test]
    async fn a_replays_ledger_is_marked_and_a_daemons_is_not() {
        let ledger = Ledger::in_memory().unwrap();
        assert_eq!(ReplaySpan::of(&ledger).await.unwrap(), None);
        let day = |day| NaiveDate::from_ymd_opt(2013, 3, day).unwrap();
        let span = ReplaySpan { from: day(1), until: day(31) };
        span.mark(&ledger, chrono::DateTime::UNIX_EPOCH).await.unwrap();
        assert_eq!(ReplaySpan::of(&ledger).await.unwrap(), Some(span));
        assert_eq!(span.to_string(), "replay of 2013-03-01 to 2013-03-31");
        ReplaySpan::forget(&ledger, chrono::DateTime::UNIX_EPOCH).await.unwrap();
        assert_eq!(ReplaySpan::of(&ledger).await.unwrap(), None, "a daemon continues with it");
    }
}
