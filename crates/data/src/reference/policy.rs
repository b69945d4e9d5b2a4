//! `[ingestion.reference]`.

use serde::{Deserialize, Serialize};

use delayd_core::fault::Fault;

/// How reference data behind a URL are kept up to date.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReferencePolicy {
    /// Minutes between looks at an airports or holidays URL.
    pub refresh_minutes: u32,
    /// Minutes after a failed look until the next one.
    pub retry_minutes: u32,
    /// A document with fewer entries than this share of the copy's does not replace it.
    pub smallest_share: f64,
}

impl Default for ReferencePolicy {
    fn default() -> Self {
        Self { refresh_minutes: 1440, retry_minutes: 15, smallest_share: 0.5 }
    }
}

impl ReferencePolicy {
    /// Every value that cannot be, by its key below `prefix`.
    #[must_use]
    pub fn faults(&self, prefix: &str) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (key, minutes) in [("refresh_minutes", self.refresh_minutes), ("retry_minutes", self.retry_minutes)] {
            if !(1..=525_600).contains(&minutes) {
                let expected = "1 minute to a year (525600)".to_owned();
                faults.push(Fault { key: format!("{prefix}.{key}"), found: minutes.to_string(), expected });
            }
        }
        if !(0.0..=1.0).contains(&self.smallest_share) {
            let found = self.smallest_share.to_string();
            let expected = "a share from 0 to 1".to_owned();
            faults.push(Fault { key: format!("{prefix}.smallest_share"), found, expected });
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_value_is_told_by_its_key() {
        assert!(ReferencePolicy::default().faults("ingestion.reference").is_empty());
        let wrong = ReferencePolicy { refresh_minutes: 0, retry_minutes: 0, smallest_share: f64::NAN };
        let keys: Vec<String> = wrong.faults("ingestion.reference").into_iter().map(|fault| fault.key).collect();
        assert_eq!(keys.len(), 3, "{keys:?}");
        assert!(keys.contains(&"ingestion.reference.smallest_share".to_owned()), "{keys:?}");
    }
}
