//! How long what grows is kept.

use serde::{Deserialize, Serialize};

use delayd_judge::monitoring::settings::MonitoringSettings;

/// Outcomes come days after their predictions, and flight logs may be late: so many days are kept beyond a window.
const LATE_LOG_DAYS: u32 = 14;

/// `[retention]`: how long what grows with traffic and with looks is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionPolicy {
    /// Days for which predictions, and outcomes of flights, are kept.
    pub predictions_days: u32,
    /// Days for which every look of the monitor is kept; of those before, one an hour.
    pub full_windows_days: u32,
    /// Days for which one look an hour is kept; of those before, one a day.
    pub hourly_windows_days: u32,
    /// Days for which the folder of a finished cycle's training run is kept.
    pub run_folders_days: u32,
    /// Whether an image's layout on this machine is removed once it was pushed and its cycle has ended.
    pub remove_pushed_packages: bool,
}

impl Default for RetentionPolicy {
    fn default() -> Self {
        Self {
            predictions_days: 120,
            full_windows_days: 14,
            hourly_windows_days: 90,
            run_folders_days: 30,
            remove_pushed_packages: true,
        }
    }
}

impl RetentionPolicy {
    /// Everything that is wrong with the policy; empty when it can be used.
    #[must_use]
    pub fn faults(&self, monitoring: &MonitoringSettings) -> Vec<String> {
        let mut faults = Vec::new();
        let needed = monitoring.performance.window_days.saturating_add(LATE_LOG_DAYS);
        if self.predictions_days < needed {
            faults.push(format!(
                "predictions_days of {needed} or more: monitoring.performance.window_days and {LATE_LOG_DAYS} days for late logs"
            ));
        }
        if self.full_windows_days < 1 {
            faults.push("full_windows_days of 1 or more".to_owned());
        }
        if self.hourly_windows_days < self.full_windows_days {
            faults.push("hourly_windows_days not under full_windows_days".to_owned());
        }
        if self.run_folders_days < 1 {
            faults.push("run_folders_days of 1 or more".to_owned());
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_realised_performance_still_looks_at_cannot_be_configured_away() {
        let monitoring = MonitoringSettings::default();
        assert_eq!(RetentionPolicy::default().faults(&monitoring), Vec::<String>::new());
        let short = RetentionPolicy { predictions_days: 27, hourly_windows_days: 13, ..RetentionPolicy::default() };
        let faults = short.faults(&monitoring);
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].contains("28 or more"), "{faults:?}");
    }
}
