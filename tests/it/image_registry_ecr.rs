//! Amazon ECR: its API is moto's server, the registry behind it docker-registry,
//! which lets in nobody but who comes with ECR's login.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use delayd_core::error::{ErrorKind, chain};
use delayd_core::http_client::HttpClientSettings;
use delayd_core::ports::ImageRegistry;
use delayd_core::secret::Secret;
use delayd_outside::cloud::ecr::{EcrRegistry, EcrRegistrySettings};
use delayd_outside::cloud::registry::UploadSettings;
use delayd_outside::wrap::Retrying;
use delayd_testkit::contracts;
use delayd_testkit::contracts::flaky_proxy::{FlakyProxy, Mood, TlsFront};
use delayd_testkit::contracts::layouts as images;
use delayd_testkit::registry_servers::ecr_api::{EcrApi, LOGIN, moto};
use delayd_testkit::registry_servers::skopeo::Entry;
use delayd_testkit::registry_servers::{Access, DockerRegistry, Log, layouts, skopeo};
use delayd_testkit::tools::assert_error;
use serde_json::json;

const SECRET_KEY: &str = "s3cret-of-the-aws-key";
const REPOSITORY: &str = "delay-ml";

/// ECR as these tests have it.
struct Ecr {
    registry: DockerRegistry,
    api: EcrApi,
}

impl Ecr {
    /// `None`, and SKIPPED said, where moto is not installed.
    async fn start(test: &str) -> Option<Self> {
        let Some(program) = moto() else {
            eprintln!("SKIPPED: {test}: moto's server is missing (`scripts/setup/python_tools`)");
            return None;
        };
        let registry = DockerRegistry::start(&Access::EcrLogin, true);
        let api = EcrApi::start(program, registry.storage()).await;
        Some(Self { registry, api })
    }

    fn settings(&self) -> EcrRegistrySettings {
        EcrRegistrySettings {
            region: "eu-central-1".to_owned(),
            endpoint: self.api.url(),
            registry_host: self.registry.host(),
            plain_http: true,
            access_key_id: Secret::new("AKID"),
            secret_access_key: Secret::new(SECRET_KEY),
            upload: UploadSettings { retry_secs: 0.02, ..UploadSettings::default() },
            http: HttpClientSettings {
                connect_timeout_secs: 2,
                read_timeout_secs: 20,
                ..HttpClientSettings::default()
            },
            ..EcrRegistrySettings::default()
        }
    }

    async fn described(&self, name: &str) -> serde_json::Value {
        let answer = self.api.call("DescribeRepositories", json!({"repositoryNames": [name]})).await;
        answer["repositories"][0].clone()
    }

    async fn policy(&self, name: &str) -> serde_json::Value {
        let answer = self.api.call("GetLifecyclePolicy", json!({"repositoryName": name})).await;
        serde_json::from_str(answer["lifecyclePolicyText"].as_str().unwrap_or("null")).unwrap()
    }
}

fn open(settings: EcrRegistrySettings) -> EcrRegistry {
    assert_eq!(settings.faults("registry.ecr"), [], "the settings of a test can be used");
    EcrRegistry::new(settings)
}

