//! The OCI registry adapter while the registry is down, slow, refusing, forgetful,
//! interrupted or an impostor; and that the next push succeeds.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use delayd_core::error::{ErrorKind, chain};
use delayd_core::http_client::HttpClientSettings;
use delayd_core::ids::Digest;
use delayd_core::ports::{ImageRegistry, PushedImage};
use delayd_core::secret::Secret;
use delayd_outside::cloud::registry::{OciRegistry, OciRegistrySettings, UploadSettings};
use delayd_outside::wrap::Retrying;
use delayd_testkit::contracts::flaky_proxy::{FlakyProxy, Mood, TlsFront};
use delayd_testkit::contracts::layouts as images;
use delayd_testkit::registry_servers::http::Manners;
use delayd_testkit::registry_servers::skopeo::Entry;
use delayd_testkit::registry_servers::{
    Access, DockerRegistry, KeepingRegistry, Log, Phase, PhaseProxy, TokenServer, Trouble, layouts, skopeo,
};
use delayd_testkit::registry_servers::{PASSWORD, USER};
use futures::StreamExt as _;

const REPOSITORY: &str = "delay-ml";
const TAG: &str = "model_v1";
const SMALL_CHUNK: u64 = 64 * 1024;
/// A layer of 20 MB, and the standing at 60 % of it.
const LAYER_BYTES: usize = 20_000_000;
const CUT_AT: usize = 12_000_000;

fn at(host: &str) -> OciRegistrySettings {
    OciRegistrySettings {
        host: host.to_owned(),
        plain_http: true,
        upload: UploadSettings { chunk_bytes: SMALL_CHUNK, retry_secs: 0.02, ..UploadSettings::default() },
        http: HttpClientSettings { connect_timeout_secs: 2, read_timeout_secs: 20, ..HttpClientSettings::default() },
        ..OciRegistrySettings::default()
    }
}

/// The same for registries that are slow on purpose.
fn hasty(host: &str) -> OciRegistrySettings {
    let mut settings = at(host);
    settings.http.read_timeout_secs = 1;
    settings
}

/// The settings in force, for large layers.
fn in_large_pieces(host: &str) -> OciRegistrySettings {
    let defaults = OciRegistrySettings::default();
    OciRegistrySettings {
        upload: UploadSettings { retry_secs: 0.02, ..defaults.upload },
        http: defaults.http,
        ..at(host)
    }
}

fn open(settings: &OciRegistrySettings) -> OciRegistry {
    OciRegistry::open(settings).unwrap()
}

fn retrying(settings: &OciRegistrySettings) -> Retrying<OciRegistry> {
    Retrying::new(open(settings), settings.upload.retry_policy())
}

async fn pushed(registry: &dyn ImageRegistry, layout: &Path) -> PushedImage {
    registry.push(layout, REPOSITORY, TAG).await.unwrap()
}

async fn failed(registry: &dyn ImageRegistry, layout: &Path) -> (ErrorKind, String) {
    let error = registry.push(layout, REPOSITORY, TAG).await.unwrap_err();
    (error.kind(), chain(&error))
}

struct Image {
    folder: tempfile::TempDir,
    digest: Digest,
    layout: PathBuf,
}

fn small_image() -> Image {
    let folder = tempfile::tempdir().unwrap();
    let (image, layout) = images::image(folder.path(), 1);
    Image { folder, digest: image.manifest, layout }
}

fn large_image() -> Image {
    let folder = tempfile::tempdir().unwrap();
    let (digest, layout) = layouts::of_size(folder.path(), TAG, LAYER_BYTES);
    Image { folder, digest, layout }
}

impl Image {
    /// Bytes of all blobs, the manifest excepted.
    fn blob_bytes(&self) -> usize {
        let blobs = layouts::blobs(&self.layout);
        blobs.iter().filter(|(name, _)| *name != self.digest.hex()).map(|(_, blob)| blob.len()).sum()
    }

    fn is_at(&self, host: &str) {
        let pulled = self.folder.path().join("pulled");
        skopeo::pull(&format!("{host}/{REPOSITORY}@{}", self.digest), &Entry::Open, &pulled);
        assert!(layouts::blobs(&pulled) == layouts::blobs(&self.layout), "the registry has something else");
    }
}

