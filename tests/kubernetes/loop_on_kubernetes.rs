//! The whole loop on a real Kubernetes: images pushed to a real registry, pods that
//! pull them from there, real flights asked of the Service. Needs what `KUBECONFIG`
//! and `DELAYD_TEST_REGISTRY` name, and what `site` needs; says SKIPPED without.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use delayd_testkit::site;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use site::{Needs, QUICK, REPLAY_LIMIT, Running, command, ended, needs, reduced, tail};
use tempfile::TempDir;

/// Looks at drift over one week, day by day, and acts on it soon.
const WATCHFUL: &str = r"
[retrain]
max_model_age_days = 100000
minimum_new_examples = 500

[retrain.governor]
cooldown_days = 5
urgent_cooldown_days = 5
retrains_per_30_days = 20
";

/// The flights are of 2013 and the daemon's clock is not: age alone must not ask for a cycle.
const NEVER: &str = r"
[retrain]
max_model_age_days = 100000
";

const LIMIT: Duration = Duration::from_secs(300);

/// A namespace of its own, removed at the end.
struct Namespace {
    name: String,
    registry: String,
}

impl Namespace {
    fn new(test: &str, purpose: &str) -> Option<Self> {
        let (Some(_), Ok(registry)) = (std::env::var_os("KUBECONFIG"), std::env::var("DELAYD_TEST_REGISTRY")) else {
            eprintln!(
                "SKIPPED: {test}: no cluster; name one in KUBECONFIG, and a registry its nodes pull from in DELAYD_TEST_REGISTRY"
            );
            return None;
        };
        let name = format!("delayd-{purpose}-{}", std::process::id());
        let namespace = Self { name, registry };
        assert!(namespace.kubectl(&["create", "namespace", &namespace.name]).0, "no namespace {}", namespace.name);
        Some(namespace)
    }