#[tokio::test(flavor = "multi_thread")]
async fn ecr_keeps_the_contract_where_tags_may_move() {
    delayd_testkit::needs_registry!("ecr_keeps_the_contract_where_tags_may_move");
    let Some(ecr) = Ecr::start("ecr_keeps_the_contract_where_tags_may_move").await else { return };
    let settings = EcrRegistrySettings { immutable_tags: false, ..ecr.settings() };
    let registry = Retrying::new(open(settings.clone()), settings.upload.retry_policy());
    contracts::image_registry::keeps_the_whole_contract(&registry).await;
    assert_eq!(ecr.described(REPOSITORY).await["imageTagMutability"], "MUTABLE");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_repository_is_created_as_configured_and_its_policy_is_put_only_when_it_differs() {
    delayd_testkit::needs_registry!(
        "a_missing_repository_is_created_as_configured_and_its_policy_is_put_only_when_it_differs"
    );
    let Some(ecr) = Ecr::start("a_missing_repository_is_created_as_configured").await else { return };
    let folder = tempfile::tempdir().unwrap();
    let (image, layout) = images::image(folder.path(), 1);
    let settings = EcrRegistrySettings { repository_prefix: "team".to_owned(), ..ecr.settings() };
    let registry = open(settings.clone());
    let pushed = registry.push(&layout, REPOSITORY, "model_v1").await.unwrap();
    assert_eq!(pushed.reference, format!("{}/team/delay-ml@{}", ecr.registry.host(), image.manifest));
    let described = ecr.described("team/delay-ml").await;
    assert_eq!(described["imageTagMutability"], "IMMUTABLE");
    assert_eq!(described["imageScanningConfiguration"]["scanOnPush"], true);
    assert_eq!(described["encryptionConfiguration"]["encryptionType"], "AES256", "ECR's default");
    let policy = ecr.policy("team/delay-ml").await;
    assert_eq!(policy["rules"][0]["selection"]["countNumber"], 100);
    let calls = ecr.api.take_calls();
    assert_eq!(calls.iter().filter(|call| *call == "CreateRepository").count(), 1, "{calls:?}");
    // Byte for byte, by the judge who only knows ECR's login.
    let pulled = folder.path().join("pulled");
    skopeo::pull(&pushed.reference, &Entry::Ecr(LOGIN.to_owned()), &pulled);
    assert!(layouts::blobs(&pulled) == layouts::blobs(&layout), "the blobs differ");

    // Again: nothing is created or put, and the login is the same one.
    let again = registry.push(&layout, REPOSITORY, "model_v1").await.unwrap();
    assert_eq!((again.layers_pushed, again.layers_reused), (0, 2));
    assert_eq!(ecr.api.take_calls(), ["DescribeRepositories", "GetLifecyclePolicy"]);

    // Ours and different: replaced.
    let fewer = open(EcrRegistrySettings { keep_images: 20, ..settings.clone() });
    fewer.push(&layout, REPOSITORY, "model_v1").await.unwrap();
    assert_eq!(ecr.policy("team/delay-ml").await["rules"][0]["selection"]["countNumber"], 20);

    // Somebody else's: left alone.
    let theirs = json!({"rules": [{"rulePriority": 1, "description": "the owner's", "action": {"type": "expire"},
        "selection": {"tagStatus": "untagged", "countType": "imageCountMoreThan", "countNumber": 5}}]});
    let body = json!({"repositoryName": "team/delay-ml", "lifecyclePolicyText": theirs.to_string()});
    ecr.api.call("PutLifecyclePolicy", body).await;
    registry.push(&layout, REPOSITORY, "model_v1").await.unwrap();
    assert_eq!(ecr.policy("team/delay-ml").await, theirs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_may_not_move_takes_the_same_image_again_and_refuses_another() {
    delayd_testkit::needs_registry!("a_tag_that_may_not_move_takes_the_same_image_again_and_refuses_another");
    let Some(ecr) = Ecr::start("a_tag_that_may_not_move").await else { return };
    let folder = tempfile::tempdir().unwrap();
    let ((first, one), (_, two)) = (images::image(folder.path(), 1), images::image(folder.path(), 2));
    let registry = open(ecr.settings());
    registry.push(&one, REPOSITORY, "model_v1").await.unwrap();
    registry.push(&one, REPOSITORY, "model_v1").await.unwrap();
    let error = registry.push(&two, REPOSITORY, "model_v1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let text = error.to_string();
    assert!(text.contains(first.manifest.as_str()) && text.contains("immutable_tags"), "{text}");
    assert_eq!(registry.resolve(REPOSITORY, "model_v1").await.unwrap(), Some(first.manifest.clone()));
    // Once it is taken away, which the undo of a push does, the tag is free.
    registry.remove_tag(REPOSITORY, "model_v1").await.unwrap();
    registry.push(&two, REPOSITORY, "model_v1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_is_not_ours_to_create_is_missed_by_name() {
    delayd_testkit::needs_registry!("a_repository_that_is_not_ours_to_create_is_missed_by_name");
    let Some(ecr) = Ecr::start("a_repository_that_is_not_ours_to_create").await else { return };
    let folder = tempfile::tempdir().unwrap();
    let (_, layout) = images::image(folder.path(), 1);
    let registry = open(EcrRegistrySettings { create_repository: false, ..ecr.settings() });
    let error = registry.push(&layout, REPOSITORY, "model_v1").await.unwrap_err();
    assert_error(&error, ErrorKind::NotFound, &[REPOSITORY]);
    // A missing repository has no tags either.
    registry.remove_tag("nothing", "model_v1").await.unwrap();
    assert_eq!(registry.resolve("nothing", "model_v1").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_are_kept_until_shortly_before_they_expire_and_renewed_when_refused() {
    delayd_testkit::needs_registry!("logins_are_kept_until_shortly_before_they_expire_and_renewed_when_refused");
    let Some(ecr) = Ecr::start("logins_are_kept").await else { return };
    let folder = tempfile::tempdir().unwrap();
    let (image, layout) = images::image(folder.path(), 1);
    let logins = || ecr.api.take_calls().iter().filter(|call| *call == "GetAuthorizationToken").count();
    let registry = open(ecr.settings());
    registry.push(&layout, REPOSITORY, "model_v1").await.unwrap();
    assert_eq!(logins(), 1);
    registry.resolve(REPOSITORY, "model_v1").await.unwrap();
    assert_eq!(logins(), 0);

    // One that expires within minutes is not kept.
    ecr.api.state.lock().unwrap().login_secs = 60;
    let hasty = open(ecr.settings());
    for _ in 0..2 {
        hasty.resolve(REPOSITORY, "model_v1").await.unwrap();
        assert!(logins() > 0);
    }

    // One that the registry refuses is replaced in the same call.
    ecr.api.state.lock().unwrap().login_secs = 12 * 3600;
    ecr.api.state.lock().unwrap().password = Some("revoked".to_owned());
    let revoked = open(ecr.settings());
    let error = revoked.resolve(REPOSITORY, "model_v1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    ecr.api.state.lock().unwrap().password = None;
    assert_eq!(revoked.resolve(REPOSITORY, "model_v1").await.unwrap(), Some(image.manifest));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_of_the_api_has_its_kind_and_passes() {
    delayd_testkit::needs_registry!("every_failure_of_the_api_has_its_kind_and_passes");
    let Some(ecr) = Ecr::start("every_failure_of_the_api").await else { return };
    let folder = tempfile::tempdir().unwrap();
    let (image, layout) = images::image(folder.path(), 1);
    let proxy = FlakyProxy::before(ecr.api.address).await;
    let settings = EcrRegistrySettings { endpoint: proxy.url(), ..ecr.settings() };
    let registry = open(settings);
    for (mood, kind) in [
        (Mood::Down, ErrorKind::Unavailable),
        (Mood::CutAfter(30), ErrorKind::Unavailable),
        (Mood::Refuse(401), ErrorKind::Denied),
        (Mood::Refuse(403), ErrorKind::Denied),
        (Mood::Refuse(404), ErrorKind::NotFound),
        (Mood::Refuse(409), ErrorKind::Conflict),
        (Mood::Refuse(429), ErrorKind::Unavailable),
        (Mood::Refuse(500), ErrorKind::Unavailable),
        (Mood::Refuse(503), ErrorKind::Unavailable),
    ] {
        proxy.set(mood);
        let error = registry.push(&layout, REPOSITORY, "model_v1").await.unwrap_err();
        assert_eq!(error.kind(), kind, "{mood:?}: {error}");
        let probe = registry.probe().await.unwrap_err();
        assert_eq!(probe.kind(), kind, "{mood:?}: {probe}");
    }
    proxy.set(Mood::Slow(Duration::from_secs(60)));
    let mut hasty = EcrRegistrySettings { endpoint: proxy.url(), ..ecr.settings() };
    hasty.http.read_timeout_secs = 1;
    assert_eq!(open(hasty).probe().await.unwrap_err().kind(), ErrorKind::Timeout);
    proxy.set(Mood::Pass);
    registry.push(&layout, REPOSITORY, "model_v1").await.unwrap();
    assert_eq!(registry.resolve(REPOSITORY, "model_v1").await.unwrap(), Some(image.manifest));
    let told = registry.probe().await.unwrap();
    assert_eq!(told, format!("ECR: OCI registry at {}, login AWS", ecr.registry.host()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untrusted_certificate_of_the_api_is_reported_as_one() {
    delayd_testkit::needs_registry!("an_untrusted_certificate_of_the_api_is_reported_as_one");
    let Some(ecr) = Ecr::start("an_untrusted_certificate_of_the_api").await else { return };
    let front = TlsFront::before(ecr.api.address).await;
    let mut settings = EcrRegistrySettings { endpoint: format!("https://{}", front.address), ..ecr.settings() };
    let error = open(settings.clone()).probe().await.unwrap_err();
    assert_error(&error, ErrorKind::Unavailable, &["certificate", "ca_path"]);
    settings.http.ca_path = front.ca_path;
    open(settings.clone()).probe().await.unwrap();
    settings.http.ca_path = "/nowhere/ca.pem".into();
    let error = open(settings).probe().await.unwrap_err();
    assert!(error.to_string().contains("/nowhere/ca.pem"), "{error}");
}

#[tokio::test]
async fn neither_the_key_nor_the_login_gets_out() {
    delayd_testkit::needs_registry!("neither_the_key_nor_the_login_gets_out");
    let log = Log::default();
    let _guard = log.listen();
    let Some(ecr) = Ecr::start("neither_the_key_nor_the_login_gets_out").await else { return };
    let folder = tempfile::tempdir().unwrap();
    let (_, layout) = images::image(folder.path(), 1);
    let registry = open(ecr.settings());
    let mut told = vec![format!("{:?}", ecr.settings())];
    registry.push(&layout, REPOSITORY, "model_v1").await.unwrap();
    told.push(format!("{registry:?}"));
    ecr.api.state.lock().unwrap().password = Some("s3cret-but-wrong".to_owned());
    let refused = open(ecr.settings());
    told.push(chain(&refused.push(&layout, REPOSITORY, "model_v1").await.unwrap_err()));
    told.push(format!("{refused:?}"));
    let missing = EcrRegistrySettings { secret_access_key: Secret::new("file:/nowhere/key"), ..ecr.settings() };
    let error = open(missing).probe().await.unwrap_err();
    assert_error(&error, ErrorKind::Denied, &["/nowhere/key"]);
    told.push(chain(&error));
    let logged = log.text();
    assert!(logged.contains("transmitting request"), "the SDK's lowest level was heard: {logged}");
    told.push(logged);
    let encoded = STANDARD.encode(LOGIN);
    for secret in [SECRET_KEY, LOGIN, &encoded, "123456789012-auth-token", "s3cret-but-wrong"] {
        let found = told.iter().find(|text| text.contains(secret));
        assert!(found.is_none(), "{}", found.unwrap());
    }
}
