//! The daemon as a pod of a real Kubernetes: its own image, the manifests of
//! `k8s/daemon`, the credentials and rights that a pod there has, and a volume for its
//! state. It takes its first model live as pods of its own making, is killed, and its
//! successor goes on with the same ledger. Needs what `site` and `cluster::Site` need,
//! and skopeo; says SKIPPED without. The volume is a folder of the node, so the cluster
//! must run on this machine.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use delayd_testkit::cluster::Site;
use delayd_testkit::contracts::daemon_image;
use delayd_testkit::site;
use delayd_testkit::site::{
    NEVER, QUICK, REPLAY_LIMIT, Running, command, ended, needs, one_flight, put_history, reduced, tail,
};
use nix::sys::stat::{Mode, umask};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

const LIMIT: Duration = Duration::from_secs(300);

/// Carries connections of pods to the registry, which listens on this machine alone.
async fn registry_for_pods(site: &Site) -> String {
    let node = site.kubectl_anywhere(&[
        "get",
        "nodes",
        "-o",
        "jsonpath={.items[0].status.addresses[?(@.type==\"InternalIP\")].address}",
    ]);
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let address = format!("{node}:{}", listener.local_addr().unwrap().port());
    let registry = site.registry.clone();
    tokio::spawn(async move {
        while let Ok((mut pod, _)) = listener.accept().await {
            let registry = registry.clone();
            tokio::spawn(async move {
                let Ok(mut registry) = TcpStream::connect(registry).await else { return };
                // Either side may end it.
                let _ = tokio::io::copy_bidirectional(&mut pod, &mut registry).await;
            });
        }
    });
    address
}

/// Later tables win.
fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(into)), toml::Value::Table(from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// The manifests with this test's namespace, image, volume and settings.
fn manifests(site: &Site, image: &str, volume: &Path, registry: &str) -> String {
    let copy = site.folder.path().join("k8s");
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("k8s");
    let copied = std::process::Command::new("cp").arg("-r").arg(&shipped).arg(&copy).status().unwrap();
    assert!(copied.success());
    let toml_path = copy.join("daemon/base/delayd.toml");
    let mut settings: toml::Table = toml::from_str(QUICK).unwrap();
    merge(&mut settings, toml::from_str(NEVER).unwrap());
    merge(&mut settings, toml::from_str(&fs::read_to_string(&toml_path).unwrap()).unwrap());
    let of_test = format!(
        "[registry.oci]\nhost = \"{registry}\"\npull_host = \"{}\"\nplain_http = true\nrepository_prefix = \"{}\"\n\
         [cluster.kubernetes]\nnamespace = \"\"\ncpu_request = \"10m\"\nmemory_request = \"32Mi\"\n\
         [trainer]\nkind = \"kubernetes_job\"\n[trainer.kubernetes]\nimage = \"{image}\"\nconfig_map = \"delayd-config\"\n\
         store_claim = \"state-delayd-0\"\nstore_mount = \"/var/lib/delayd\"\ncpu = \"50m\"\nmemory = \"2Gi\"\npoll_secs = 1\n",
        site.registry, site.namespace
    );
    merge(&mut settings, toml::from_str(&of_test).unwrap());
    fs::write(&toml_path, toml::to_string(&settings).unwrap()).unwrap();
    let overlay = copy.join("daemon/overlays/test");
    let built = site.kubectl_anywhere(&["kustomize", overlay.to_str().unwrap()]);
    let namespace = &site.namespace;
    built
        .replace("namespace: delayd\n", &format!("namespace: {namespace}\n"))
        .replace(
            "    pod-security.kubernetes.io/warn: restricted\n  name: delayd\n",
            &format!("    pod-security.kubernetes.io/warn: restricted\n  name: {namespace}\n"),
        )
        .replace("name: delayd-state\n", &format!("name: {namespace}-state\n"))
        .replace("/var/lib/delayd-test-state", volume.to_str().unwrap())
        .replace("localhost:5000/delayd-test/delayd:test", image)
}

/// The pod, as seen from outside.
struct Pod<'a> {
    site: &'a Site,
    volume: PathBuf,
}

