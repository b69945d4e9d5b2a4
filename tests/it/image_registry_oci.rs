//! The OCI registry adapter against Debian's docker-registry: open, with password
//! and TLS, and with a token server; and skopeo pulling back what was pushed.

use std::path::Path;

use delayd_core::error::ErrorKind;
use delayd_core::ports::ImageRegistry;
use delayd_core::secret::Secret;
use delayd_outside::cloud::registry::{OciRegistry, OciRegistrySettings, UploadSettings};
use delayd_outside::wrap::Retrying;
use delayd_testkit::contracts::layouts as images;
use delayd_testkit::registry_servers::Containerd;
use delayd_testkit::registry_servers::http::Manners;
use delayd_testkit::registry_servers::skopeo::Entry;
use delayd_testkit::registry_servers::{
    Access, DockerRegistry, KeepingRegistry, Phase, PhaseProxy, TokenServer, Trouble, layouts, skopeo,
};
use delayd_testkit::registry_servers::{PASSWORD, USER};
use delayd_testkit::tools::assert_error;
use delayd_testkit::{contracts, registry_servers};

fn at(host: &str) -> OciRegistrySettings {
    OciRegistrySettings { host: host.to_owned(), plain_http: true, ..OciRegistrySettings::default() }
}

fn with_password(settings: OciRegistrySettings, password: &str) -> OciRegistrySettings {
    OciRegistrySettings { username: USER.to_owned(), password: Secret::new(password), ..settings }
}

fn over_tls(registry: &DockerRegistry) -> OciRegistrySettings {
    let mut settings = OciRegistrySettings { plain_http: false, ..at(&registry.host()) };
    settings.http.ca_path.clone_from(&registry.ca_path);
    settings
}

