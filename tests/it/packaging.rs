//! The image that packaging builds: reproducible, layered, and readable by other tools.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::ids::{CycleId, Digest};
use delayd_core::secret::Secret;
use delayd_outside::packaging::oci::{Layout, Manifest};
use delayd_outside::packaging::source::{BuildControl, FinishedBuild, SourceBuilder};
use delayd_outside::packaging::{PackagedImage, PackagingError, SourceSettings, package};
use delayd_testkit::ci;
use delayd_testkit::ci::ServerProcess;
use delayd_testkit::ci::{ServiceRepository, files_with, makes_a_binary, script_settings};
use delayd_testkit::contracts::flaky_proxy::{FlakyProxy, Mood, TlsFront};
use delayd_testkit::contracts::layouts::request;
use tempfile::TempDir;

/// Path, mode and content of every entry of a layer.
fn entries(image: &PackagedImage, layer: &Digest) -> BTreeMap<String, (u32, Vec<u8>)> {
    let blob = File::open(Layout::at(&image.layout_dir).blob_path(layer)).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(blob));
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        assert_eq!(entry.header().mtime().unwrap(), 0);
        assert_eq!((entry.header().uid().unwrap(), entry.header().gid().unwrap()), (0, 0));
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let path = entry.path().unwrap().display().to_string();
        (path, (entry.header().mode().unwrap(), content))
    });
    entries.collect()
}

fn config(image: &PackagedImage) -> serde_json::Value {
    let layout = Layout::at(&image.layout_dir);
    let manifest: Manifest = layout.document(&layout.image("model_v1").unwrap()).unwrap();
    layout.document(&manifest.config).unwrap()
}

#[test]
fn the_same_inputs_give_the_same_image_in_any_folder_and_at_any_time() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = package(&request(here.path(), 1, b"weights")).unwrap();
    let request_there = request(there.path(), 1, b"weights");
    // Neither times, nor modes, nor what else lies in the folder go into the image.
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    File::options().write(true).open(&request_there.service_binary).unwrap().set_modified(old).unwrap();
    std::fs::write(request_there.bundle_dir.join(".junk"), "junk").unwrap();
    let second = package(&request_there).unwrap();
    assert_eq!(first.manifest, second.manifest);
    assert_eq!((first.tag.as_str(), first.size_bytes), ("delay-ml:model_v1", second.size_bytes));
}

#[test]
fn packaging_again_replaces_the_layout_by_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let request = request(folder.path(), 1, b"weights");
    let first = package(&request).unwrap();
    std::fs::remove_file(request.layout_dir.join("index.json")).unwrap();
    assert_eq!(package(&request).unwrap(), first);
    assert!(request.layout_dir.join("index.json").exists());
}

#[test]
fn between_versions_only_the_model_layer_changes() {
    let folder = tempfile::tempdir().unwrap();
    let first = package(&request(folder.path(), 1, b"old weights")).unwrap();
    let second = package(&request(folder.path(), 2, b"new weights")).unwrap();
    assert_eq!(first.service_layer, second.service_layer);
    assert_ne!(first.model_layer, second.model_layer);
    assert_ne!(first.manifest, second.manifest);
}

#[test]
fn the_layers_hold_what_the_service_needs_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let request = request(folder.path(), 1, b"weights");
    let image = package(&request).unwrap();
    let service = entries(&image, &image.service_layer);
    let paths: Vec<(&str, u32)> = service.iter().map(|(path, (mode, _))| (path.as_str(), *mode)).collect();
    let expected =
        [("delayd-serve", 0o755), ("etc/", 0o755), ("etc/group", 0o644), ("etc/passwd", 0o644), ("tmp/", 0o1777)];
    assert_eq!(paths, expected);
    assert_eq!(service["delayd-serve"].1, std::fs::read(&request.service_binary).unwrap());
    assert!(String::from_utf8_lossy(&service["etc/passwd"].1).contains("nonroot:x:65532:65532:"));
    let model = entries(&image, &image.model_layer);
    let paths: Vec<&str> = model.keys().map(String::as_str).collect();
    assert_eq!(paths, ["bundle/", "bundle/features.json", "bundle/manifest.json", "bundle/weights.safetensors"]);
    assert_eq!(model["bundle/weights.safetensors"].1, b"weights");
}

