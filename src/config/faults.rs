//! What is wrong with a configuration, all of it at once and by key: values that are out of bounds, and a form that
//! cannot be read, with what was found, what was expected, and which key was probably meant.

use std::fmt::Display;
use std::ops::RangeBounds;

use figment::error::Kind;

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

/// Every fault of the form, a sentence each.
pub(super) fn format_faults(error: figment::Error) -> Vec<String> {
    error.into_iter().map(|one| sentence(&one)).collect()
}

fn sentence(error: &figment::Error) -> String {
    let mut path: Vec<&str> = error.path.iter().map(String::as_str).collect();
    let from_environment = error.metadata.as_ref().is_some_and(|metadata| metadata.name.contains("environment"));
    let place = if from_environment { " (from the environment)" } else { "" };
    match &error.kind {
        Kind::UnknownField(name, known) => {
            if path.last() == Some(&name.as_str()) {
                path.pop();
            }
            let key = |name: &str| path.iter().copied().chain([name]).collect::<Vec<_>>().join(".");
            let hint = match nearest(name, known) {
                Some(meant) => format!("did you mean {}?", key(meant)),
                None => format!("the keys there are {}", known.join(", ")),
            };
            format!("{}{place} is not a key; {hint}", key(name))
        }
        Kind::UnknownVariant(name, known) => {
            format!("{}{place} is {name:?}; expected {}", path.join("."), quoted(known))
        }
        Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
            format!("{}{place} is {found}; expected {}", path.join("."), plain(expected))
        }
        other if path.is_empty() => format!("{other}{place}"),
        other => format!("{}{place}: {other}", path.join(".")),
    }
}

/// `"a", "b" or "c"`.
fn quoted(known: &[&str]) -> String {
    let names: Vec<String> = known.iter().map(|name| format!("{name:?}")).collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        Some((last, _)) => last.clone(),
        None => "nothing".to_owned(),
    }
}

/// Types as people call them.
fn plain(expected: &str) -> &str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0 on",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        other => other,
    }
}

/// The known name that differs in the fewest letters, where those are few.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let close = |other: &&&str| distance(name, other) <= (name.chars().count() / 3).max(1);
    known.iter().filter(close).min_by_key(|other| distance(name, other)).copied()
}

/// Letters to insert, leave out or replace (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let replaced = row[j] + usize::from(from != *to);
            next.push(replaced.min(row[j + 1] + 1).min(next[j] + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_nearly_right_leads_to_the_right_one() {
        let known = ["hidden", "blocks", "history_half_life_days"];
        for (name, meant) in [
            ("hiden", Some("hidden")),
            ("block", Some("blocks")),
            ("history_halflife_days", Some("history_half_life_days")),
            ("optimiser", None),
        ] {
            assert_eq!(nearest(name, &known), meant, "{name}");
        }
        assert_eq!((distance("kitten", "sitting"), distance("", "ab"), distance("ab", "")), (3, 2, 2));
    }
}
