//! The daemon as a pod of a real Kubernetes: its own image, the manifests of
//! `k8s/daemon`, the credentials and rights that a pod there has, and a volume for its
//! state. It takes its first model live as pods of its own making, is killed, and its
//! successor goes on with the same ledger. Needs what `site` and `cluster::Site` need,
//! and skopeo; says SKIPPED without. The volume is a folder of the node, so the cluster
//! must run on this machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[allow(dead_code, reason = "the deployment's tests use the rest")]
use delayd_testkit::cluster;
use delayd_testkit::contracts;
use delayd_testkit::site;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cluster::Site;
use contracts::daemon_image;
use nix::sys::stat::{Mode, umask};
use serde_json::Value;
use site::{NEVER, QUICK, needs, reduced};
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
async fn the_daemon_runs_its_loop_as_a_pod_and_its_successor_goes_on() {
    let test = "the_daemon_runs_its_loop_as_a_pod_and_its_successor_goes_on";
    let Some(needs) = needs(test) else { return };
    umask(Mode::empty());
    let Some(site) = Site::new("daemon_as_pod") else { return };
    let Some(image) = daemon_image::pushed(test, &site.registry, &needs.service) else { return };
    fs::set_permissions(site.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let pod = Pod { site: &site, volume: site.folder.path().join("volume") };
    put_history(&pod.volume, &needs.data, site.folder.path());
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

/// Puts a month of flights where the daemon's store will be.
fn put_history(volume: &Path, data: &Path, scratch: &Path) {
    let reduced_to = scratch.join("data");
    reduced(data, &reduced_to, (1, 1), (2, 3), |_, _, _| ());
    for (file, key) in [
        ("airports.csv", "reference/airports.csv"),
        ("weather.csv", "weather/weather.csv"),
        ("flights.csv", "flights/2013-01.csv"),
    ] {
        let target = volume.join("store").join(key);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(reduced_to.join(file), &target).unwrap();
    }
}