#[test]
fn the_configuration_starts_the_service_with_its_bundle() {
    let folder = tempfile::tempdir().unwrap();
    let image = package(&request(folder.path(), 1, b"weights")).unwrap();
    let mut config = config(&image);
    // The digests follow from the test's bytes; the layer tests cover them.
    config["rootfs"]["diff_ids"] = serde_json::json!(["<service>", "<model>"]);
    insta::assert_json_snapshot!(config);
}

#[test]
fn the_diff_ids_are_the_digests_of_the_uncompressed_layers() {
    let folder = tempfile::tempdir().unwrap();
    let image = package(&request(folder.path(), 1, b"weights")).unwrap();
    let found: Vec<String> = [&image.service_layer, &image.model_layer]
        .map(|layer| {
            let blob = File::open(Layout::at(&image.layout_dir).blob_path(layer)).unwrap();
            let mut archive = Vec::new();
            flate2::read::GzDecoder::new(blob).read_to_end(&mut archive).unwrap();
            Digest::of(&archive).to_string()
        })
        .to_vec();
    assert_eq!(config(&image)["rootfs"]["diff_ids"], serde_json::json!(found));
}

#[test]
fn a_damaged_bundle_is_not_packaged_and_the_old_layout_stays() {
    let folder = tempfile::tempdir().unwrap();
    let request = request(folder.path(), 1, b"weights");
    let image = package(&request).unwrap();
    std::fs::write(request.bundle_dir.join("weights.safetensors"), "bit rot").unwrap();
    let error = package(&request).unwrap_err();
    assert!(matches!(&error, PackagingError::Damaged { path, .. } if path.ends_with("weights.safetensors")), "{error}");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(Layout::at(&image.layout_dir).has(&image.manifest).unwrap());
    assert!(!folder.path().join(".layout_v1.partial").exists());
}

#[test]
fn another_bundle_than_the_registered_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut request = request(folder.path(), 1, b"weights");
    request.bundle = Digest::of(b"another");
    assert!(matches!(package(&request).unwrap_err(), PackagingError::Damaged { .. }));
}

#[test]
fn a_dynamic_executable_is_refused_unless_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let mut request = request(folder.path(), 1, b"weights");
    request.service_binary = std::env::current_exe().unwrap();
    let error = package(&request).unwrap_err();
    assert!(error.to_string().contains("is dynamically linked"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    request.service_must_be_static = false;
    package(&request).unwrap();
}

fn skopeo(arguments: &[&str]) -> Option<serde_json::Value> {
    let Ok(output) = Command::new("skopeo").args(arguments).output() else {
        eprintln!("SKIPPED: skopeo is not installed, so its view of the image is not checked");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap_or_default())
}

fn oci_reference(layout: &Path, tag: &str) -> String {
    format!("oci:{}:{tag}", layout.display())
}

#[test]
fn skopeo_reads_the_image_and_copies_all_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let image = package(&request(folder.path(), 1, b"weights")).unwrap();
    let reference = oci_reference(&image.layout_dir, "model_v1");
    let Some(seen) = skopeo(&["inspect", &reference]) else { return };
    assert_eq!(seen["Digest"], image.manifest.as_str());
    assert_eq!(seen["Labels"]["dev.delayd.model.version"], "model_v1");
    assert_eq!(seen["Layers"], serde_json::json!([image.service_layer, image.model_layer]));
    assert_eq!((&seen["Architecture"], &seen["Os"]), (&"amd64".into(), &"linux".into()));
    // A copy reads, verifies and unpacks every blob.
    let copy = oci_reference(&folder.path().join("copy"), "model_v1");
    skopeo(&["--insecure-policy", "copy", &reference, &copy]);
    assert!(Layout::at(&folder.path().join("copy")).has(&image.manifest).unwrap());
}

// ----------------------------------------------------------------
// Repositories behind servers that are away, refuse, break off, or want a secret.

const TOKEN: &str = "tok3n-that-nobody-may-see";

/// A folder with a repository `service` in it.
struct Place {
    folder: TempDir,
    repository: ServiceRepository,
    commit: String,
}