impl Pod<'_> {
    /// What the daemon says when asked from within its pod.
    fn asked(&self, arguments: &[&str]) -> Option<Value> {
        let mut all = vec!["--namespace", self.site.namespace.as_str(), "exec", "delayd-0", "--", "/usr/bin/delayd"];
        all.extend(["--config", "/etc/delayd/delayd.toml", "--json"]);
        all.extend(arguments);
        let output = self.site.command(&all).output().unwrap();
        serde_json::from_slice(&output.stdout).ok()
    }

    /// What somebody needs to know who has to find out why it did not work.
    fn told(&self) -> String {
        let mut told = String::new();
        for arguments in [
            vec!["get", "pods,jobs,pvc", "-o", "wide"],
            vec!["get", "events", "--sort-by=.lastTimestamp"],
            vec!["logs", "delayd-0", "--tail=60"],
        ] {
            let mut all = vec!["--namespace", self.site.namespace.as_str()];
            all.extend(arguments);
            let output = self.site.command(&all).output().unwrap();
            told.push_str(&String::from_utf8_lossy(&output.stdout));
            told.push_str(&String::from_utf8_lossy(&output.stderr));
        }
        told
    }

    async fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(began.elapsed() < LIMIT, "in vain waited until {what}:\n{}", self.told());
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    fn live(&self) -> Option<String> {
        let status = self.asked(&["status"])?;
        let aliases = status["aliases"].as_array()?;
        aliases.iter().find(|alias| alias["alias"] == "live")?["model"].as_str().map(str::to_owned)
    }

    fn serving(&self) -> Vec<String> {
        let ready = "jsonpath={range .items[?(@.status.containerStatuses[0].ready==true)]}{.metadata.name} {end}";
        let names = self.site.kubectl(&["get", "pods", "-l", "app.kubernetes.io/name=delay-ml", "-o", ready]);
        names.split_whitespace().map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn the_daemon_runs_its_loop_as_a_pod_and_its_successor_continues() {
    let test = "the_daemon_runs_its_loop_as_a_pod_and_its_successor_continues";
    let Some(needs) = needs(test) else { return };
    umask(Mode::empty());
    let Some(site) = Site::new("daemon_as_pod") else { return };
    let Some(image) = daemon_image::pushed(test, &site.registry, &needs.service) else { return };
    fs::set_permissions(site.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let pod = Pod { site: &site, volume: site.folder.path().join("volume") };
    put_history(&needs.data, site.folder.path(), &pod.volume.join("store"));
    let registry = registry_for_pods(&site).await;
    site.apply_yaml(&manifests(&site, &image, &pod.volume, &registry));

    pod.until("the pod is ready", || {
        let ready = site.value("pod/delayd-0", ".status.containerStatuses[0].ready");
        (ready == "true").then_some(())
    })
    .await;
    let model = pod.until("the first model is live", || pod.live()).await;
    assert_eq!(model, "model_v1");
    let cycles = pod.asked(&["cycles"]).unwrap();
    assert_eq!(cycles[0]["outcome"], "deployed", "{cycles}");
    let serving = pod.serving();
    assert!(!serving.is_empty(), "{}", pod.told());
    // Trained in a Job of the same image, which is tidied up once the bundle is here.
    let trained = fs::read_dir(pod.volume.join("store/training-jobs")).unwrap().count();
    let jobs = site.kubectl(&["get", "jobs", "-o", "name"]);
    assert!(jobs.trim().is_empty() && trained <= 1, "{jobs}");
    let steps = pod.asked(&["cycles", "cycle_1"]).unwrap();
    assert!(steps["steps"].as_array().unwrap().iter().all(|step| step["state"] == "done"), "{steps}");

    // Killed without a chance to put anything in order.
    let uid = site.value("pod/delayd-0", ".metadata.uid");
    site.kubectl(&["delete", "pod", "delayd-0", "--grace-period=0", "--force"]);
    pod.until("another pod is ready", || {
        let now = site.value("pod/delayd-0", ".metadata.uid");
        let ready = site.value("pod/delayd-0", ".status.containerStatuses[0].ready");
        (!now.is_empty() && now != uid && ready == "true").then_some(())
    })
    .await;
    assert_eq!(pod.until("the successor answers", || pod.live()).await, "model_v1");
    let after = pod.asked(&["cycles"]).unwrap();
    assert_eq!(after.as_array().unwrap().len(), 1, "the same ledger, and no second first cycle: {after}");
    assert_eq!(pod.serving(), serving, "the service's pods were not touched");
    // And it works on: a retrain that an administrator asks for.
    let asked = pod.asked(&["retrain", "--why", "the pod is new", "--by", "the test"]).unwrap();
    eprintln!("{asked}");
    pod.until("the second cycle is finished", || {
        let cycles = pod.asked(&["cycles"])?;
        let all = cycles.as_array()?;
        (all.len() == 2 && all.iter().all(|cycle| cycle["state"] == "finished")).then_some(())
    })
    .await;
    let cycles = pod.asked(&["cycles"]).unwrap();
    assert_eq!(cycles[0]["outcome"], "deployed", "{cycles}");
    assert_eq!(pod.live().as_deref(), Some("model_v2"));
    site.kubectl_anywhere(&["delete", "persistentvolume", &format!("{}-state", site.namespace), "--wait=false"]);
}

// ----------------------------------------------------------------
// The whole loop on a real Kubernetes: images pushed to a real registry, pods that
// pull them from there, real flights asked of the Service. Needs what `KUBECONFIG`
// and `DELAYD_TEST_REGISTRY` name, and what `site` needs; says SKIPPED without.

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

/// Variables that send what `delayd` starts to this namespace and registry.
fn on_the_cluster(cluster: &Site) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("DELAYD__CLUSTER__KIND", "kubernetes".to_owned()),
        ("DELAYD__CLUSTER__READY_DEADLINE_SECS", "90".to_owned()),
        ("DELAYD__CLUSTER__KUBERNETES__NAMESPACE", cluster.namespace.clone()),
        ("DELAYD__REGISTRY__KIND", "oci".to_owned()),
        ("DELAYD__REGISTRY__OCI__HOST", cluster.registry.clone()),
        ("DELAYD__REGISTRY__OCI__PLAIN_HTTP", "true".to_owned()),
        ("DELAYD__REGISTRY__OCI__REPOSITORY_PREFIX", cluster.namespace.clone()),
    ])
}