/// Every phase of a push, with every trouble: the kind of the failure, no tag
/// before all is there, and a next push that succeeds.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_fails_cleanly_in_every_phase_and_the_next_one_continues() {
    delayd_testkit::needs_registry!("a_push_fails_cleanly_in_every_phase_and_the_next_one_continues");
    let server = DockerRegistry::open();
    let image = small_image();
    let phases =
        [Phase::BlobCheck, Phase::UploadStart, Phase::Piece, Phase::UploadEnd, Phase::TagCheck, Phase::ManifestPut];
    let mut cases = Vec::new();
    for phase in phases {
        for (trouble, kind) in [
            (Trouble::Close, ErrorKind::Unavailable),
            (Trouble::LoseAnswer, ErrorKind::Unavailable),
            (Trouble::CutAnswer(20), ErrorKind::Unavailable),
            (Trouble::Refuse(401), ErrorKind::Denied),
            (Trouble::Refuse(403), ErrorKind::Denied),
            (Trouble::Refuse(409), ErrorKind::Conflict),
            (Trouble::Refuse(413), ErrorKind::Exhausted),
            (Trouble::Refuse(429), ErrorKind::Unavailable),
            (Trouble::Refuse(500), ErrorKind::Unavailable),
            (Trouble::Refuse(503), ErrorKind::Unavailable),
            (Trouble::Refuse(507), ErrorKind::Exhausted),
            (Trouble::Stall(Duration::from_secs(30)), ErrorKind::Timeout),
        ] {
            cases.push((phase, trouble, kind));
        }
    }
    // In the first place of a push 404 means that nothing is there yet.
    cases.push((Phase::UploadStart, Trouble::Refuse(404), ErrorKind::NotFound));
    cases.push((Phase::Piece, Trouble::Refuse(404), ErrorKind::Interrupted));
    cases.push((Phase::UploadEnd, Trouble::Refuse(404), ErrorKind::Interrupted));
    cases.push((Phase::ManifestPut, Trouble::Refuse(404), ErrorKind::NotFound));
    cases.push((Phase::Piece, Trouble::Refuse(416), ErrorKind::Interrupted));
    cases.push((Phase::Piece, Trouble::CutBody(1000), ErrorKind::Unavailable));
    cases.push((Phase::UploadEnd, Trouble::CutBody(100), ErrorKind::Unavailable));
    let tries = cases.iter().enumerate().map(|(number, case)| a_push_in_trouble(&server, &image, number, *case));
    futures::stream::iter(tries).buffer_unordered(6).collect::<Vec<()>>().await;
}

