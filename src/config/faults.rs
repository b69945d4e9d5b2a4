//! Values that cannot be, all reported at once.

use std::fmt;

use super::{ClusterKind, Settings};

/// One value that cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The key, `section.key`.
    pub key: String,
    /// What was found.
    pub found: String,
    /// What was expected.
    pub expected: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}; expected {}", self.key, self.found, self.expected)
    }
}

pub(super) fn listing(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("  - {fault}")).collect::<Vec<_>>().join("\n")
}

impl Settings {
    pub(super) fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut check = |holds: bool, key: &str, found: String, expected: &str| {
            if !holds {
                faults.push(Fault { key: key.to_owned(), found, expected: expected.to_owned() });
            }
        };
        let listen: Result<std::net::SocketAddr, _> = self.daemon.http_listen.parse();
        check(
            listen.is_ok(),
            "daemon.http_listen",
            format!("`{}`", self.daemon.http_listen),
            "an address like 127.0.0.1:7070",
        );
        check(
            (1..=20).contains(&self.daemon.step_attempts),
            "daemon.step_attempts",
            self.daemon.step_attempts.to_string(),
            "1 to 20",
        );
        check(
            self.daemon.step_retry_secs >= 0.0 && self.daemon.step_retry_secs <= 3600.0,
            "daemon.step_retry_secs",
            self.daemon.step_retry_secs.to_string(),
            "seconds from 0 to 3600",
        );
        check(
            self.daemon.hang_limit_secs >= 5,
            "daemon.hang_limit_secs",
            self.daemon.hang_limit_secs.to_string(),
            "5 seconds or more",
        );
        let ingestion = &self.ingestion;
        check(
            (1..=64).contains(&ingestion.concurrency),
            "ingestion.concurrency",
            ingestion.concurrency.to_string(),
            "1 to 64",
        );
        check(
            (15..=2880).contains(&ingestion.horizon_minutes),
            "ingestion.horizon_minutes",
            ingestion.horizon_minutes.to_string(),
            "15 to 2880 minutes",
        );
        check(
            !ingestion.flights_prefix.is_empty(),
            "ingestion.flights_prefix",
            "empty".to_owned(),
            "a prefix such as flights/",
        );
        check(
            (1..=30).contains(&self.holdout.seasonal_percent),
            "holdout.seasonal_percent",
            self.holdout.seasonal_percent.to_string(),
            "1 to 30 percent",
        );
        check(
            (1..=60).contains(&self.holdout.recent_days),
            "holdout.recent_days",
            self.holdout.recent_days.to_string(),
            "1 to 60 days",
        );
        check(self.tuning.every_cycles >= 1, "tuning.every_cycles", self.tuning.every_cycles.to_string(), "1 or more");
        check(
            (1..=100).contains(&self.cluster.replicas),
            "cluster.replicas",
            self.cluster.replicas.to_string(),
            "1 to 100",
        );
        check(
            self.cluster.ready_deadline_secs >= 1,
            "cluster.ready_deadline_secs",
            self.cluster.ready_deadline_secs.to_string(),
            "1 second or more",
        );
        check(
            (1..=90).contains(&self.monitoring.window_days),
            "monitoring.window_days",
            self.monitoring.window_days.to_string(),
            "1 to 90 days",
        );
        check(
            self.monitoring.interval_secs >= 1,
            "monitoring.interval_secs",
            self.monitoring.interval_secs.to_string(),
            "1 second or more",
        );
        check(
            self.notification.attempts >= 1,
            "notification.attempts",
            self.notification.attempts.to_string(),
            "1 or more",
        );
        faults.extend(self.policy_faults());
        faults
    }

    fn kubernetes_faults(&self) -> Vec<Fault> {
        if self.cluster.kind != ClusterKind::Kubernetes {
            return Vec::new();
        }
        let fault = |expected| Fault { key: "cluster.kubernetes".to_owned(), found: "not usable".to_owned(), expected };
        self.cluster.kubernetes.faults().into_iter().map(fault).collect()
    }

    /// What the stages' policies say of themselves.
    fn policy_faults(&self) -> Vec<Fault> {
        let monitoring = &self.monitoring;
        let told = [
            ("retrain", self.retrain.faults()),
            ("training_policy", self.training_policy.faults()),
            ("verification", self.verification.faults()),
            ("monitoring.drift", monitoring.drift.faults()),
            ("monitoring.performance", monitoring.performance.faults()),
            ("monitoring.errors", monitoring.errors.faults()),
            ("monitoring.latency", monitoring.latency.faults()),
            ("monitoring.traffic", monitoring.traffic.faults()),
            ("monitoring.skew", monitoring.skew.faults()),
        ];
        let of_policies = told.into_iter().flat_map(|(section, faults)| {
            faults.into_iter().map(move |text| Fault {
                key: section.to_owned(),
                found: "not usable".to_owned(),
                expected: text,
            })
        });
        let of_policies = of_policies.chain(self.kubernetes_faults());
        let training = self.training.clone().check().err().map(|faults| faults.to_string());
        let tuning = self.tuning.search.check().err().map(|faults| faults.to_string());
        let of_training =
            [("training", training), ("tuning.search", tuning)].into_iter().filter_map(|(section, text)| {
                Some(Fault { key: section.to_owned(), found: "not usable".to_owned(), expected: text? })
            });
        of_policies.chain(of_training).collect()
    }
}