fn pods(cluster: &Site) -> Vec<Value> {
    let pods: Value = serde_json::from_str(&cluster.kubectl(&["get", "pods", "-o", "json"])).unwrap();
    pods["items"].as_array().unwrap().clone()
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
    let Some(cluster) = Site::new("loop") else { return };
    let place = TempDir::new().unwrap();
    let (data, state, out) = (place.path().join("data"), place.path().join("state"), place.path().join("out"));
    reduced(&needs.data, &data, (1, 1), (2, 28), |flight, today, _| carrier_renamed_from((2, 8), flight, today));
    let config = place.path().join("delayd.toml");
    fs::write(&config, format!("{QUICK}{WATCHFUL}")).unwrap();
    let mut replay = command(&["replay", "--train-from", "2013-01-01", "--train-until", "2013-02-01"]);
    replay.args(["--until", "2013-02-26"]).arg("--data").arg(&data).arg("--out").arg(&out);
    replay.env("DELAYD_CONFIG", &config).env("DELAYD_STATE", &state).env("DELAYD_SERVE_BIN", &needs.service);
    replay.envs(on_the_cluster(&cluster));
    let log = place.path().join("replay.log");
    let mut running = Running::start(replay, &state, &log);
    let images = watch_images(&cluster, &mut running, &log);

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
        assert!(image.starts_with(&cluster.registry) && image.contains("@sha256:"), "{image}");
    }
    // The replay puts away what it started.
    assert!(pods(&cluster).iter().all(|pod| !pod["metadata"]["deletionTimestamp"].is_null()));
}