    fn kubectl(&self, arguments: &[&str]) -> (bool, String) {
        let output = Command::new("kubectl").args(["-n", &self.name]).args(arguments).output().unwrap();
        let text = if output.status.success() { output.stdout } else { output.stderr };
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    fn pods(&self) -> Value {
        let (fine, text) = self.kubectl(&["get", "pods", "-o", "json"]);
        assert!(fine, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Sends what `delayd` starts to this namespace and registry.
    fn apply_to(&self, command: &mut Command) {
        let settings = BTreeMap::from([
            ("DELAYD__CLUSTER__KIND", "kubernetes"),
            ("DELAYD__CLUSTER__READY_DEADLINE_SECS", "90"),
            ("DELAYD__CLUSTER__KUBERNETES__NAMESPACE", &self.name),
            ("DELAYD__REGISTRY__KIND", "oci"),
            ("DELAYD__REGISTRY__OCI__HOST", &self.registry),
            ("DELAYD__REGISTRY__OCI__PLAIN_HTTP", "true"),
            ("DELAYD__REGISTRY__OCI__REPOSITORY_PREFIX", &self.name),
        ]);
        command.envs(settings);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
    }
}

/// A carrier changes its code: from one day on, a third of all flights are of one
/// that the model has never seen.
fn carrier_renamed_from(day: site::Day, flight: &mut site::Flight, today: site::Day) {
    if today >= day && ["UA", "B6"].contains(&flight.cell("carrier").as_str()) {
        flight.set("carrier", "ZZ");
    }
}

#[test]
fn the_loop_goes_from_drift_to_live_on_kubernetes() {
    let test = "the_loop_goes_from_drift_to_live_on_kubernetes";
    let Some(needs) = needs(test) else { return };
    let Some(namespace) = Namespace::new(test, "loop") else { return };
    let place = TempDir::new().unwrap();
    let (data, state, out) = (place.path().join("data"), place.path().join("state"), place.path().join("out"));
    reduced(&needs.data, &data, (1, 1), (2, 28), |flight, today, _| carrier_renamed_from((2, 8), flight, today));
    let config = place.path().join("delayd.toml");
    fs::write(&config, format!("{QUICK}{WATCHFUL}")).unwrap();
    let mut replay = command(&["replay", "--train-from", "2013-01-01", "--train-until", "2013-02-01"]);
    replay.args(["--until", "2013-02-26"]).arg("--data").arg(&data).arg("--out").arg(&out);
    replay.env("DELAYD_CONFIG", &config).env("DELAYD_STATE", &state).env("DELAYD_SERVE_BIN", &needs.service);
    namespace.apply_to(&mut replay);
    let log = place.path().join("replay.log");
    let mut running = Running::start(replay, &state, &log);
    let images = watch_images(&namespace, &mut running, &log);

    let report: Value = serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap();
    let cycles = report["cycles"].as_array().unwrap();
    let drifted = cycles
        .iter()
        .find(|cycle| cycle["outcome"] == "deployed" && cycle["reason"].to_string().to_lowercase().contains("drift"));
    let drifted = drifted.unwrap_or_else(|| panic!("no cycle went from drift to live: {cycles:#?}\n{}", tail(&log)));
    for step in ["train", "gate", "register", "package", "push", "deploy", "verify", "approve"] {
        assert!(drifted.to_string().contains(step), "no step `{step}` in {drifted}");
    }
    assert_eq!(report["request_errors"], 0, "requests were lost: {}", tail(&log));
    assert!(report["requests"].as_u64().unwrap() > 100);
    // Every pod pulled its image from the registry, by digest, and there were at least two models.
    assert!(images.len() >= 2, "{images:?}");
    for image in &images {
        assert!(image.starts_with(&namespace.registry) && image.contains("@sha256:"), "{image}");
    }
    // The replay puts away what it started.
    assert!(
        namespace.pods()["items"].as_array().unwrap().iter().all(|pod| !pod["metadata"]["deletionTimestamp"].is_null())
    );
}

/// Looks at the pods' images until the replay has ended well.
fn watch_images(namespace: &Namespace, running: &mut Running, log: &Path) -> Vec<String> {
    let mut images = Vec::new();
    let began = Instant::now();
    loop {
        for pod in namespace.pods()["items"].as_array().unwrap() {
            let image = pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned();
            if !images.contains(&image) {
                images.push(image);
            }
        }
        if let Some(status) = ended(&mut running.child, Duration::from_millis(500)) {
            assert!(status.success(), "the replay ended with {status}:\n{}", tail(log));
            return images;
        }
        assert!(began.elapsed() < REPLAY_LIMIT, "the replay takes too long:\n{}", tail(log));
    }
}

/// A daemon with a month of flights, on a port of its own.
struct Daemon<'a> {
    namespace: &'a Namespace,
    place: TempDir,
    port: u16,
}

impl<'a> Daemon<'a> {
    fn with_history(needs: &Needs, namespace: &'a Namespace) -> Self {
        let place = TempDir::new().unwrap();
        let data = place.path().join("data");
        reduced(&needs.data, &data, (1, 1), (2, 3), |_, _, _| ());
        for (file, key) in [
            ("airports.csv", "reference/airports.csv"),
            ("weather.csv", "weather/weather.csv"),
            ("flights.csv", "flights/2013-01.csv"),
        ] {
            let target = place.path().join("state/store").join(key);
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::rename(data.join(file), target).unwrap();
        }
        fs::write(place.path().join("delayd.toml"), format!("{QUICK}{NEVER}")).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { namespace, place, port }
    }

    fn start(&self, service: &Path) -> Running {
        let (state, log) = (self.place.path().join("state"), self.place.path().join("daemon.log"));
        let mut run = command(&["run"]);
        run.env("DELAYD_CONFIG", self.place.path().join("delayd.toml")).env("DELAYD_STATE", &state);
        run.env("DELAYD_SERVE_BIN", service).env("DELAYD__HTTP__LISTEN", format!("127.0.0.1:{}", self.port));
        self.namespace.apply_to(&mut run);
        Running::start(run, &state, &log)
    }

    /// What a command answers with `--json`.
    fn asked(&self, arguments: &[&str]) -> Option<Value> {
        let mut ask = command(arguments);
        ask.arg("--json").env("DELAYD_STATE", self.place.path().join("state"));
        ask.env("DELAYD__HTTP__LISTEN", format!("127.0.0.1:{}", self.port));
        serde_json::from_slice(&ask.output().unwrap().stdout).ok()
    }

    fn wait<T>(&self, running: &mut Running, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            let ended = ended(&mut running.child, Duration::from_millis(300));
            assert!(ended.is_none(), "the daemon ended while waiting until {what}:\n{}", tail(&running.log));
            assert!(began.elapsed() < LIMIT, "waited in vain until {what}:\n{}", tail(&running.log));
        }
    }

    /// How the newest cycle ended, once there are so many and it has.
    fn outcome_of_cycle(&self, number: usize) -> Option<(String, String)> {
        let cycles = self.asked(&["cycles"])?;
        let cycles = cycles.as_array()?;
        let newest = cycles.first().filter(|_| cycles.len() == number)?;
        Some((newest["outcome"].as_str()?.to_owned(), newest["detail"].to_string()))
    }

    /// The model that answers a real request at the Service.
    fn model_that_answers(&self) -> Option<String> {
        let url = self.asked(&["status"])?["service_url"].as_str()?.to_owned();
        let flight = json!({ "flights": [{
            "carrier": "UA", "flight_number": 1545, "origin": "EWR", "dest": "IAH",
            "scheduled_departure": "2013-02-04T15:15:00Z", "scheduled_arrival": "2013-02-04T19:15:00Z",
            "distance_miles": 1400.0, "context": {},
        }] });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answer = runtime.block_on(async {
            let client =
                delayd_core::http_client::client_builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap();
            client.post(format!("{url}/predict")).json(&flight).send().await.ok()?.json::<Value>().await.ok()
        })?;
        Some(answer["model_version"].as_str()?.to_owned())
    }
}

#[test]
fn a_bad_release_is_rolled_back_and_the_live_model_serves_on() {
    let test = "a_bad_release_is_rolled_back_and_the_live_model_serves_on";
    let Some(needs) = needs(test) else { return };
    let Some(namespace) = Namespace::new(test, "bad") else { return };
    let daemon = Daemon::with_history(&needs, &namespace);
    let mut running = daemon.start(&needs.service);
    let (outcome, detail) = daemon.wait(&mut running, "the first model is live", || daemon.outcome_of_cycle(1));
    assert_eq!(outcome, "deployed", "{detail}\n{}", tail(&running.log));
    assert_eq!(daemon.model_that_answers().as_deref(), Some("model_v1"));
    drop(running);

    // The next release's service cannot start: a static program that fails at once.
    let broken = daemon.place.path().join("broken-serve");
    let source = daemon.place.path().join("broken.c");
    fs::write(&source, "#include <stdio.h>\nint main(void) { fputs(\"cannot serve\\n\", stderr); return 3; }\n")
        .unwrap();
    let compiled = Command::new("gcc").args(["-static", "-O1", "-o"]).arg(&broken).arg(&source).status().unwrap();
    assert!(compiled.success());
    let mut running = daemon.start(&broken);
    daemon.wait(&mut running, "the daemon answers", || {
        daemon.asked(&["status"])?["service_url"].as_str().map(str::to_owned)
    });
    assert!(daemon.asked(&["retrain", "--why", "to see a release fail"]).is_some());
    let (outcome, detail) = daemon.wait(&mut running, "the second cycle is over", || daemon.outcome_of_cycle(2));
    assert_eq!(outcome, "rolled_back", "{detail}\n{}", tail(&running.log));
    assert!(detail.contains("cannot serve"), "the reason does not hold the pod's last words: {detail}");
    assert_eq!(daemon.model_that_answers().as_deref(), Some("model_v1"));
    let alerts = fs::read_to_string(&running.log).unwrap();
    assert!(alerts.contains("model_v2"), "nobody was told:\n{}", tail(&running.log));
}
