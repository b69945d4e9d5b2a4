//! Which time a ledger was replayed with: whoever looks at one must see that it is no live loop.

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use delayd_ledger::{Ledger, LedgerError};

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
    ///
    /// # Errors
    /// When the ledger fails.
    pub async fn of(ledger: &Ledger) -> Result<Option<Self>, LedgerError> {
        Ok(ledger.setting::<Option<Self>>(SETTING).await?.flatten())
    }

    /// Takes the mark away: a daemon goes on with the ledger, in the present.
    ///
    /// # Errors
    /// When the ledger fails.
    pub async fn forget(ledger: &Ledger, at: chrono::DateTime<chrono::Utc>) -> Result<(), LedgerError> {
        ledger.set_setting(SETTING, None::<Self>, at).await
    }

    /// Marks a ledger as this replay's.
    ///
    /// # Errors
    /// When the ledger fails.
    pub async fn mark(self, ledger: &Ledger, at: chrono::DateTime<chrono::Utc>) -> Result<(), LedgerError> {
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

    #[tokio::test]
    async fn a_replays_ledger_says_so_and_a_daemons_does_not() {
        let ledger = Ledger::in_memory().unwrap();
        assert_eq!(ReplaySpan::of(&ledger).await.unwrap(), None);
        let day = |day| NaiveDate::from_ymd_opt(2013, 3, day).unwrap();
        let span = ReplaySpan { from: day(1), until: day(31) };
        span.mark(&ledger, chrono::DateTime::UNIX_EPOCH).await.unwrap();
        assert_eq!(ReplaySpan::of(&ledger).await.unwrap(), Some(span));
        assert_eq!(span.to_string(), "replay of 2013-03-01 to 2013-03-31");
        ReplaySpan::forget(&ledger, chrono::DateTime::UNIX_EPOCH).await.unwrap();
        assert_eq!(ReplaySpan::of(&ledger).await.unwrap(), None, "a daemon goes on with it");
    }
}