/// Looks at the pods' images until the replay has ended well.
fn watch_images(cluster: &Site, running: &mut Running, log: &Path) -> Vec<String> {
    let mut images = Vec::new();
    let began = Instant::now();
    loop {
        for pod in pods(cluster) {
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

/// What a command answers with `--json`.
fn asked(daemon: &site::Site, arguments: &[&str]) -> Option<Value> {
    let output = daemon.command(arguments).arg("--json").output().unwrap();
    serde_json::from_slice(&output.stdout).ok()
}

/// How the newest cycle ended, once there are so many and it has.
fn outcome_of_cycle(daemon: &site::Site, number: usize) -> Option<(String, String)> {
    // Each question starts a process.
    std::thread::sleep(Duration::from_millis(300));
    let cycles = asked(daemon, &["cycles"])?;
    let cycles = cycles.as_array()?;
    let newest = cycles.first().filter(|_| cycles.len() == number)?;
    Some((newest["outcome"].as_str()?.to_owned(), newest["detail"].to_string()))
}

/// The model that answers a real request at the Service.
fn model_that_answers(daemon: &site::Site) -> Option<String> {
    let url = asked(daemon, &["status"])?["service_url"].as_str()?.to_owned();
    // The Service may lie below a path of that address.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(async {
        let client = delayd_core::http_client::client_builder();
        let client = client.no_proxy().timeout(Duration::from_secs(10)).build().unwrap();
        let asking =
            client.post(format!("{url}/predict")).header("content-type", "application/json").body(one_flight());
        asking.send().await.ok()?.json::<Value>().await.ok()
    })?;
    Some(answer["model_version"].as_str()?.to_owned())
}

#[test]
fn a_bad_release_is_rolled_back_and_the_live_model_keeps_serving() {
    let test = "a_bad_release_is_rolled_back_and_the_live_model_keeps_serving";
    let Some(needs) = needs(test) else { return };
    let Some(cluster) = Site::new("bad") else { return };
    let mut daemon = site::Site::with_history(&needs);
    daemon.environment = on_the_cluster(&cluster);
    let mut running = daemon.start();
    let (outcome, detail) = daemon.wait(&mut running, "the first model is live", || outcome_of_cycle(&daemon, 1));
    assert_eq!(outcome, "deployed", "{detail}\n{}", tail(&running.log));
    assert_eq!(model_that_answers(&daemon).as_deref(), Some("model_v1"));
    drop(running);

    // The next release's service cannot start: a static program that fails at once.
    let broken = daemon.place.path().join("broken-serve");
    let source = daemon.place.path().join("broken.c");
    fs::write(&source, "#include <stdio.h>\nint main(void) { fputs(\"cannot serve\\n\", stderr); return 3; }\n")
        .unwrap();
    let compiled = Command::new("gcc").args(["-static", "-O1", "-o"]).arg(&broken).arg(&source).status().unwrap();
    assert!(compiled.success());
    daemon.service = broken;
    let mut running = daemon.start();
    daemon.wait(&mut running, "the daemon answers", || {
        asked(&daemon, &["status"])?["service_url"].as_str().map(str::to_owned)
    });
    assert!(asked(&daemon, &["retrain", "--why", "to see a release fail"]).is_some());
    let (outcome, detail) = daemon.wait(&mut running, "the second cycle is over", || outcome_of_cycle(&daemon, 2));
    assert_eq!(outcome, "rolled_back", "{detail}\n{}", tail(&running.log));
    assert!(detail.contains("cannot serve"), "the reason does not hold the pod's last words: {detail}");
    assert_eq!(model_that_answers(&daemon).as_deref(), Some("model_v1"));
    let alerts = fs::read_to_string(&running.log).unwrap();
    assert!(alerts.contains("model_v2"), "nobody was told:\n{}", tail(&running.log));
}