impl Place {
    fn new() -> Self {
        let folder = ci::private_folder();
        // Many bytes that cannot be compressed away, so that a connection can be cut in the middle.
        let noise: String = (0..40_000_u32).map(|n| format!("# {}\n", n.wrapping_mul(2_654_435_761))).collect();
        let script = format!("{}exit\n{noise}", makes_a_binary("one"));
        let (repository, commit) = ServiceRepository::script(&folder.path().join("root/service"), &script);
        Self { folder, repository, commit }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    async fn build(&self, settings: &SourceSettings) -> Result<FinishedBuild, PortError> {
        assert_eq!(settings.faults(), Vec::<String>::new());
        let builder = SourceBuilder::new(settings, true, &self.state());
        tokio::task::spawn_blocking(move || builder.build(CycleId(1), &BuildControl::default(), &|_| ())).await.unwrap()
    }

    /// A build that fails so, and tells all these parts; answers the whole text.
    async fn fails(&self, settings: &SourceSettings, kind: ErrorKind, parts: &[&str]) -> String {
        let error = self.build(settings).await.unwrap_err();
        let text = chain(&error);
        assert_eq!(error.kind(), kind, "{text}");
        for part in parts {
            assert!(text.contains(part), "`{part}` is missing in: {text}");
        }
        text
    }
}

#[tokio::test]
async fn a_git_server_that_is_unavailable_or_breaks_off_is_an_outage_and_its_return_ends_it() {
    let place = Place::new();
    let server = ServerProcess::git_daemon(&place.root());
    let proxy = FlakyProxy::before(server.address).await;
    let settings = script_settings(&format!("git://{}/service", proxy.address()));
    for mood in [Mood::Down, Mood::CutAfter(0), Mood::CutAfter(500), Mood::CutAfter(60_000)] {
        proxy.set(mood);
        eprintln!("{mood:?}");
        place.fails(&settings, ErrorKind::Unavailable, &["fetching main of git://"]).await;
    }
    proxy.set(Mood::Slow(Duration::from_millis(300)));
    assert_eq!(place.build(&settings).await.unwrap().commit, place.commit);
    // The branch moves while the server is away: nothing old is taken for new.
    proxy.set(Mood::Down);
    place.repository.write("build.sh", &makes_a_binary("two"));
    let moved = place.repository.commit("second");
    place.fails(&settings, ErrorKind::Unavailable, &[]).await;
    // A commit that was fetched and built needs no server.
    let pinned = SourceSettings { revision: place.commit.clone(), ..settings.clone() };
    assert!(place.build(&pinned).await.unwrap().reused);
    proxy.set(Mood::Pass);
    assert_eq!(place.build(&settings).await.unwrap().commit, moved);
}

#[tokio::test]
async fn a_server_that_stopped_refuses_the_connection_and_that_is_an_outage_too() {
    let place = Place::new();
    let server = ServerProcess::git_daemon(&place.root());
    let settings = script_settings(&format!("git://{}/service", server.address));
    drop(server);
    place.fails(&settings, ErrorKind::Unavailable, &["refused"]).await;
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_at_the_deadline() {
    let place = Place::new();
    let server = ServerProcess::git_daemon(&place.root());
    let proxy = FlakyProxy::before(server.address).await;
    proxy.set(Mood::Slow(Duration::from_secs(600)));
    let settings =
        SourceSettings { fetch_timeout_secs: 2, ..script_settings(&format!("git://{}/service", proxy.address())) };
    place.fails(&settings, ErrorKind::Timeout, &["2 s"]).await;
}

#[tokio::test]
async fn a_web_servers_refusals_say_whether_to_try_again() {
    let place = Place::new();
    let proxy = FlakyProxy::before(ci::http(&place.root(), None)).await;
    let settings = script_settings(&format!("{}/service", proxy.url()));
    for (status, kind) in [
        (401, ErrorKind::Denied),
        (403, ErrorKind::Denied),
        (404, ErrorKind::NotFound),
        (429, ErrorKind::Unavailable),
        (500, ErrorKind::Unavailable),
        (503, ErrorKind::Unavailable),
    ] {
        proxy.set(Mood::Refuse(status));
        eprintln!("{status}");
        place.fails(&settings, kind, &[]).await;
    }
    proxy.set(Mood::CutAfter(10_000));
    place.fails(&settings, ErrorKind::Unavailable, &[]).await;
    proxy.set(Mood::Pass);
    assert_eq!(place.build(&settings).await.unwrap().commit, place.commit);
}

/// Whether `secret` is in any process' command line; counts the git processes it saw.
fn watch_command_lines(secret: &str, seen: &AtomicUsize, until: &AtomicBool) -> Vec<String> {
    let mut found = Vec::new();
    while !until.load(Ordering::SeqCst) {
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains("git-remote-https") || line.contains("git remote-https") {
                seen.fetch_add(1, Ordering::SeqCst);
            }
            if line.contains(secret) {
                found.push(line);
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    found
}

#[tokio::test]
async fn a_token_opens_an_https_repository_and_is_seen_nowhere() {
    let place = Place::new();
    let server = ci::http(&place.root(), Some(("robot", TOKEN)));
    let front = TlsFront::before(server).await;
    let settings = SourceSettings {
        username: "robot".to_owned(),
        token: Secret::new(TOKEN),
        ca_path: front.ca_path.clone(),
        // The script asks for whatever it might find.
        pass_environment: vec!["DELAYD_GIT_TOKEN".to_owned()],
        ..script_settings(&format!("https://localhost:{}/service", front.address.port()))
    };
    place.repository.write("build.sh", &format!("env\n{}", makes_a_binary("one")));
    let commit = place.repository.commit("shows its environment");
    let (seen, until) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let watcher = {
        let (seen, until) = (seen.clone(), until.clone());
        std::thread::spawn(move || watch_command_lines(TOKEN, &seen, &until))
    };
    let built = place.build(&settings).await;
    // Long enough for the watcher to have seen a git process, so that it can find something.
    while seen.load(Ordering::SeqCst) == 0 {
        std::fs::remove_dir_all(place.state()).unwrap();
        place.build(&settings).await.unwrap();
    }
    until.store(true, Ordering::SeqCst);
    assert_eq!(watcher.join().unwrap(), Vec::<String>::new());
    assert_eq!(built.unwrap().commit, commit);
    assert_eq!(files_with(&place.state(), TOKEN), Vec::<PathBuf>::new());
    assert!(!format!("{settings:?}").contains(TOKEN));
    assert!(!toml::to_string(&settings).unwrap().contains(TOKEN));

    // A wrong token, and none, are refusals; neither shows what was tried.
    for token in ["wr0ng-token-in-use", ""] {
        let wrong = SourceSettings { token: Secret::new(token), ..settings.clone() };
        let text = place.fails(&wrong, ErrorKind::Denied, &["token"]).await;
        assert!(!text.contains("wr0ng"), "{text}");
    }
    // A token that cannot be read is told by its place.
    let lost = SourceSettings { token: Secret::new("file:/nowhere/token"), ..settings.clone() };
    place.fails(&lost, ErrorKind::Denied, &["/nowhere/token"]).await;
    // A server that nobody vouches for gets no token at all.
    let untrusted = SourceSettings { ca_path: PathBuf::new(), ..settings };
    place.fails(&untrusted, ErrorKind::Unavailable, &["certificate", "packaging.source.ca_path"]).await;
    assert_eq!(files_with(&place.state(), TOKEN), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_key_opens_a_repository_by_ssh_and_an_unknown_host_is_not_trusted() {
    const TEST: &str = "a_key_opens_a_repository_by_ssh_and_an_unknown_host_is_not_trusted";
    if !Path::new("/usr/sbin/sshd").exists() {
        eprintln!("SKIPPED: {TEST}: sshd is not installed; `apt-get install openssh-server` brings it");
        return;
    }
    let place = Place::new();
    let keys = place.folder.path().join("it's ssh");
    std::fs::create_dir_all(&keys).unwrap();
    let server = ServerProcess::sshd(&keys);
    let user = std::process::Command::new("id").arg("-un").output().unwrap().stdout;
    let user = String::from_utf8(user).unwrap().trim().to_owned();
    let path = place.root().join("service").display().to_string();
    let settings = SourceSettings {
        ssh_key_path: server.key.clone(),
        ssh_known_hosts_path: server.known_hosts.clone(),
        ..script_settings(&format!("ssh://{user}@{}{path}", server.process.address))
    };
    assert_eq!(place.build(&settings).await.unwrap().commit, place.commit);

    let other_key = SourceSettings { ssh_key_path: server.other_key.clone(), ..settings.clone() };
    place.fails(&other_key, ErrorKind::Denied, &["packaging.source.ssh_key_path"]).await;

    let nobody = keys.join("no_known_hosts");
    std::fs::write(&nobody, "").unwrap();
    let unknown_host = SourceSettings { ssh_known_hosts_path: nobody, ..settings.clone() };
    place.fails(&unknown_host, ErrorKind::Denied, &["ssh_known_hosts_path"]).await;

    drop(server);
    place.fails(&settings, ErrorKind::Unavailable, &[]).await;
}
