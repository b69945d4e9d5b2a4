//! The Debian package of this build, on a Debian of its own with a real systemd: see
//! `scripts/test/debian_package`, which says each thing that it finds.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use delayd::config::Settings;
use delayd_testkit::site::{Running, command, needs};
use delayd_testkit::tools::{self, free_port};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

/// What the script ends with where it cannot run.
const SKIPPED: i32 = 77;

#[test]
fn the_package_installs_serves_is_watched_over_upgraded_and_purged_under_systemd() {
    let test = "the_package_installs_serves_is_watched_over_upgraded_and_purged_under_systemd";
    let Some(needs) = needs(test) else { return };
    for (command, package) in [
        ("dpkg-deb", "dpkg"),
        ("chrpath", "chrpath"),
        ("systemd-nspawn", "systemd-container"),
        ("mmdebstrap", "mmdebstrap"),
    ] {
        if Command::new(command).arg("--version").output().is_err() {
            eprintln!("SKIPPED: {test}: there is no {command}; Debian's package {package} has it");
            return;
        }
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: {test}: only root can start a system of its own");
        return;
    }
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let folder = tempfile::tempdir().unwrap();
    let mut build = Command::new(scripts.join("package/debian"));
    build.arg(folder.path()).arg(env!("CARGO_BIN_EXE_delayd")).arg(&needs.service).arg(&needs.trainer);
    build.env("DELAYD_DEB_FAST", "1");
    let built = build.output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let package = String::from_utf8(built.stdout).unwrap();
    let mut run = Command::new(scripts.join("test/debian_package"));
    let output = run.arg(package.trim()).env("DELAYD_DATA", &needs.data).output().unwrap();
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    eprintln!("{told}");
    if output.status.code() == Some(SKIPPED) {
        eprintln!("{told}");
        return;
    }
    assert!(output.status.success(), "{told}");
}

// ----------------------------------------------------------------
// `delayd run` under a service manager: what it is told, over a real socket, and the
// sockets that it passes. `scripts/test/debian_package` does the same with systemd.

const LIMIT: Duration = Duration::from_secs(60);

/// A service manager's side: a folder, and the socket on which it listens.
struct Manager {
    folder: TempDir,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        Self { folder, socket }
    }

    /// The next message; `None` when none comes within `limit`.
    fn heard(&self, limit: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(limit)).unwrap();
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).ok()?;
        Some(String::from_utf8_lossy(&message[..length]).into_owned())
    }

    /// Listens until a message holds `part`.
    fn until(&self, part: &str) -> String {
        let begun = Instant::now();
        let mut all = Vec::new();
        while begun.elapsed() < LIMIT {
            let Some(message) = self.heard(Duration::from_secs(1)) else { continue };
            if message.contains(part) {
                return message;
            }
            all.push(message);
        }
        panic!("`{part}` was not heard, but {all:?}");
    }
}

/// A configuration without data, whose daemon needs a service binary to be there and
/// never starts it.
fn configuration(folder: &Path, listen: &str) -> (PathBuf, PathBuf) {
    let (config, state) = (folder.join("delayd.toml"), folder.join("state"));
    std::fs::write(&config, format!("[http]\nlisten = \"{listen}\"\n")).unwrap();
    (config, state)
}

fn daemon(config: &Path, state: &Path) -> Command {
    let mut command = command(&["--config", config.to_str().unwrap(), "--state", state.to_str().unwrap(), "run"]);
    command.env("DELAYD_SERVE_BIN", "/bin/true");
    command
}

fn started(command: Command, state: &Path) -> Running {
    Running::start(command, state, &state.with_file_name("daemon.log"))
}

#[test]
fn the_service_manager_hears_readiness_where_the_loop_is_beats_and_the_end() {
    let manager = Manager::new();
    let listen = format!("127.0.0.1:{}", free_port());
    let (config, state) = configuration(manager.folder.path(), &listen);
    let mut command = daemon(&config, &state);
    command.env("NOTIFY_SOCKET", manager.folder.path().join("notify")).env("WATCHDOG_USEC", "2000000");
    let mut daemon = started(command, &state);

    manager.until("READY=1\n");
    let health = tools::get(&listen, "/healthz").unwrap();
    assert_eq!(health.0, 200, "ready means that it answers: {health:?}");
    manager.until("STATUS=no model is live yet; watching\n");
    manager.until("WATCHDOG=1\n");

    daemon.signal(Signal::SIGSTOP);
    while manager.heard(Duration::from_millis(200)).is_some() {}
    assert_eq!(manager.heard(Duration::from_secs(2)), None, "a stopped daemon gives no beat");
    daemon.signal(Signal::SIGCONT);
    manager.until("WATCHDOG=1\n");

    daemon.signal(Signal::SIGTERM);
    assert_eq!(manager.until("STOPPING=1\n"), "STOPPING=1\nSTATUS=stopping; replicas keep serving\n");
    assert_eq!(daemon.end().code(), Some(0));
}

#[test]
fn no_beat_is_asked_for_and_none_is_given() {
    let manager = Manager::new();
    let (config, state) = configuration(manager.folder.path(), "127.0.0.1:0");
    let mut command = daemon(&config, &state);
    command.env("NOTIFY_SOCKET", manager.folder.path().join("notify"));
    let mut daemon = started(command, &state);
    manager.until("STATUS=no model is live yet");
    let later = std::iter::from_fn(|| manager.heard(Duration::from_secs(2))).collect::<Vec<_>>();
    assert!(later.iter().all(|message| !message.contains("WATCHDOG")), "{later:?}");
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.end().success());
}

/// Starts the daemon as the service manager does that passes `socket`: as descriptor 3.
fn activated(config: &Path, state: &Path, socket: impl Into<OwnedFd>) -> Running {
    let run = daemon(config, state);
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\""]);
    shell.arg(run.get_program()).args(run.get_args()).env("DELAYD_SERVE_BIN", "/bin/true");
    shell.stdin(Stdio::from(socket.into()));
    started(shell, state)
}

#[test]
fn the_status_endpoint_answers_on_the_socket_that_was_passed_also_who_came_before_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let (passed, own) = (TcpListener::bind("127.0.0.1:0").unwrap(), format!("127.0.0.1:{}", free_port()));
    let address = passed.local_addr().unwrap().to_string();
    let early = TcpStream::connect(&address).unwrap();
    let (config, state) = configuration(folder.path(), &own);
    let mut daemon = activated(&config, &state, passed);
    let answered = tools::answer_on(early, "GET /api/v1/status HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    assert_eq!(tools::status_and_body(&answered).unwrap().0, 200, "{answered}");
    assert_eq!(tools::get(&address, "/readyz").unwrap().0, 200);
    assert!(TcpStream::connect(&own).is_err(), "the configured address is not used then");
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.end().success());
}

#[test]
fn a_passed_socket_that_cannot_be_used_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (config, state) = configuration(folder.path(), "127.0.0.1:0");
    let mut daemon = activated(&config, &state, UdpSocket::bind("127.0.0.1:0").unwrap());
    let status = daemon.end();
    let told = fs::read_to_string(&daemon.log).unwrap();
    assert_eq!(status.code(), Some(1), "{told}");
    assert!(told.contains("neither TCP nor Unix"), "{told}");
}

// ----------------------------------------------------------------
// `k8s/daemon` as kustomize renders it: every overlay keeps what a daemon needs and what
// a cluster may ask of it, its configuration is one that delayd takes, and an API server
// would take every object. Needs kubectl; the last one a cluster too (`KUBECONFIG`).

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
