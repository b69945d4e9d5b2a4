//! `k8s/daemon` as kustomize renders it: every overlay keeps what a daemon needs and what
//! a cluster may ask of it, its configuration is one that delayd takes, and an API server
//! would take every object. Needs kubectl; the last one a cluster too (`KUBECONFIG`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use delayd::config::Settings;
use serde_json::{Value, json};
use tempfile::TempDir;

const OVERLAYS: [&str; 4] = ["base", "overlays/development", "overlays/production", "overlays/test"];

fn kubectl(arguments: &[&str]) -> Output {
    Command::new("kubectl").args(arguments).output().unwrap()
}

/// Whether the kubectl at hand can render what kustomize calls components.
fn no_kubectl(test: &str) -> bool {
    let missing = Command::new("kubectl").args(["version", "--client"]).output().is_err();
    if missing {
        eprintln!("SKIPPED: {test}: there is no kubectl of 1.21 or later");
    }
    missing
}

fn rendered(folder: &Path) -> String {
    let output = kubectl(&["kustomize", folder.to_str().unwrap()]);
    assert!(output.status.success(), "{}: {}", folder.display(), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn daemon_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("k8s/daemon")
}

fn objects(yaml: &str) -> Vec<Value> {
    yaml.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

#[test]
fn every_overlay_renders_one_daemon_that_asks_for_no_privilege() {
    if no_kubectl("every_overlay_renders_one_daemon_that_asks_for_no_privilege") {
        return;
    }
    for overlay in OVERLAYS {
        let objects = objects(&rendered(&daemon_folder().join(overlay)));
        assert!(of_kind(&objects, "Deployment").is_empty() && of_kind(&objects, "DaemonSet").is_empty(), "{overlay}");
        let [set] = of_kind(&objects, "StatefulSet")[..] else { panic!("{overlay}: not one StatefulSet") };
        assert_eq!(set["spec"]["replicas"], 1, "{overlay}: two daemons must never share a ledger");
        let pod = &set["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{overlay}");
        assert!(pod["securityContext"]["runAsUser"].as_i64().unwrap() > 0, "{overlay}");
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{overlay}");
        let [container] = &pod["containers"].as_array().unwrap()[..] else { panic!("{overlay}: not one container") };
        let security = &container["securityContext"];
        let expected = json!({ "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                               "capabilities": { "drop": ["ALL"] } });
        assert_eq!(security, &expected, "{overlay}");
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            let path = container[probe]["httpGet"]["path"].as_str().unwrap_or_default();
            assert!(["/healthz", "/readyz"].contains(&path), "{overlay}: {probe}");
        }
        assert!(container["resources"]["limits"]["memory"].is_string(), "{overlay}");
        assert!(container["resources"]["requests"]["cpu"].is_string(), "{overlay}");
        let image = container["image"].as_str().unwrap();
        assert_eq!(image == "delayd", overlay == "base", "an overlay says which image: {image}");
    }
}

#[test]
fn every_object_is_of_one_namespace_and_rights_go_to_the_daemon_alone() {
    if no_kubectl("every_object_is_of_one_namespace_and_rights_go_to_the_daemon_alone") {
        return;
    }
    for overlay in OVERLAYS {
        let objects = objects(&rendered(&daemon_folder().join(overlay)));
        let namespace = of_kind(&objects, "Namespace")[0]["metadata"]["name"].clone();
        assert_eq!(namespace == "delayd-development", overlay.ends_with("development"), "{overlay}: {namespace}");
        for object in objects.iter().filter(|object| !["Namespace", "PersistentVolume"].contains(&kind(object))) {
            assert_eq!(object["metadata"]["namespace"], namespace, "{overlay}: {}", kind(object));
            assert!(!kind(object).starts_with("Cluster"), "{overlay}: no right goes beyond the namespace");
        }
        for binding in of_kind(&objects, "RoleBinding") {
            let expected = json!([{ "kind": "ServiceAccount", "name": "delayd", "namespace": namespace }]);
            assert_eq!(binding["subjects"], expected, "{overlay}");
        }
        let pods = &of_kind(&objects, "StatefulSet")[0]["spec"]["template"]["metadata"]["labels"];
        for selecting in ["NetworkPolicy", "PodDisruptionBudget", "Service"] {
            for object in of_kind(&objects, selecting) {
                let spec = &object["spec"];
                let selector =
                    [&spec["podSelector"]["matchLabels"], &spec["selector"]["matchLabels"], &spec["selector"]];
                assert!(selector.contains(&pods), "{overlay}: {selecting} selects other pods: {spec}");
            }
        }
    }
}

fn kind(object: &Value) -> &str {
    object["kind"].as_str().unwrap()
}

#[test]
fn the_configuration_is_one_that_delayd_takes_and_fits_the_pod() {
    if no_kubectl("the_configuration_is_one_that_delayd_takes_and_fits_the_pod") {
        return;
    }
    for overlay in OVERLAYS {
        let objects = objects(&rendered(&daemon_folder().join(overlay)));
        let text = of_kind(&objects, "ConfigMap")[0]["data"]["delayd.toml"].as_str().unwrap().to_owned();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("delayd.toml");
        // Which registry is each site's own to name; the base and the test's overlay leave it open.
        let registry =
            if text.contains("\nhost = ") { "" } else { "\n[registry.oci]\nhost = \"registry.example.org\"\n" };
        fs::write(&file, format!("{text}{registry}")).unwrap();
        let settings = Settings::load(Some(&file)).unwrap_or_else(|error| panic!("{overlay}: {error}"));
        let container = &of_kind(&objects, "StatefulSet")[0]["spec"]["template"]["spec"]["containers"][0];
        let mounts = container["volumeMounts"].as_array().unwrap();
        let state = mounts.iter().find(|mount| mount["name"] == "state").unwrap();
        assert_eq!(settings.daemon.state_dir.to_str(), state["mountPath"].as_str(), "{overlay}");
        let listen = toml::from_str::<toml::Table>(&text).unwrap()["http"]["listen"].as_str().unwrap().to_owned();
        let port = container["ports"][0]["containerPort"].as_u64().unwrap();
        assert!(listen.ends_with(&format!(":{port}")), "{overlay}: {listen}");
        let namespace = &of_kind(&objects, "Namespace")[0]["metadata"]["name"];
        let deploys_to = settings.cluster.kubernetes.namespace;
        assert!(deploys_to.is_empty() || *namespace == *deploys_to, "{overlay}: it may only deploy to {namespace}");
    }
}

#[test]
fn prometheus_kinds_are_asked_for_only_where_they_are_wanted() {
    if no_kubectl("prometheus_kinds_are_asked_for_only_where_they_are_wanted") {
        return;
    }
    for overlay in OVERLAYS {
        let objects = objects(&rendered(&daemon_folder().join(overlay)));
        let monitors = [of_kind(&objects, "ServiceMonitor"), of_kind(&objects, "PodMonitor")].concat();
        assert_eq!(monitors.len(), if overlay.ends_with("production") { 2 } else { 0 }, "{overlay}");
    }
}

/// A namespace that is removed at the end, also when the test fails.
struct Namespace(String);

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = kubectl(&["delete", "namespace", &self.0, "--wait=false"]);
    }
}

/// An overlay in another namespace, and with what this cluster serves.
fn fitted(copy: &TempDir, overlay: &str, namespace: &str, served: &str) -> String {
    let folder = copy.path().join("k8s/daemon/overlays").join(format!("dry-run-{}", overlay.replace('/', "-")));
    fs::create_dir(&folder).unwrap();
    let old = !served.lines().any(|version| version == "policy/v1") && overlay != "overlays/test";
    let components = if old { "components: [../../components/kubernetes-1.20]\n" } else { "" };
    let kustomization =
        format!("kind: Kustomization\nnamespace: {namespace}\nresources: [../../{overlay}]\n{components}");
    fs::write(folder.join("kustomization.yaml"), kustomization).unwrap();
    let all = rendered(&folder);
    let taken = all.split("\n---\n").filter(|document| {
        served.contains("monitoring.coreos.com/v1") || !document.contains("apiVersion: monitoring.coreos.com/v1")
    });
    taken.collect::<Vec<_>>().join("\n---\n")
}

#[test]
fn an_api_server_takes_every_object() {
    let test = "an_api_server_takes_every_object";
    if no_kubectl(test) {
        return;
    }
    if std::env::var_os("KUBECONFIG").is_none_or(|value| value.is_empty()) {
        eprintln!("SKIPPED: {test}: KUBECONFIG names no cluster");
        return;
    }
    let namespace = Namespace(format!("delayd-test-manifests-{}", std::process::id()));
    let made = kubectl(&["create", "namespace", &namespace.0]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let served = String::from_utf8(kubectl(&["api-versions"]).stdout).unwrap();
    let copy = tempfile::tempdir().unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("k8s");
    assert!(Command::new("cp").arg("-r").arg(shipped).arg(copy.path()).status().unwrap().success());
    for overlay in OVERLAYS {
        let yaml = fitted(&copy, overlay, &namespace.0, &served);
        let mut apply = Command::new("kubectl")
            .args(["apply", "--dry-run=server", "--output=name", "--filename=-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        apply.stdin.take().unwrap().write_all(yaml.as_bytes()).unwrap();
        let output = apply.wait_with_output().unwrap();
        let taken = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{overlay}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(taken.lines().count(), objects(&yaml).len(), "{overlay}: {taken}");
        assert!(taken.contains("statefulset.apps/delayd"), "{overlay}: {taken}");
    }
}