fn open(settings: &OciRegistrySettings) -> OciRegistry {
    assert_eq!(settings.faults("registry.oci"), [], "the settings of a test can be used");
    OciRegistry::open(settings).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_registry_keeps_the_contract() {
    delayd_testkit::needs_registry!("an_open_registry_keeps_the_contract");
    let server = DockerRegistry::open();
    contracts::image_registry::keeps_the_whole_contract(&open(&at(&server.host()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_password_and_tls_keeps_the_contract() {
    delayd_testkit::needs_registry!("a_registry_with_password_and_tls_keeps_the_contract");
    let server = DockerRegistry::start(&Access::PasswordAndTls, true);
    let settings = with_password(over_tls(&server), PASSWORD);
    let registry = Retrying::new(open(&settings), settings.upload.retry_policy());
    contracts::image_registry::keeps_the_whole_contract(&registry).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_a_token_server_keeps_the_contract() {
    delayd_testkit::needs_registry!("a_registry_with_a_token_server_keeps_the_contract");
    let tokens = TokenServer::start().await;
    let server = DockerRegistry::start(&Access::Token(&tokens), true);
    let registry = open(&with_password(at(&server.host()), PASSWORD));
    contracts::image_registry::keeps_the_whole_contract(&registry).await;
    // One token for reading, one for pushing and one for removing tags.
    assert_eq!(tokens.calls(), 3, "{:?}", tokens.asked.lock().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_deletes_tags_by_itself_keeps_the_contract() {
    let server = KeepingRegistry::start(Manners::default()).await;
    let registry = open(&at(&server.address.to_string()));
    contracts::image_registry::keeps_the_whole_contract(&registry).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_pulls_back_byte_for_byte_what_was_pushed() {
    delayd_testkit::needs_registry!("skopeo_pulls_back_byte_for_byte_what_was_pushed");
    let (open_server, closed_server) = (DockerRegistry::open(), DockerRegistry::start(&Access::PasswordAndTls, true));
    let folder = tempfile::tempdir().unwrap();
    let (image, layout) = images::image(folder.path(), 1);
    let closed = with_password(over_tls(&closed_server), PASSWORD);
    for (settings, entry, name) in [
        (at(&open_server.host()), Entry::Open, "open"),
        (closed, Entry::Login(closed_server.ca_path.clone()), "closed"),
    ] {
        let settings = OciRegistrySettings {
            repository_prefix: "team/models".to_owned(),
            upload: UploadSettings { chunk_bytes: 64 * 1024, ..UploadSettings::default() },
            ..settings
        };
        let pushed = open(&settings).push(&layout, "delay-ml", "model_v1").await.unwrap();
        assert_eq!(pushed.reference, format!("{}/team/models/delay-ml@{}", settings.host, image.manifest));
        let pulled = folder.path().join(name);
        skopeo::pull(&pushed.reference, &entry, &pulled);
        assert!(layouts::blobs(&pulled) == layouts::blobs(&layout), "{name}: the blobs differ");
        let by_tag = skopeo::inspect(&format!("{}/team/models/delay-ml:model_v1", settings.host), &entry);
        assert_eq!(by_tag["layers"][1]["digest"], image.model_layer.as_str());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_pulls_by_the_reference_that_a_push_answers() {
    delayd_testkit::needs_registry!("containerd_pulls_by_the_reference_that_a_push_answers");
    let Some(containerd) = Containerd::start("containerd_pulls_by_the_reference_that_a_push_answers") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (_, layout) = images::image(folder.path(), 1);
    let server = DockerRegistry::open();
    let pushed = open(&at(&server.host())).push(&layout, "delay-ml", "model_v1").await.unwrap();
    containerd.fetch(&pushed.reference, &["--plain-http"]);
    let closed = DockerRegistry::start(&Access::Password, true);
    let settings = with_password(at(&closed.host()), PASSWORD);
    let pushed = open(&settings).push(&layout, "delay-ml", "model_v1").await.unwrap();
    containerd.fetch(&pushed.reference, &["--plain-http", "--user", &format!("{USER}:{PASSWORD}")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_may_know_the_registry_by_another_name() {
    delayd_testkit::needs_registry!("nodes_may_know_the_registry_by_another_name");
    let server = DockerRegistry::open();
    let folder = tempfile::tempdir().unwrap();
    let (image, layout) = images::image(folder.path(), 1);
    let settings = OciRegistrySettings { pull_host: "registry.local:5000".to_owned(), ..at(&server.host()) };
    let pushed = open(&settings).push(&layout, "delay-ml", "model_v1").await.unwrap();
    assert_eq!(pushed.reference, format!("registry.local:5000/delay-ml@{}", image.manifest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_push_sends_no_blob_and_the_next_version_only_its_model() {
    delayd_testkit::needs_registry!("a_second_push_sends_no_blob_and_the_next_version_only_its_model");
    let server = DockerRegistry::open();
    let proxy = PhaseProxy::before(server.address).await;
    let registry = open(&at(&proxy.host()));
    let folder = tempfile::tempdir().unwrap();
    let ((_, first), (second, second_layout)) = (images::image(folder.path(), 1), images::image(folder.path(), 2));
    registry.push(&first, "delay-ml", "model_v1").await.unwrap();
    assert!(proxy.take_blob_bytes() > 100_000);

    let again = registry.push(&first, "delay-ml", "model_v1").await.unwrap();
    let seen = proxy.take_seen();
    assert_eq!((again.layers_pushed, again.layers_reused), (0, 2));
    assert!(seen.iter().all(|seen| matches!(seen.phase, Phase::BlobCheck | Phase::TagCheck)), "{seen:?}");

    let next = registry.push(&second_layout, "delay-ml", "model_v2").await.unwrap();
    assert_eq!((next.layers_pushed, next.layers_reused), (1, 1));
    let blobs = layouts::blobs(&second_layout);
    let manifest: serde_json::Value = serde_json::from_slice(&blobs[second.manifest.hex()]).unwrap();
    let config = manifest["config"]["size"].as_u64().unwrap() as usize;
    assert_eq!(proxy.take_blob_bytes(), blobs[second.model_layer.hex()].len() + config);
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_mounted_from_another_repository() {
    delayd_testkit::needs_registry!("layers_are_mounted_from_another_repository");
    let server = DockerRegistry::open();
    let proxy = PhaseProxy::before(server.address).await;
    let folder = tempfile::tempdir().unwrap();
    let (image, layout) = images::image(folder.path(), 1);
    open(&at(&proxy.host())).push(&layout, "base", "model_v1").await.unwrap();
    proxy.take_seen();
    let upload = UploadSettings { mount_from: "base".to_owned(), ..UploadSettings::default() };
    let registry = open(&OciRegistrySettings { upload, ..at(&proxy.host()) });
    let pushed = registry.push(&layout, "delay-ml", "model_v1").await.unwrap();
    assert_eq!((pushed.layers_pushed, pushed.layers_reused), (0, 2));
    assert_eq!(proxy.take_blob_bytes(), 0);
    // What the other repository lacks is uploaded in the same step.
    let (_, second) = images::image(folder.path(), 2);
    let pushed = registry.push(&second, "delay-ml", "model_v2").await.unwrap();
    assert_eq!((pushed.layers_pushed, pushed.layers_reused), (1, 1));
    // What may not be mounted is uploaded all the same.
    proxy.plan(Phase::UploadStart, Trouble::Refuse(403), 1);
    let pushed = registry.push(&layout, "elsewhere", "model_v1").await.unwrap();
    assert_eq!((pushed.layers_pushed, pushed.layers_reused), (1, 1));
    assert_eq!(registry.resolve("elsewhere", "model_v1").await.unwrap(), Some(image.manifest));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_pushes_keep_all_tags() {
    delayd_testkit::needs_registry!("concurrent_pushes_keep_all_tags");
    let server = DockerRegistry::open();
    let registry = open(&at(&server.host()));
    let folder = tempfile::tempdir().unwrap();
    let layouts: Vec<_> = (1..=6).map(|version| images::image(folder.path(), version)).collect();
    let tags: Vec<String> = (1..=6).map(|version| format!("model_v{version}")).collect();
    let pushes = layouts.iter().zip(&tags).map(|((_, layout), tag)| registry.push(layout, "delay-ml", tag));
    for outcome in futures::future::join_all(pushes).await {
        outcome.unwrap();
    }
    for ((image, _), tag) in layouts.iter().zip(&tags) {
        assert_eq!(registry.resolve("delay-ml", tag).await.unwrap().as_ref(), Some(&image.manifest));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_was_damaged_in_the_registry_does_not_pass_for_one() {
    delayd_testkit::needs_registry!("an_image_that_was_damaged_in_the_registry_does_not_pass_for_one");
    let server = DockerRegistry::open();
    let registry = open(&at(&server.host()));
    let folder = tempfile::tempdir().unwrap();
    let (image, layout) = images::image(folder.path(), 1);
    registry.push(&layout, "delay-ml", "model_v1").await.unwrap();
    let blob = server.blob_path(&image.manifest);
    let text = std::fs::read_to_string(&blob).unwrap();
    std::fs::write(&blob, text.replacen("model_v1", "model_v9", 1)).unwrap();
    let error = registry.resolve("delay-ml", "model_v1").await.unwrap_err();
    assert_error(&error, ErrorKind::Corrupt, &[image.manifest.as_str()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_stays_where_the_registry_deletes_nothing_and_the_error_says_what_to_do() {
    delayd_testkit::needs_registry!("a_tag_stays_where_the_registry_deletes_nothing_and_the_error_says_what_to_do");
    let server = DockerRegistry::start(&Access::Everybody, false);
    let registry = open(&at(&server.host()));
    let folder = tempfile::tempdir().unwrap();
    let (image, layout) = images::image(folder.path(), 1);
    registry.push(&layout, "delay-ml", "model_v1").await.unwrap();
    let error = registry.remove_tag("delay-ml", "model_v1").await.unwrap_err();
    assert_error(&error, ErrorKind::Denied, &["storage.delete.enabled"]);
    assert_eq!(registry.resolve("delay-ml", "model_v1").await.unwrap(), Some(image.manifest));
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_a_tag_leaves_the_image_for_pods_that_pull_it_by_digest() {
    delayd_testkit::needs_registry!("removing_a_tag_leaves_the_image_for_pods_that_pull_it_by_digest");
    let server = DockerRegistry::open();
    let registry = open(&at(&server.host()));
    let folder = tempfile::tempdir().unwrap();
    let (_, layout) = images::image(folder.path(), 1);
    let pushed = registry.push(&layout, "delay-ml", "model_v1").await.unwrap();
    registry.remove_tag("delay-ml", "model_v1").await.unwrap();
    assert_eq!(registry.resolve("delay-ml", "model_v1").await.unwrap(), None);
    skopeo::pull(&pushed.reference, &Entry::Open, &folder.path().join("pulled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_are_as_large_as_the_registry_asks() {
    let server = KeepingRegistry::start(Manners { min_chunk_bytes: 200_000, ..Manners::default() }).await;
    let proxy = PhaseProxy::before(server.address).await;
    let upload = UploadSettings { chunk_bytes: 64 * 1024, ..UploadSettings::default() };
    let registry = open(&OciRegistrySettings { upload, ..at(&proxy.host()) });
    let folder = tempfile::tempdir().unwrap();
    let (digest, layout) = layouts::of_size(folder.path(), "model_v1", 1_000_001);
    registry.push(&layout, "delay-ml", "model_v1").await.unwrap();
    let pieces: Vec<usize> =
        proxy.take_seen().iter().filter(|seen| seen.phase == Phase::Piece).map(|seen| seen.body_bytes).collect();
    assert_eq!(pieces, [200_000, 200_000, 200_000, 200_000, 200_000, 1]);
    // The digest came without a header, from the manifest itself.
    assert_eq!(registry.resolve("delay-ml", "model_v1").await.unwrap(), Some(digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_elsewhere_get_the_blob_but_not_the_login() {
    delayd_testkit::needs_registry!("uploads_elsewhere_get_the_blob_but_not_the_login");
    // The registry proper wants a password; it sends uploads to a store that must not see it.
    let elsewhere = KeepingRegistry::start(Manners::default()).await;
    let store = PhaseProxy::before(elsewhere.address).await;
    let front = KeepingRegistry::start(Manners { upload_host: Some(store.address), ..Manners::default() }).await;
    let proxy = PhaseProxy::before(front.address).await;
    proxy.plan(Phase::TagCheck, Trouble::Challenge, 1);
    elsewhere.state.lock().unwrap().uploads.extend((1..9).map(|id| (format!("upload-{id}"), Vec::new())));
    let registry = open(&with_password(at(&proxy.host()), PASSWORD));
    let folder = tempfile::tempdir().unwrap();
    let (_, layout) = images::image(folder.path(), 1);
    registry.push(&layout, "delay-ml", "model_v1").await.unwrap();
    let (at_home, away) = (proxy.take_seen(), store.take_seen());
    assert!(at_home.iter().skip(1).all(|seen| seen.authorization.is_some()), "{at_home:?}");
    assert!(!away.is_empty() && away.iter().all(|seen| seen.authorization.is_none()), "{away:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_may_come_from_dockers_configuration() {
    delayd_testkit::needs_registry!("a_login_may_come_from_dockers_configuration");
    use base64::Engine as _;
    let server = DockerRegistry::start(&Access::PasswordAndTls, true);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let write = |login: &str| {
        let auth = base64::engine::general_purpose::STANDARD.encode(login);
        let text = serde_json::json!({"auths": {server.host(): {"auth": auth}}}).to_string();
        std::fs::write(&path, text).unwrap();
    };
    let settings = OciRegistrySettings { docker_config: path.clone(), ..over_tls(&server) };
    let registry = open(&settings);
    write(&format!("{USER}:wrong"));
    assert_eq!(registry.probe().await.unwrap_err().kind(), ErrorKind::Denied);
    // `docker login` again, while the daemon runs.
    write(&format!("{USER}:{PASSWORD}"));
    assert_eq!(registry.probe().await.unwrap(), format!("OCI registry at {}, login robot", server.host()));
    std::fs::remove_file(&path).unwrap();
    let error = registry.probe().await.unwrap_err().to_string();
    assert!(error.contains(&path.display().to_string()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_reports_whether_the_registry_is_there_and_lets_us_in() {
    delayd_testkit::needs_registry!("a_probe_reports_whether_the_registry_is_there_and_lets_us_in");
    let open_server = DockerRegistry::open();
    let told = open(&at(&open_server.host())).probe().await.unwrap();
    assert_eq!(told, format!("OCI registry at {}, no login", open_server.host()));

    let tokens = TokenServer::start().await;
    let closed = DockerRegistry::start(&Access::Token(&tokens), true);
    open(&with_password(at(&closed.host()), PASSWORD)).probe().await.unwrap();
    for settings in [at(&closed.host()), with_password(at(&closed.host()), "wrong")] {
        let error = open(&settings).probe().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    }
    let no_registry = registry_servers::http::serve(|_| async { registry_servers::http::Reply::new(404) }).await;
    let error = open(&at(&no_registry.to_string())).probe().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("there is no registry"), "{error}");
}

/// Push times beside skopeo's, for `docs/outside/registry.md`:
/// `cargo nextest run --release --test it --run-ignored only image_registry_oci --no-capture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn push_times_beside_skopeos() {
    delayd_testkit::needs_registry!("push_times_beside_skopeos");
    let folder = tempfile::tempdir().unwrap();
    let service = service_image(folder.path());
    let (_, large) = layouts::of_size(folder.path(), "large", 100_000_000);
    for (name, layout, tag) in [("service image", service, "model_v1"), ("layer of 100 MB", large, "large")] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..7 {
            let server = DockerRegistry::open();
            let registry = open(&at(&server.host()));
            let began = std::time::Instant::now();
            registry.push(&layout, "delay-ml", tag).await.unwrap();
            ours.push(began.elapsed().as_secs_f64());
            let server = DockerRegistry::open();
            let began = std::time::Instant::now();
            skopeo::push(&layout, tag, &format!("{}/delay-ml:{tag}", server.host()), &Entry::Open);
            theirs.push(began.elapsed().as_secs_f64());
        }
        ours.sort_by(f64::total_cmp);
        theirs.sort_by(f64::total_cmp);
        let (a, b) = (ours[3], theirs[3]);
        eprintln!("{name}: delayd {a:.3} s, skopeo {b:.3} s, ratio {:.2} (medians of 7)", a / b);
    }
}

/// The image of the real service, where `DELAYD_SERVE_BIN` names its binary.
fn service_image(folder: &Path) -> std::path::PathBuf {
    let mut request = images::request(folder, 1, &vec![7; 300_000]);
    if let Some(binary) = std::env::var_os("DELAYD_SERVE_BIN") {
        request.service_binary = binary.into();
        request.service_must_be_static = false;
    }
    let image = delayd_outside::packaging::package(&request).unwrap();
    eprintln!("service image: {} bytes of layers", image.size_bytes);
    image.layout_dir
}
