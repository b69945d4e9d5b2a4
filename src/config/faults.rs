//! Invalid values, all reported at once.

use std::fmt::Display;
use std::ops::RangeBounds;

use super::{BuilderKind, ClusterKind, ObjectStoreKind, RegistryKind, Settings, TrainerKind, WeatherKind};
pub use delayd_core::fault::Fault;
use delayd_outside::packaging::SourceKind;

pub(super) fn listing(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("  - {fault}")).collect::<Vec<_>>().join("\n")
}

impl Settings {
    pub(super) fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let (daemon, ingestion, holdout) = (&self.daemon, &self.ingestion, &self.holdout);
        let found = &mut faults;
        check(found, "daemon.step_attempts", daemon.step_attempts, 1..=20, "1 to 20");
        check(found, "daemon.step_retry_secs", daemon.step_retry_secs, 0.0..=3600.0, "seconds from 0 to 3600");
        check(found, "daemon.hang_limit_secs", daemon.hang_limit_secs, 5.., "5 seconds or more");
        check(found, "ingestion.concurrency", ingestion.concurrency, 1..=64, "1 to 64");
        check(found, "ingestion.horizon_minutes", ingestion.horizon_minutes, 15..=2880, "15 to 2880 minutes");
        check(found, "holdout.seasonal_percent", holdout.seasonal_percent, 1..=30, "1 to 30 percent");
        check(found, "holdout.recent_days", holdout.recent_days, 1..=60, "1 to 60 days");
        check(found, "tuning.every_cycles", self.tuning.every_cycles, 1.., "1 or more");
        check(found, "cluster.replicas", self.cluster.replicas, 1..=100, "1 to 100");
        check(found, "cluster.ready_deadline_secs", self.cluster.ready_deadline_secs, 1.., "1 second or more");
        check(found, "monitoring.interval_secs", self.monitoring.interval_secs, 1.., "1 second or more");
        check(found, "weather.required_share", self.weather.required_share, 0.0..=1.0, "a share from 0 to 1");
        if ingestion.flights_prefix.is_empty() {
            found.push(fault("ingestion.flights_prefix", "empty", "a prefix such as flights/"));
        }
        faults.extend(ingestion.limits.faults("ingestion.limits"));
        faults.extend(self.http.faults());
        faults.extend(self.notification.faults());
        faults.extend(self.weather_faults());
        faults.extend(self.policy_faults());
        faults.extend(self.registry_faults());
        faults.extend(self.trainer_faults());
        faults
    }

    /// Those of the trainer that is chosen.
    fn trainer_faults(&self) -> Vec<Fault> {
        let kubernetes = &self.trainer.kubernetes;
        if self.trainer.kind != TrainerKind::KubernetesJob {
            return Vec::new();
        }
        let of = |(key, found, expected): (&str, String, &str)| {
            fault(&format!("trainer.kubernetes.{key}"), &found, expected)
        };
        let mut faults: Vec<Fault> = kubernetes.faults().into_iter().map(of).collect();
        if self.object_store.kind == ObjectStoreKind::Folder && !kubernetes.has_store_volume() {
            let expected = "the claim of a volume with object_store.folder on it: pods cannot reach a folder otherwise";
            faults.push(of(("store_claim", "empty".to_owned(), expected)));
        }
        faults
    }

    /// Weather, airports and holidays: only what is chosen.
    fn weather_faults(&self) -> Vec<Fault> {
        let (weather, ingestion) = (&self.weather, &self.ingestion);
        let mut faults = Vec::new();
        if weather.kind == WeatherKind::OpenMeteo {
            faults.extend(weather.open_meteo.faults("weather.open_meteo"));
        }
        if ingestion.airports_url.is_set() || ingestion.holidays_url.is_set() {
            faults.extend(ingestion.reference.faults("ingestion.reference"));
            faults.extend(ingestion.fetch.faults("ingestion.fetch"));
        }
        faults
    }

    /// Those of the image registry that is chosen.
    fn registry_faults(&self) -> Vec<Fault> {
        match self.registry.kind {
            RegistryKind::Layout => Vec::new(),
            RegistryKind::Oci => self.registry.oci.faults("registry.oci"),
            RegistryKind::Ecr => self.registry.ecr.faults("registry.ecr"),
        }
    }

    /// Local processes run the local binary: what was built and pushed would not be what serves.
    fn source_without_images(&self) -> Vec<String> {
        let built = self.packaging.source.kind == SourceKind::Git;
        let expected = "kind: built_in where cluster.kind is processes, which run packaging.service_binary; a service \
                        built from git needs a cluster that runs images";
        let fault = built && self.cluster.kind == ClusterKind::Processes;
        fault.then(|| expected.to_owned()).into_iter().collect()
    }

    /// What the stages' policies report about themselves; of adapters only those that are chosen.
    fn policy_faults(&self) -> Vec<Fault> {
        let monitoring = &self.monitoring;
        let chosen = |is_chosen: bool, faults: Vec<String>| if is_chosen { faults } else { Vec::new() };
        let one = |fault: Option<String>| fault.into_iter().collect();
        let (s3, docker) =
            (self.object_store.kind == ObjectStoreKind::S3, self.packaging.builder == BuilderKind::Docker);
        let kubernetes = self.cluster.kind == ClusterKind::Kubernetes;
        let all: [(&str, Vec<String>); 17] = [
            ("retrain", self.retrain.faults()),
            ("training_policy", self.training_policy.faults()),
            ("verification", self.verification.faults()),
            ("monitoring.drift", monitoring.drift.faults()),
            ("monitoring.performance", monitoring.performance.faults()),
            ("monitoring.errors", monitoring.errors.faults()),
            ("monitoring.latency", monitoring.latency.faults()),
            ("monitoring.traffic", monitoring.traffic.faults()),
            ("monitoring.skew", monitoring.skew.faults()),
            ("retention", self.retention.faults(monitoring)),
            ("packaging.source", self.packaging.source.faults()),
            ("packaging.source", self.source_without_images()),
            ("packaging.docker", chosen(docker, self.packaging.docker.faults())),
            ("cluster.kubernetes", chosen(kubernetes, self.cluster.kubernetes.faults())),
            ("object_store.s3", chosen(s3, self.object_store.s3.faults())),
            ("training", one(self.training.clone().check().err().map(|faults| faults.to_string()))),
            ("tuning.search", one(self.tuning.search.check().err().map(|faults| faults.to_string()))),
        ];
        let faults = all.into_iter().flat_map(|(section, faults)| faults.into_iter().map(move |text| (section, text)));
        faults.map(|(section, text)| fault(section, "not usable", &text)).collect()
    }
}

fn fault(key: &str, found: &str, expected: &str) -> Fault {
    Fault { key: key.to_owned(), found: found.to_owned(), expected: expected.to_owned() }
}

fn check<T: PartialOrd + Display>(
    faults: &mut Vec<Fault>,
    key: &str,
    value: T,
    allowed: impl RangeBounds<T>,
    expected: &str,
) {
    if !allowed.contains(&value) {
        faults.push(fault(key, &value.to_string(), expected));
    }
}
