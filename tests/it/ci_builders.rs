//! Both image builders against the contract of their port; the Docker Engine is a
//! real one that the test starts. What it exports is read, and images of both run.

use std::path::{Path, PathBuf};
use std::process::Command;

use delayd_core::error::ErrorKind;
use delayd_core::ids::Digest;
use delayd_core::ports::ImageRegistry;
use delayd_outside::cloud::{DockerEngine, DockerEngineSettings};
use delayd_outside::local::{OciBuilder, OciLayoutRegistry};
use delayd_outside::packaging::oci::{Layout, Manifest};
use delayd_outside::packaging::{ImageBuilder, PackageRequest, PackagedImage, PackagingError, docker, package};
use delayd_testkit::ci::Dockerd;
use delayd_testkit::ci::{has, wait_for};
use delayd_testkit::contracts::layouts;
use delayd_testkit::tools::assert_error;
use delayd_testkit::{ci, contracts};
use nix::sys::signal::{Signal, kill};

fn engine(dockerd: &Dockerd) -> DockerEngine {
    DockerEngine::new(&DockerEngineSettings { host: dockerd.host(), timeout_secs: 120 })
}

#[tokio::test]
async fn the_built_in_builder_keeps_the_contract() {
    contracts::image_builder::keeps_the_whole_contract(&OciBuilder).await;
    assert_eq!(OciBuilder.probe().await.unwrap(), "built in");
}

#[tokio::test]
async fn the_docker_engine_keeps_the_contract() {
    let Some(dockerd) = Dockerd::start("the_docker_engine_keeps_the_contract") else { return };
    let engine = engine(&dockerd);
    let told = engine.probe().await.unwrap();
    assert!(told.starts_with("Docker Engine ") && told.contains(&dockerd.host()), "{told}");
    contracts::image_builder::keeps_the_whole_contract(&engine).await;
    // The undo took the one tag away and left the other alone.
    assert_eq!(dockerd.must(&["images", "--format", "{{.Repository}}:{{.Tag}}"]), "delay-ml:model_v2");
}

#[tokio::test]
async fn what_the_engine_built_is_pushed_like_any_other_image_under_its_own_id() {
    let Some(dockerd) = Dockerd::start("what_the_engine_built_is_pushed_like_any_other_image") else { return };
    let folder = tempfile::tempdir().unwrap();
    let image = engine(&dockerd).build(&layouts::request(folder.path(), 1, b"weights")).await.unwrap();
    let registry = OciLayoutRegistry::open(&folder.path().join("registry")).unwrap();
    let pushed = registry.push(&image.layout_dir, "delay-ml", "model_v1").await.unwrap();
    assert_eq!((pushed.digest, pushed.layers_pushed), (image.manifest.clone(), 2));
    // The configuration went through unchanged: its digest is the engine's image id.
    let layout = Layout::at(&image.layout_dir);
    let manifest: Manifest = layout.document(&layout.image("model_v1").unwrap()).unwrap();
    let id = dockerd.must(&["image", "inspect", "--format", "{{.Id}}", "delay-ml:model_v1"]);
    assert_eq!(manifest.config.digest.as_str(), id);
}

#[tokio::test]
async fn an_engine_that_stops_is_an_outage_and_one_that_hangs_is_given_up() {
    let Some(dockerd) = Dockerd::start("an_engine_that_stops_is_an_outage") else { return };
    let folder = tempfile::tempdir().unwrap();
    let request = layouts::request(folder.path(), 1, b"weights");
    // It hangs: it is there and says nothing.
    let quick = DockerEngine::new(&DockerEngineSettings { host: dockerd.host(), timeout_secs: 1 });
    kill(dockerd.pid(), Signal::SIGSTOP).unwrap();
    let error = quick.build(&request).await.unwrap_err();
    assert_error(&error, ErrorKind::Timeout, &["packaging.docker.timeout_secs"]);
    kill(dockerd.pid(), Signal::SIGCONT).unwrap();
    let engine = engine(&dockerd);
    engine.build(&request).await.unwrap();
    // It is gone: the next build waits for it and says for what.
    kill(dockerd.pid(), Signal::SIGTERM).unwrap();
    let socket = dockerd.socket();
    wait_for("the engine is gone", || std::os::unix::net::UnixStream::connect(&socket).is_err().then_some(()));
    let error = engine.build(&request).await.unwrap_err();
    assert_error(&error, ErrorKind::Unavailable, &[&dockerd.host(), "running?"]);
}