async fn a_push_in_trouble(
    server: &DockerRegistry,
    image: &Image,
    number: usize,
    (phase, trouble, kind): (Phase, Trouble, ErrorKind),
) {
    let what = format!("{phase:?} {trouble:?}");
    let proxy = PhaseProxy::before(server.address).await;
    // Cases do not share blobs, so that each meets its phase.
    let prefix = format!("case{number}");
    let settings = OciRegistrySettings { repository_prefix: prefix.clone(), ..at(&proxy.host()) };
    let registry = open(&settings);
    let direct = open(&OciRegistrySettings { repository_prefix: prefix, ..at(&server.host()) });
    proxy.plan(phase, trouble, 1);
    let (found, text) = if kind == ErrorKind::Timeout {
        let hasty = OciRegistrySettings { http: hasty(&proxy.host()).http, ..settings };
        failed(&open(&hasty), &image.layout).await
    } else {
        failed(&registry, &image.layout).await
    };
    assert_eq!(found, kind, "{what}: {text}");
    assert!(text.starts_with(&format!("pushing {REPOSITORY}:{TAG} at {}", proxy.host())), "{what}: {text}");
    let resolved = direct.resolve(REPOSITORY, TAG).await.unwrap();
    let answer_lost = matches!(trouble, Trouble::LoseAnswer | Trouble::CutAnswer(_) | Trouble::Stall(_));
    if !(phase == Phase::ManifestPut && answer_lost) {
        assert_eq!(resolved, None, "{what}: a tag without its image");
    }
    proxy.calm();
    assert_eq!(registry.push(&image.layout, REPOSITORY, TAG).await.unwrap().digest, image.digest, "{what}");
    assert_eq!(direct.resolve(REPOSITORY, TAG).await.unwrap(), Some(image.digest.clone()), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_hiccups_in_every_phase_is_pushed_to_in_one_call() {
    delayd_testkit::needs_registry!("a_registry_that_hiccups_in_every_phase_is_pushed_to_in_one_call");
    let server = DockerRegistry::open();
    let proxy = PhaseProxy::before(server.address).await;
    let image = small_image();
    proxy.plan(Phase::BlobCheck, Trouble::Close, 1);
    proxy.plan(Phase::UploadStart, Trouble::Refuse(500), 1);
    proxy.plan(Phase::Piece, Trouble::LoseAnswer, 1);
    proxy.plan(Phase::ManifestPut, Trouble::LoseAnswer, 1);
    pushed(&retrying(&at(&proxy.host())), &image.layout).await;
    image.is_at(&server.host());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_down_and_comes_back_gets_the_image() {
    delayd_testkit::needs_registry!("a_registry_that_is_down_and_comes_back_gets_the_image");
    let server = DockerRegistry::open();
    let proxy = FlakyProxy::before(server.address).await;
    let image = small_image();
    let registry = retrying(&at(&proxy.address().to_string()));
    for (mood, kind) in [
        (Mood::Down, ErrorKind::Unavailable),
        (Mood::Refuse(503), ErrorKind::Unavailable),
        (Mood::CutAfter(10), ErrorKind::Unavailable),
    ] {
        proxy.set(mood);
        let (found, text) = failed(&registry, &image.layout).await;
        assert_eq!(found, kind, "{mood:?}: {text}");
    }
    proxy.set(Mood::Slow(Duration::from_secs(60)));
    let hasty = open(&hasty(&proxy.address().to_string()));
    assert_eq!(failed(&hasty, &image.layout).await.0, ErrorKind::Timeout);
    let nobody = open(&at("127.0.0.1:1"));
    assert_eq!(failed(&nobody, &image.layout).await.0, ErrorKind::Unavailable);
    proxy.set(Mood::Pass);
    pushed(&registry, &image.layout).await;
    image.is_at(&server.host());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_asks_for_a_pause_gets_it() {
    delayd_testkit::needs_registry!("a_registry_that_asks_for_a_pause_gets_it");
    let server = DockerRegistry::open();
    let proxy = PhaseProxy::before(server.address).await;
    let (image, registry) = (small_image(), open(&at(&proxy.host())));
    proxy.plan(Phase::UploadStart, Trouble::RefuseFor(429, 1), 1);
    let began = Instant::now();
    pushed(&registry, &image.layout).await;
    assert!(began.elapsed() >= Duration::from_secs(1));
    // Who asks for much is away: the saga waits, not the call.
    proxy.plan(Phase::TagCheck, Trouble::RefuseFor(503, 3600), 1);
    assert_eq!(failed(&registry, &image.layout).await.0, ErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untrusted_certificate_is_reported_as_one_and_its_authority_helps() {
    delayd_testkit::needs_registry!("an_untrusted_certificate_is_reported_as_one_and_its_authority_helps");
    let server = DockerRegistry::open();
    let (front, other) = (TlsFront::before(server.address).await, TlsFront::before(server.address).await);
    let image = small_image();
    let mut settings = OciRegistrySettings { plain_http: false, ..at(&front.address.to_string()) };
    for ca_path in [PathBuf::new(), other.ca_path] {
        settings.http.ca_path = ca_path;
        let (kind, text) = failed(&open(&settings), &image.layout).await;
        assert_eq!(kind, ErrorKind::Unavailable, "{text}");
        assert!(text.contains("certificate") && text.contains("ca_path"), "{text}");
    }
    settings.http.ca_path = front.ca_path;
    // The registry behind does not know of TLS and names http addresses; uploads stay encrypted.
    pushed(&open(&settings), &image.layout).await;
    image.is_at(&server.host());
    settings.host = format!("wrong.localhost:{}", front.address.port());
    assert_eq!(failed(&open(&settings), &image.layout).await.0, ErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_was_interrupted_in_a_piece_is_sent_again_whole() {
    delayd_testkit::needs_registry!("an_upload_that_was_interrupted_in_a_piece_is_sent_again_whole");
    let server = DockerRegistry::open();
    let keeping = KeepingRegistry::start(Manners::default()).await;
    for (address, pulled_from) in [(server.address, Some(server.host())), (keeping.address, None)] {
        let proxy = PhaseProxy::before(address).await;
        let (image, settings) = (large_image(), in_large_pieces(&proxy.host()));
        let first = settings.upload.chunk_bytes as usize;
        // The first piece gets through, the second one is cut.
        proxy.plan(Phase::Piece, Trouble::Nothing, 1);
        proxy.plan(Phase::Piece, Trouble::CutBody(CUT_AT - first), 1);
        pushed(&retrying(&settings), &image.layout).await;
        assert_eq!(proxy.take_blob_bytes(), CUT_AT + image.blob_bytes());
        if let Some(host) = pulled_from {
            image.is_at(&host);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_succeeds_after_the_registry_has_started_again() {
    delayd_testkit::needs_registry!("a_push_succeeds_after_the_registry_has_started_again");
    let mut server = DockerRegistry::open();
    let proxy = PhaseProxy::before(server.address).await;
    let (image, settings) = (large_image(), in_large_pieces(&proxy.host()));
    let registry = open(&settings);
    let pieces = settings.upload.chunk_bytes as usize;
    proxy.plan(Phase::Piece, Trouble::Nothing, 2);
    proxy.plan(Phase::Piece, Trouble::Close, 1);
    failed(&registry, &image.layout).await;
    assert_eq!(proxy.take_blob_bytes(), 2 * pieces);
    server.kill();
    assert_eq!(failed(&registry, &image.layout).await.0, ErrorKind::Unavailable);
    server.start_again();
    pushed(&registry, &image.layout).await;
    image.is_at(&server.host());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_the_registry_forgot_starts_again() {
    delayd_testkit::needs_registry!("an_upload_that_the_registry_forgot_starts_again");
    let server = DockerRegistry::open();
    let proxy = PhaseProxy::before(server.address).await;
    let (image, registry) = (large_image(), open(&in_large_pieces(&proxy.host())));
    proxy.plan(Phase::Piece, Trouble::Refuse(500), 1);
    failed(&registry, &image.layout).await;
    let uploads = server.storage().join("repositories").join(REPOSITORY).join("_uploads");
    std::fs::remove_dir_all(uploads).unwrap();
    pushed(&registry, &image.layout).await;
    image.is_at(&server.host());
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_renewed_when_they_end_and_when_the_registry_wants_another() {
    delayd_testkit::needs_registry!("tokens_are_renewed_when_they_end_and_when_the_registry_wants_another");
    let tokens = TokenServer::start().await;
    let server = DockerRegistry::start(&Access::Token(&tokens), true);
    let proxy = PhaseProxy::before(server.address).await;
    let image = small_image();
    let settings =
        OciRegistrySettings { username: USER.to_owned(), password: Secret::new(PASSWORD), ..at(&proxy.host()) };
    let registry = open(&settings);
    pushed(&registry, &image.layout).await;
    assert_eq!(*tokens.asked.lock().unwrap(), [[format!("repository:{REPOSITORY}:pull,push")]]);
    // Kept for the next push …
    pushed(&registry, &image.layout).await;
    assert_eq!(tokens.calls(), 1);
    // … had anew when the registry refuses it in the middle, …
    proxy.plan(Phase::TagCheck, Trouble::ChallengeToken(tokens.address), 1);
    pushed(&registry, &image.layout).await;
    assert_eq!(tokens.calls(), 2);
    // … and for every call, of which resolving a tag takes two, while tokens end at once.
    tokens.policy.lock().unwrap().lifetime_secs = 0;
    let other = open(&settings);
    other.resolve(REPOSITORY, TAG).await.unwrap();
    assert_eq!(tokens.calls(), 4);
    // One that has long expired is the token server's fault, and told.
    tokens.policy.lock().unwrap().lifetime_secs = -3600;
    assert_eq!(other.resolve(REPOSITORY, TAG).await.unwrap_err().kind(), ErrorKind::Denied);
    tokens.policy.lock().unwrap().lifetime_secs = 300;
    assert_eq!(other.resolve(REPOSITORY, TAG).await.unwrap(), Some(image.digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_server_that_refuses_is_distinguished_from_one_that_is_unavailable() {
    delayd_testkit::needs_registry!("a_token_server_that_refuses_is_distinguished_from_one_that_is_unavailable");
    let tokens = TokenServer::start().await;
    let server = DockerRegistry::start(&Access::Token(&tokens), true);
    let image = small_image();
    let settings =
        OciRegistrySettings { username: USER.to_owned(), password: Secret::new(PASSWORD), ..at(&server.host()) };
    let registry = open(&settings);
    for (status, kind) in [
        (401, ErrorKind::Denied),
        (403, ErrorKind::Denied),
        (429, ErrorKind::Unavailable),
        (503, ErrorKind::Unavailable),
    ] {
        tokens.policy.lock().unwrap().refuse = Some(status);
        let (found, text) = failed(&registry, &image.layout).await;
        assert_eq!(found, kind, "{text}");
        assert!(text.contains("token server"), "{text}");
    }
    tokens.policy.lock().unwrap().refuse = None;
    // Whoever may only pull is refused by the registry itself.
    tokens.policy.lock().unwrap().granted = vec!["pull"];
    assert_eq!(failed(&registry, &image.layout).await.0, ErrorKind::Denied);
    tokens.policy.lock().unwrap().granted = vec!["pull", "push"];
    pushed(&open(&settings), &image.layout).await;
}

/// The password, its Basic form and every token: never in an error, a log or `Debug`.
#[tokio::test]
async fn no_secret_gets_out() {
    delayd_testkit::needs_registry!("no_secret_gets_out");
    let log = Log::default();
    let _guard = log.listen();
    let tokens = TokenServer::start().await;
    let (by_token, by_password) =
        (DockerRegistry::start(&Access::Token(&tokens), true), DockerRegistry::start(&Access::PasswordAndTls, true));
    let image = small_image();
    let mut told = Vec::new();
    let mut shown_tokens = Vec::new();
    for server in [&by_token, &by_password] {
        for password in [PASSWORD, "s3cret-but-wrong"] {
            let front = PhaseProxy::before(server.address).await;
            let mut settings =
                OciRegistrySettings { username: USER.to_owned(), password: Secret::new(password), ..at(&front.host()) };
            if std::ptr::eq(server, &raw const by_password) {
                settings = OciRegistrySettings { host: server.host(), plain_http: false, ..settings };
                settings.http.ca_path.clone_from(&server.ca_path);
            }
            let registry = open(&settings);
            front.plan(Phase::Piece, Trouble::Refuse(500), 1);
            for _ in 0..2 {
                told.push(format!("{:?}", registry.push(&image.layout, REPOSITORY, TAG).await));
                told.push(format!("{registry:?}"));
            }
            told.push(format!("{:?}", registry.probe().await));
            told.push(format!("{registry:?} {settings:?}"));
            shown_tokens.extend(front.take_seen().into_iter().filter_map(|seen| seen.authorization));
        }
    }
    told.push(log.text());
    assert!(shown_tokens.iter().any(|header| header.starts_with("Bearer ")), "the tokens were seen on the wire");
    assert!(told.last().unwrap().len() > 1000, "the log was written");
    let mut secrets = vec![PASSWORD.to_owned(), "s3cret-but-wrong".to_owned()];
    for password in [PASSWORD, "s3cret-but-wrong"] {
        use base64::Engine as _;
        secrets.push(base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{password}")));
    }
    secrets.extend(shown_tokens.iter().map(|header| header.split(' ').nth(1).unwrap().to_owned()));
    let shown = told[..told.len() - 1].iter().find(|text| text.contains("_state="));
    assert!(shown.is_none(), "the address of an upload: {shown:?}");
    for secret in &secrets {
        let found = told.iter().find(|text| text.contains(secret.as_str()));
        assert!(found.is_none(), "{}", found.unwrap());
    }
}
