//! Values that cannot be, all reported at once.

use super::{BuilderKind, ClusterKind, ObjectStoreKind, RegistryKind, Settings, TrainerKind, WeatherKind};
pub use delayd_core::fault::Fault;
use delayd_outside::packaging::SourceKind;

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
            self.monitoring.interval_secs >= 1,
            "monitoring.interval_secs",
            self.monitoring.interval_secs.to_string(),
            "1 second or more",
        );
        faults.extend(ingestion.limits.faults("ingestion.limits"));
        faults.extend(self.http.faults());
        faults.extend(self.notification.faults());
        faults.extend(self.weather_faults());
        faults.extend(self.policy_faults());
        faults.extend(self.object_store_faults());
        faults.extend(self.registry_faults());
        faults.extend(self.trainer_faults());
        faults
    }

    /// What is wrong with the trainer that is chosen.
    fn trainer_faults(&self) -> Vec<Fault> {
        let kubernetes = &self.trainer.kubernetes;
        if self.trainer.kind != TrainerKind::KubernetesJob {
            return Vec::new();
        }
        let fault = |(key, found, expected): (&str, String, &str)| Fault {
            key: format!("trainer.kubernetes.{key}"),
            found,
            expected: expected.to_owned(),
        };
        let mut faults: Vec<Fault> = kubernetes.faults().into_iter().map(fault).collect();
        if self.object_store.kind == ObjectStoreKind::Folder && !kubernetes.has_store_volume() {
            let expected = "the claim of a volume with object_store.folder on it: pods cannot reach a folder otherwise";
            faults.push(fault(("store_claim", "empty".to_owned(), expected)));
        }
        faults
    }

    /// What the chosen object store says of its section.
    fn object_store_faults(&self) -> Vec<Fault> {
        let told = match self.object_store.kind {
            ObjectStoreKind::Folder => Vec::new(),
            ObjectStoreKind::S3 => self.object_store.s3.faults(),
        };
        let fault = |text| Fault { key: "object_store.s3".to_owned(), found: "not usable".to_owned(), expected: text };
        told.into_iter().map(fault).collect()
    }

    /// Weather, airports and holidays: only what is chosen.
    fn weather_faults(&self) -> Vec<Fault> {
        let (weather, ingestion) = (&self.weather, &self.ingestion);
        let mut faults = Vec::new();
        if !(0.0..=1.0).contains(&weather.required_share) {
            let found = weather.required_share.to_string();
            let expected = "a share from 0 to 1".to_owned();
            faults.push(Fault { key: "weather.required_share".to_owned(), found, expected });
        }
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

    /// Processes of this machine run the binary at hand: what was built and pushed
    /// would not be what serves.
    fn source_without_images(&self) -> Vec<String> {
        let built = self.packaging.source.kind == SourceKind::Git;
        if built && self.cluster.kind == ClusterKind::Processes {
            let expected = "kind: built_in where cluster.kind is processes, which run packaging.service_binary; a \
                            service built from git needs a cluster that runs images";
            return vec![expected.to_owned()];
        }
        Vec::new()
    }

    fn docker_faults(&self) -> Vec<String> {
        match self.packaging.builder {
            BuilderKind::Docker => self.packaging.docker.faults(),
            BuilderKind::Oci => Vec::new(),
        }
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
            ("retention", self.retention.faults(monitoring)),
            ("packaging.source", self.packaging.source.faults()),
            ("packaging.source", self.source_without_images()),
            ("packaging.docker", self.docker_faults()),
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
