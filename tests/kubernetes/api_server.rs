//! The way to the API server, and what it refuses.

use std::time::Duration;

use delayd_core::error::ErrorKind;
use delayd_core::ports::Cluster;

use crate::cluster::assert_tells;
use delayd_testkit::cluster::{Gate, GateState};
use delayd_testkit::cluster::{Site, answering_model};
use delayd_testkit::contracts::cluster::apply;
use delayd_testkit::contracts::flaky_proxy::{FlakyProxy, Mood, TestCertificates};
use delayd_testkit::tools::{CapturedLog, PATIENCE, until_true};

/// How long the API server is away; longer ones are for measuring.
fn outage() -> Duration {
    let secs = std::env::var("DELAYD_TEST_OUTAGE_SECS").ok().and_then(|secs| secs.parse().ok());
    Duration::from_secs(secs.unwrap_or(2))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_api_server_is_unavailable_the_service_serves_and_everything_continues_afterwards() {
    let Some(site) = Site::new("away") else { return };
    let gate = Gate::before(site.api_server()).await;
    let kubeconfig = site.kubeconfig_via(gate.address);
    let cluster = site.open_with(|settings| {
        settings.kubeconfig = kubeconfig;
        settings.request_timeout_secs = 2;
        settings.connect_timeout_secs = 2;
    });
    let (first, second) = (site.release(1).await, site.release(2).await);
    apply(&cluster, &first).await.unwrap();
    for state in [GateState::Shut, GateState::Silent] {
        gate.set(state);
        let errors = [
            cluster.current().await.unwrap_err(),
            cluster.replicas().await.unwrap_err(),
            cluster.reconcile().await.unwrap_err(),
            cluster.probe().await.unwrap_err(),
            cluster.apply(&second, Duration::from_secs(1), &|_| ()).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{state:?}: {error}");
        }
        let shut = std::time::Instant::now();
        while shut.elapsed() < outage() {
            assert_eq!(answering_model(&cluster).await, Ok("model_v1".to_owned()));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        gate.set(GateState::Open);
        let back = std::time::Instant::now();
        until_true("it answers again", async || cluster.current().await.is_ok()).await;
        eprintln!("{state:?} for {:?}: it was used again after {:?}", outage(), back.elapsed());
        assert_eq!(cluster.current().await.unwrap().as_ref(), Some(&first));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_in_the_middle_of_a_rollout_delays_it_and_nothing_else() {
    let Some(site) = Site::new("outage") else { return };
    let gate = Gate::before(site.api_server()).await;
    let kubeconfig = site.kubeconfig_via(gate.address);
    let cluster = site.open_with(|settings| {
        settings.kubeconfig = kubeconfig;
        settings.request_timeout_secs = 2;
    });
    let (first, second, third) = (site.release(1).await, site.release(2).await, site.release(3).await);
    apply(&cluster, &first).await.unwrap();
    let back_later = async {
        tokio::time::sleep(Duration::from_secs(8)).await;
        gate.set(GateState::Open);
    };
    // Progress is told again when it can be watched again; the gate is shut once.
    let once = std::sync::Once::new();
    let shut = |_| once.call_once(|| gate.set(GateState::Shut));
    let (outcome, ()) = tokio::join!(cluster.apply(&second, PATIENCE, &shut), back_later);
    outcome.unwrap();
    assert_eq!(cluster.current().await.unwrap().as_ref(), Some(&second));

    // One that outlasts the deadline is an outage to wait for, and the same call goes on later.
    let shut = |_| gate.set(GateState::Shut);
    let error = cluster.apply(&third, Duration::from_secs(3), &shut).await.unwrap_err();
    assert_tells(&error, ErrorKind::Unavailable, &["model_v3", "when the API server is back"]);
    gate.set(GateState::Open);
    apply(&cluster, &third).await.unwrap();
    assert_eq!(cluster.current().await.unwrap().as_ref(), Some(&third));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_right_is_named_by_probe_and_by_the_call_that_needs_it() {
    let Some(site) = Site::new("right") else { return };
    site.grant(|text| {
        let deployments = "resources: [deployments]\n    verbs: [get, create, patch, delete]";
        text.replace(deployments, "resources: [deployments]\n    verbs: [get, create, delete]")
    });
    let kubeconfig = site.kubeconfig_with_token("daemon", &site.token());
    let cluster = site.open_with(|settings| settings.kubeconfig = kubeconfig);
    assert_tells(
        &cluster.probe().await.unwrap_err(),
        ErrorKind::Denied,
        &["missing: patch deployments.apps;", "role.yaml"],
    );
    let error = apply(&cluster, &site.release(1).await).await.unwrap_err();
    assert_tells(&error, ErrorKind::Denied, &["cannot patch resource \"deployments\"", "nothing of it is left"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_that_are_refused_are_reported_and_never_shown() {
    let Some(site) = Site::new("refused") else { return };
    let token = "not-a-token-but-secret";
    let kubeconfig = site.kubeconfig_with_token("wrong", token);
    let written = CapturedLog::begin();
    let cluster = site.open_with(|settings| settings.kubeconfig = kubeconfig);
    let errors = [
        cluster.probe().await.map(|_| ()).unwrap_err(),
        apply(&cluster, &site.release(1).await).await.unwrap_err(),
        cluster.replicas().await.map(|_| ()).unwrap_err(),
    ];
    for error in &errors {
        assert_tells(error, ErrorKind::Denied, &["does not accept our credentials"]);
    }
    let shown = format!("{errors:?} {cluster:?} {}", written.text());
    assert!(shown.contains("requesting"), "the log was captured");
    assert!(!shown.contains(token));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_authority_is_an_outage_that_says_certificate() {
    let Some(site) = Site::new("authority") else { return };
    use base64::Engine as _;
    let authority = TestCertificates::new().ca_pem;
    let authority = base64::engine::general_purpose::STANDARD.encode(authority);
    let kubeconfig = site.kubeconfig_for("authority", |config| {
        config["clusters"][0]["cluster"]["certificate-authority-data"] = authority.into();
    });
    let cluster = site.open_with(|settings| settings.kubeconfig = kubeconfig);
    assert_tells(&cluster.probe().await.unwrap_err(), ErrorKind::Unavailable, &["certificate is not trusted"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_of_the_api_server_has_its_kind_and_passing_ones_are_tried_again() {
    let Some(site) = Site::new("refusals") else { return };
    let api = site.plain_api();
    let flaky = FlakyProxy::before(api.address).await;
    let kubeconfig = site.kubeconfig_for("plain", |config| {
        config["clusters"][0]["cluster"] = serde_json::json!({ "server": flaky.url() });
        config["users"][0]["user"] = serde_json::json!({});
    });
    // Each with connections of its own: those that stand go on.
    let open = || {
        site.open_with(|settings| {
            settings.kubeconfig = kubeconfig.clone();
            settings.request_timeout_secs = 2;
        })
    };
    let (first, second) = (site.release(1).await, site.release(2).await);
    apply(&open(), &first).await.unwrap();
    for (mood, kind) in [
        (Mood::Refuse(401), ErrorKind::Denied),
        (Mood::Refuse(403), ErrorKind::Denied),
        (Mood::Refuse(404), ErrorKind::NotFound),
        (Mood::Refuse(409), ErrorKind::Conflict),
        (Mood::Refuse(429), ErrorKind::Unavailable),
        (Mood::Refuse(500), ErrorKind::Unavailable),
        (Mood::Refuse(503), ErrorKind::Unavailable),
        (Mood::Down, ErrorKind::Unavailable),
        (Mood::CutAfter(200), ErrorKind::Unavailable),
        (Mood::Slow(Duration::from_secs(5)), ErrorKind::Unavailable),
    ] {
        let cluster = open();
        flaky.set(mood);
        let error = cluster.replicas().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{mood:?}: {error}");
        flaky.set(Mood::Pass);
        assert_eq!(cluster.replicas().await.unwrap().len(), 2, "after {mood:?}");
    }
    let cluster = open();
    flaky.set_for(Mood::Refuse(503), 2);
    assert_eq!(cluster.replicas().await.unwrap().len(), 2, "the third attempt is heard");
    apply(&cluster, &second).await.unwrap();
    assert_eq!(answering_model(&cluster).await, Ok("model_v2".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_does_not_exist_is_reported_with_the_command_that_makes_it() {
    let Some(site) = Site::new("namespace") else { return };
    let cluster = site.open_with(|settings| settings.namespace = "delayd-test-nowhere".to_owned());
    let expected = ["kubectl create namespace delayd-test-nowhere"];
    assert_tells(&cluster.probe().await.unwrap_err(), ErrorKind::NotFound, &expected);
}