#[tokio::test]
async fn what_the_engine_says_of_a_failed_build_is_reported() {
    let Some(dockerd) = Dockerd::start("what_the_engine_says_of_a_failed_build_is_reported") else { return };
    let folder = tempfile::tempdir().unwrap();
    let request = layouts::request(folder.path(), 1, b"weights");
    // An engine whose data folder takes nothing more: a file stands where a folder must be made.
    let temporary = dockerd.socket().with_file_name("data").join("tmp");
    std::fs::remove_dir_all(&temporary).unwrap();
    std::fs::write(&temporary, "").unwrap();
    let error = engine(&dockerd).build(&request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(
        error.to_string().contains("building delay-ml:model_v1 by Docker") && error.to_string().contains("tmp"),
        "{error}"
    );
    assert!(!request.layout_dir.exists());
}

#[tokio::test]
async fn refused_permission_to_the_socket_says_how_to_get_it() {
    // A socket of somebody else: as root every socket may be used, so root cannot see this.
    if ci::is_root() {
        eprintln!(
            "SKIPPED: refused_permission_to_the_socket_says_how_to_get_it: root is refused nothing; run it as a user"
        );
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("x.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o000)).unwrap();
    let host = format!("unix://{}", socket.display());
    let error = DockerEngine::new(&DockerEngineSettings { host, timeout_secs: 5 }).probe().await.unwrap_err();
    assert_error(&error, ErrorKind::Denied, &["`docker`"]);
}

// ---------------------------------------------------------------- what engines export

/// One member of an exported archive.
enum Member<'a> {
    File(&'a str, Vec<u8>),
    Link(&'a str, &'a str),
}

fn write_archive(path: &Path, members: &[Member]) {
    let mut builder = tar::Builder::new(std::fs::File::create(path).unwrap());
    for member in members {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        match member {
            Member::File(name, content) => {
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, name, content.as_slice()).unwrap();
            }
            Member::Link(name, target) => {
                header.set_size(0);
                header.set_entry_type(tar::EntryType::Symlink);
                builder.append_link(&mut header, name, target).unwrap();
            }
        }
    }
    builder.finish().unwrap();
}

/// A built image's blobs: configuration, and both layers as they are.
fn blobs(image: &PackagedImage) -> (Vec<u8>, [Vec<u8>; 2]) {
    let layout = Layout::at(&image.layout_dir);
    let manifest: Manifest = layout.document(&layout.image("model_v1").unwrap()).unwrap();
    let read = |digest: &Digest| std::fs::read(layout.blob_path(digest)).unwrap();
    (read(&manifest.config.digest), [read(&image.service_layer), read(&image.model_layer)])
}

fn unpacked(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    std::io::copy(&mut flate2::read::GzDecoder::new(bytes), &mut plain).unwrap();
    plain
}

fn saved(config: &str, layers: [&str; 2]) -> Vec<u8> {
    let saved = serde_json::json!([{"Config": config, "RepoTags": ["delay-ml:model_v1"], "Layers": layers}]);
    serde_json::to_vec(&saved).unwrap()
}

#[test]
fn exports_of_old_and_new_engines_become_the_same_image() {
    let folder = tempfile::tempdir().unwrap();
    let request = layouts::request(folder.path(), 1, b"weights");
    let image = package(&request).unwrap();
    let (config, [service, model]) = blobs(&image);
    let archive = folder.path().join("exported.tar");
    // Up to Engine 24: uncompressed layers in folders, one of them by way of a link.
    let old = [
        Member::File("0123.json", config.clone()),
        Member::Link("aa/layer.tar", "../cc/layer.tar"),
        Member::File("bb/layer.tar", unpacked(&model)),
        Member::File("cc/layer.tar", unpacked(&service)),
        Member::File("manifest.json", saved("0123.json", ["aa/layer.tar", "bb/layer.tar"])),
    ];
    // From Engine 25 on: an OCI layout, here with the compressed layers of the containerd store.
    let new = [
        Member::File("blobs/sha256/cf", config),
        Member::File("blobs/sha256/aa", service),
        Member::File("blobs/sha256/bb", model),
        Member::File("index.json", b"{}".to_vec()),
        Member::File("manifest.json", saved("blobs/sha256/cf", ["blobs/sha256/aa", "blobs/sha256/bb"])),
    ];
    for members in [&old[..], &new[..]] {
        write_archive(&archive, members);
        let again = PackageRequest { layout_dir: folder.path().join("converted"), ..request.clone() };
        let converted = docker::read_archive(&archive, &again).unwrap();
        let (config, layers) = blobs(&converted);
        assert_eq!(config, blobs(&image).0);
        assert_eq!(layers.map(|layer| unpacked(&layer)), blobs(&image).1.map(|layer| unpacked(&layer)));
    }
}

#[test]
fn an_export_that_is_not_the_image_is_refused_and_the_old_layout_stays() {
    let folder = tempfile::tempdir().unwrap();
    let request = layouts::request(folder.path(), 1, b"weights");
    let image = package(&request).unwrap();
    let (config, [service, model]) = blobs(&image);
    let archive = folder.path().join("exported.tar");
    let whole = |service: Vec<u8>, layers: [&str; 2]| {
        vec![
            Member::File("c.json", config.clone()),
            Member::File("aa", service),
            Member::File("bb", unpacked(&model)),
            Member::File("manifest.json", saved("c.json", layers)),
        ]
    };
    let zstd = [&[0x28, 0xb5, 0x2f, 0xfd][..], b"whatever"].concat();
    for (members, expected) in [
        (whole(b"another layer".to_vec(), ["aa", "bb"]), "is damaged"),
        (whole(unpacked(&service), ["aa", "zz"]), "has no `zz`"),
        (whole(zstd, ["aa", "bb"]), "zstd"),
        (vec![Member::File("manifest.json", b"[]".to_vec())], "one image was exported"),
        (Vec::new(), "has no `manifest.json`"),
    ] {
        write_archive(&archive, &members);
        let error = docker::read_archive(&archive, &request).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains(expected), "{expected}: {error}");
        assert!(Layout::at(&request.layout_dir).has(&image.manifest).unwrap());
    }
    // Cut off in the middle.
    write_archive(&archive, &whole(unpacked(&service), ["aa", "bb"]));
    let half = std::fs::read(&archive).unwrap();
    std::fs::write(&archive, &half[..half.len() / 2]).unwrap();
    let error = docker::read_archive(&archive, &request).unwrap_err();
    assert!(matches!(error, PackagingError::Io { .. } | PackagingError::Archive { .. }), "{error}");
}

// ---------------------------------------------------------------- images that run

/// A real service and a real bundle; `None` after saying what is missing.
fn runnable(test: &str, folder: &Path) -> Option<PackageRequest> {
    let beside = Path::new(env!("CARGO_BIN_EXE_delayd")).parent().unwrap();
    let named = std::env::var_os("DELAYD_SERVE_BIN").map(PathBuf::from);
    let service = named.unwrap_or_else(|| beside.join("service/delayd-serve"));
    if !service.is_file() {
        eprintln!("SKIPPED: {test}: no service binary at {}; `make build` builds it", service.display());
        return None;
    }
    let bundle_dir = folder.join("bundle");
    delayd_model::testing::tiny_bundle(1).write_to(&bundle_dir).unwrap();
    Some(PackageRequest {
        bundle: Digest::of(&std::fs::read(bundle_dir.join("manifest.json")).unwrap()),
        bundle_dir,
        service_binary: service,
        ..layouts::request(folder, 1, b"unused")
    })
}

/// Asks the service that a container runs, inside the container's own network: it
/// has no other.
fn ask(pid: &str, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    let connect = "exec 3<>/dev/tcp/127.0.0.1/8080 && printf %s \"$REQUEST\" >&3 && cat <&3";
    let mut command = Command::new("nsenter");
    command.args(["--target", pid, "--net", "bash", "-c", connect]).env("REQUEST", request);
    let answer = command.output().unwrap();
    let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Runs `delay-ml:model_v1` as the engine has it, and as its configuration says.
fn runs(dockerd: &Dockerd) {
    let container = dockerd.must(&["run", "--detach", "--network", "none", "--read-only", "delay-ml:model_v1"]);
    let pid = dockerd.must(&["inspect", "--format", "{{.State.Pid}}", &container]);
    let log = || String::from_utf8_lossy(&dockerd.docker(&["logs", &container]).stderr).into_owned();
    let ready = wait_for("the container is ready", || {
        assert!(ci::is_alive(&pid), "the container ended: {}", log());
        ask(&pid, "GET", "/health/ready", "").filter(|(status, _)| *status == 200)
    });
    assert!(ready.1.contains("model_v1"), "{ready:?}");
    let flight = serde_json::json!({ "flights": [{
        "carrier": "B6", "flight_number": 15, "origin": "JFK", "dest": "LAX",
        "scheduled_departure": "2013-03-04T15:15:00Z", "scheduled_arrival": "2013-03-04T21:15:00Z",
        "distance_miles": 2475.0, "context": {},
    }] });
    let (status, answer) = ask(&pid, "POST", "/predict", &flight.to_string()).unwrap();
    assert_eq!(status, 200, "{answer}");
    assert!(answer.contains("score") && answer.contains("model_v1"), "{answer}");
    let user = dockerd.must(&["inspect", "--format", "{{.Config.User}}", &container]);
    assert_eq!(user, "65532");
    dockerd.must(&["rm", "--force", &container]);
}

#[tokio::test]
async fn the_image_that_the_engine_built_answers_when_it_is_run() {
    const TEST: &str = "the_image_that_the_engine_built_answers_when_it_is_run";
    let folder = tempfile::tempdir().unwrap();
    let Some(request) = runnable(TEST, folder.path()) else { return };
    let Some(dockerd) = Dockerd::start(TEST) else { return };
    engine(&dockerd).build(&request).await.unwrap();
    runs(&dockerd);
}

#[tokio::test]
async fn the_image_that_delayd_built_answers_when_docker_runs_it() {
    const TEST: &str = "the_image_that_delayd_built_answers_when_docker_runs_it";
    let folder = tempfile::tempdir().unwrap();
    let Some(request) = runnable(TEST, folder.path()) else { return };
    if !has(TEST, "skopeo", "skopeo") {
        return;
    }
    let Some(dockerd) = Dockerd::start(TEST) else { return };
    let image = OciBuilder.build(&request).await.unwrap();
    // Engines before 25 load no OCI layout: skopeo writes what they load.
    let (layout, archive) = (image.layout_dir.display().to_string(), folder.path().join("image.tar"));
    let to = format!("docker-archive:{}:delay-ml:model_v1", archive.display());
    let mut skopeo = Command::new("skopeo");
    let copied = skopeo.args(["--insecure-policy", "copy", &format!("oci:{layout}:model_v1"), &to]).output().unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    dockerd.must(&["load", "--input", archive.to_str().unwrap()]);
    runs(&dockerd);
}
