//! The Kubernetes adapter against a real cluster: the contract of its port, with
//! the rights that are shipped, and everything that may go wrong. `make test-cluster`
//! runs these; without a cluster each says SKIPPED.

use std::time::{Duration, Instant};

use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::ports::{Cluster, Release, ReplicaState};
use delayd_outside::cloud::kubernetes::ServiceObject;
use delayd_testkit::cluster::{Site, answering_model, in_state, prediction, through_the_api_server};
use delayd_testkit::contracts::cluster::{apply, keeps_the_whole_contract, ready, rolls_without_losing_a_request};
use delayd_testkit::tools::{PATIENCE, until_true};

/// An error of this kind whose text holds all these parts.
pub fn assert_tells(error: &PortError, kind: ErrorKind, parts: &[&str]) {
    let text = chain(error);
    assert_eq!(error.kind(), kind, "{text}");
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
}

// ----------------------------------------------------------------
// The contract of the port, and what a release consists of.

const ALL_BUT_THE_AUTOSCALER: [ServiceObject; 5] = [
    ServiceObject::Deployment,
    ServiceObject::Service,
    ServiceObject::PodDisruptionBudget,
    ServiceObject::NetworkPolicy,
    ServiceObject::Ingress,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_is_kept_directly() {
    let Some(site) = Site::new("contract") else { return };
    keeps_the_whole_contract(&site.open(), &site.releases().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_is_kept_through_the_api_server_with_the_shipped_role_alone() {
    let Some(site) = Site::new("role") else { return };
    site.grant(|text| text);
    let kubeconfig = site.kubeconfig_with_token("daemon", &site.token());
    let cluster = site.open_with(|settings| {
        through_the_api_server(settings);
        settings.kubeconfig = kubeconfig;
        settings.objects = ALL_BUT_THE_AUTOSCALER.to_vec();
    });
    let told = cluster.probe().await.unwrap();
    assert!(told.contains("every right is granted") && told.contains("not deployed yet"), "{told}");
    let releases = site.releases().await;
    keeps_the_whole_contract(&cluster, &releases).await;

    apply(&cluster, &releases.good[0]).await.unwrap();
    assert_eq!(answering_model(&cluster).await, Ok("model_v1".to_owned()));
    let replicas = ready(&cluster).await;
    assert!(replicas.iter().all(|replica| replica.memory_bytes.unwrap() > 0), "{replicas:?}");
    let told = cluster.probe().await.unwrap();
    assert!(told.contains("runs model_v1 (deployment_1)"), "{told}");
    cluster.tear_down().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_updates_under_load_lose_no_request() {
    let Some(site) = Site::new("load") else { return };
    let cluster = site.open_with(|settings| settings.drain_delay_secs = 5);
    let answered = rolls_without_losing_a_request(&cluster, &site.releases().await, &prediction()).await;
    eprintln!("{answered} requests were answered over four rollouts");
    assert!(answered > 500, "only {answered} requests were answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_rollout_only_new_pods_answer() {
    let Some(site) = Site::new("new-pods") else { return };
    let cluster = site.open_with(|settings| settings.drain_delay_secs = 8);
    apply(&cluster, &site.release(1).await).await.unwrap();
    apply(&cluster, &site.release(2).await).await.unwrap();
    let draining = in_state(&cluster, ReplicaState::Draining).await;
    assert!(!draining.is_empty(), "old pods are still leaving");
    for _ in 0..50 {
        assert_eq!(answering_model(&cluster).await, Ok("model_v2".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_object_is_applied_and_what_is_switched_off_is_taken_away() {
    let Some(site) = Site::new("objects") else { return };
    let all = site.open_with(|settings| {
        settings.objects = [ALL_BUT_THE_AUTOSCALER.as_slice(), &[ServiceObject::HorizontalPodAutoscaler]].concat();
        settings.ingress_host = "delays.example".to_owned();
    });
    apply(&all, &site.release(1).await).await.unwrap();
    assert_eq!(all.reconcile().await.unwrap(), Vec::<String>::new());
    for object in ["poddisruptionbudget", "horizontalpodautoscaler", "ingress", "networkpolicy"] {
        assert_eq!(site.value(&format!("{object}/delay-ml"), ".metadata.name"), "delay-ml", "{object}");
    }
    assert_eq!(site.value("ingress/delay-ml", ".spec.rules[0].host"), "delays.example");
    // What the autoscaler chose stays, through reconciliation and the next release.
    site.kubectl(&["scale", "deployment/delay-ml", "--replicas=3"]);
    assert_eq!(all.reconcile().await.unwrap(), Vec::<String>::new());
    apply(&all, &site.release(2).await).await.unwrap();
    assert_eq!(ready(&all).await.len(), 3);

    let few = site.open();
    apply(&few, &site.release(3).await).await.unwrap();
    assert_eq!(ready(&few).await.len(), 2);
    for object in ["horizontalpodautoscaler", "ingress", "networkpolicy"] {
        assert_eq!(site.value(&format!("{object}/delay-ml"), ".metadata.name"), "", "{object}");
    }
    few.tear_down().await.unwrap();
    let ours = ["get", "all,configmaps,poddisruptionbudgets", "-l", "delayd.dev/service=delay-ml", "-o", "name"];
    // Pods that end answer what they were asked before: nothing is left in the end, not at once.
    let began = Instant::now();
    loop {
        let left = site.kubectl(&ours);
        if left.is_empty() {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{left}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_back_restores_the_manifests_that_the_release_had() {
    let Some(site) = Site::new("manifests") else { return };
    let (first, second) = (site.release(1).await, site.release(2).await);
    apply(&site.open_with(|settings| settings.memory_limit = "256Mi".to_owned()), &first).await.unwrap();
    let later = site.open_with(|settings| settings.memory_limit = "384Mi".to_owned());
    let limit = ".spec.template.spec.containers[0].resources.limits.memory";
    apply(&later, &second).await.unwrap();
    assert_eq!(site.value("deployment/delay-ml", limit), "384Mi");
    apply(&later, &first).await.unwrap();
    assert_eq!(site.value("deployment/delay-ml", limit), "256Mi");
    assert_eq!(answering_model(&later).await, Ok("model_v1".to_owned()));
}

// ----------------------------------------------------------------
// Releases that do not work: rolled back, with the reason.

/// Applies a release that works, then one that does not; answers the error of the second.
async fn refused(
    cluster: &dyn Cluster,
    good: &Release,
    bad: &Release,
    limit: Duration,
) -> delayd_core::error::PortError {
    apply(cluster, good).await.unwrap();
    let before = ready(cluster).await;
    let error = cluster.apply(bad, limit, &|_| ()).await.unwrap_err();
    assert_eq!(cluster.current().await.unwrap().as_ref(), Some(good));
    let names =
        |replicas: &[delayd_core::ports::Replica]| replicas.iter().map(|one| one.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&ready(cluster).await), names(&before), "the old replicas serve on, untouched");
    assert_eq!(answering_model(cluster).await, Ok(good.model.to_string()));
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_cannot_be_pulled_is_rolled_back_with_the_reason() {
    let Some(site) = Site::new("image") else { return };
    let (good, bad) = (site.release(1).await, site.missing_release(2).await);
    let error = refused(&site.open(), &good, &bad, Duration::from_secs(15)).await;
    assert_tells(&error, ErrorKind::NotFound, &["model_v2", "cannot be pulled", "not found", "model_v1 still serves"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_loop_is_rolled_back_before_the_deadline_with_code_and_log() {
    let Some(site) = Site::new("crash") else { return };
    let (good, bad) = (site.release(1).await, site.damaged_release(2).await);
    let begun = std::time::Instant::now();
    let error = refused(&site.open(), &good, &bad, Duration::from_secs(600)).await;
    eprintln!("a crash loop was rolled back {:?} after the good release was begun", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(300), "nobody waits for what crashed twice");
    let parts = ["exited with code 1", "2 times", "its last lines", "delayd-serve:", "model_v1 still serves"];
    assert_tells(&error, ErrorKind::Invalid, &parts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_node_has_room_for_is_reported_as_the_scheduler_says_it() {
    let Some(site) = Site::new("room") else { return };
    let good = site.release(1).await;
    let cluster = site.open();
    apply(&cluster, &good).await.unwrap();
    let greedy = site.open_with(|settings| settings.cpu_request = "1000".to_owned());
    let error = greedy.apply(&site.release(2).await, Duration::from_secs(5), &|_| ()).await.unwrap_err();
    assert_tells(&error, ErrorKind::Exhausted, &["cannot be scheduled", "Insufficient cpu", "model_v1 still serves"]);
    assert_eq!(answering_model(&cluster).await, Ok("model_v1".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_a_quota_forbids_are_reported() {
    let Some(site) = Site::new("quota") else { return };
    let cluster = site.open();
    apply(&cluster, &site.release(1).await).await.unwrap();
    site.kubectl(&["create", "quota", "small", "--hard=pods=2"]);
    until_true("the quota counts", async || site.value("resourcequota/small", ".status.used.pods") == "2").await;
    let error = cluster.apply(&site.release(2).await, Duration::from_secs(5), &|_| ()).await.unwrap_err();
    assert_tells(&error, ErrorKind::Exhausted, &["cannot be made", "exceeded quota", "model_v1 still serves"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_probe_is_reported_as_the_kubelet_says_it() {
    let Some(site) = Site::new("probe") else { return };
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/k8s/service/deployment.yaml")).unwrap();
    std::fs::write(site.folder.path().join("deployment.yaml"), text.replace("/health/ready", "/nowhere")).unwrap();
    let templates = site.folder.path().to_owned();
    let cluster = site.open_with(|settings| settings.templates_dir = templates);
    let error = cluster.apply(&site.release(1).await, Duration::from_secs(15), &|_| ()).await.unwrap_err();
    assert_tells(&error, ErrorKind::Timeout, &["runs and is not ready", "Readiness probe failed", "404"]);
    assert_eq!(cluster.current().await.unwrap(), None);
    assert_eq!(site.value("deployment/delay-ml", ".metadata.name"), "", "nothing of it is left");
    assert_eq!(site.value("service/delay-ml", ".metadata.name"), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_the_daemon_cannot_reach_is_reported_with_the_way_out() {
    let Some(site) = Site::new("unreachable") else { return };
    let cluster = site.open_with(|settings| settings.service_url = "http://127.0.0.1:1".to_owned());
    let error = cluster.apply(&site.release(1).await, Duration::from_secs(30), &|_| ()).await.unwrap_err();
    assert_tells(&error, ErrorKind::Timeout, &["does not answer", "api_proxy"]);
    assert_eq!(cluster.current().await.unwrap(), None);
}

// ----------------------------------------------------------------
// What breaks or is changed while nobody looks.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_killed_is_replaced_and_both_are_reported() {
    let Some(site) = Site::new("killed") else { return };
    let cluster = site.open();
    apply(&cluster, &site.release(1).await).await.unwrap();
    let victim = ready(&cluster).await.remove(0);
    let killed = std::time::Instant::now();
    site.kubectl(&["delete", "pod", &victim.name, "--grace-period=0", "--force", "--wait=false"]);
    until_true("another pod is ready", async || {
        let now = ready(&cluster).await;
        now.len() == 2 && now.iter().all(|replica| replica.name != victim.name)
    })
    .await;
    eprintln!("a killed pod was replaced and ready after {:?}", killed.elapsed());
    assert_eq!(cluster.reconcile().await.unwrap(), Vec::<String>::new(), "the cluster did it by itself");
    assert_eq!(answering_model(&cluster).await, Ok("model_v1".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_died_in_the_middle_of_a_rollout_is_followed_by_one_that_continues() {
    let Some(site) = Site::new("died") else { return };
    let (first, second, third) = (site.release(1).await, site.release(2).await, site.release(3).await);
    let cluster = site.open();
    apply(&cluster, &first).await.unwrap();
    let (begun, wait) = tokio::sync::oneshot::channel();
    let begun = std::sync::Mutex::new(Some(begun));
    let tell = |_| begun.lock().unwrap().take().map_or((), |begun| begun.send(()).unwrap_or(()));
    // Dropped as soon as it is under way, as by a crash.
    tokio::select! {
        _ = cluster.apply(&second, PATIENCE, &tell) => panic!("it was to be interrupted"),
        _ = wait => {}
    }
    drop(cluster);

    let cluster = site.open();
    assert_eq!(cluster.current().await.unwrap().as_ref(), Some(&first), "what became ready last");
    apply(&cluster, &second).await.unwrap();
    assert_eq!(cluster.current().await.unwrap().as_ref(), Some(&second));

    // A rollout that nobody repeats is ended by reconciliation.
    let interrupted = tokio::time::timeout(Duration::from_secs(1), apply(&cluster, &third)).await;
    assert!(interrupted.is_err());
    drop(cluster);
    let cluster = site.open();
    until_true("it has become ready", async || {
        assert_eq!(cluster.reconcile().await.unwrap(), Vec::<String>::new());
        cluster.current().await.unwrap().as_ref() == Some(&third)
    })
    .await;
    assert_eq!(answering_model(&cluster).await, Ok("model_v3".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_rollout_that_nobody_continues_is_undone() {
    let Some(site) = Site::new("undone") else { return };
    let (good, bad) = (site.release(1).await, site.damaged_release(2).await);
    let cluster = site.open();
    apply(&cluster, &good).await.unwrap();
    let interrupted = tokio::time::timeout(Duration::from_secs(1), apply(&cluster, &bad)).await;
    assert!(interrupted.is_err());
    drop(cluster);
    let cluster = site.open();
    until_true("the broken pods are gone", async || {
        cluster.reconcile().await.unwrap();
        let all = cluster.replicas().await.unwrap();
        all.len() == 2 && all.iter().all(|replica| replica.deployment == good.deployment)
    })
    .await;
    assert_eq!(cluster.current().await.unwrap().as_ref(), Some(&good));
    assert_eq!(answering_model(&cluster).await, Ok("model_v1".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_changes_or_deletes_is_noticed_reported_and_put_right() {
    let Some(site) = Site::new("drift") else { return };
    let cluster = site.open();
    let release = site.release(1).await;
    apply(&cluster, &release).await.unwrap();
    assert_eq!(cluster.reconcile().await.unwrap(), Vec::<String>::new());

    site.kubectl(&["scale", "deployment/delay-ml", "--replicas=1"]);
    let told = cluster.reconcile().await.unwrap();
    assert!(told.len() == 1 && told[0].contains("spec.replicas (1, is 2 again)"), "{told:?}");
    assert_eq!(site.value("deployment/delay-ml", ".spec.replicas"), "2");

    site.kubectl(&[
        "patch",
        "service/delay-ml",
        "--type=merge",
        "-p",
        r#"{"spec":{"selector":{"delayd.dev/service":"x"}}}"#,
    ]);
    let told = cluster.reconcile().await.unwrap();
    assert!(told.len() == 1 && told[0].starts_with("Service delay-ml was changed"), "{told:?}");

    site.kubectl(&["delete", "service/delay-ml", "configmap/delay-ml-release-1"]);
    let told = cluster.reconcile().await.unwrap().join("\n");
    assert!(told.contains("Service delay-ml was gone") && told.contains("manifests kept of deployment_1"), "{told}");

    site.kubectl(&["delete", "configmap/delay-ml-delayd"]);
    let told = cluster.reconcile().await.unwrap().join("\n");
    assert!(told.contains("record of service delay-ml was gone"), "{told}");
    assert_eq!(cluster.current().await.unwrap().as_ref(), Some(&release));

    site.kubectl(&["delete", "deployment/delay-ml", "service/delay-ml", "configmap/delay-ml-delayd"]);
    let told = cluster.reconcile().await.unwrap().join("\n");
    assert!(told.contains("Deployment delay-ml was gone"), "{told}");
    until_true("it serves again", async || {
        assert_eq!(cluster.reconcile().await.unwrap(), Vec::<String>::new());
        ready(&cluster).await.len() == 2 && answering_model(&cluster).await == Ok("model_v1".to_owned())
    })
    .await;
    assert_eq!(cluster.current().await.unwrap().as_ref(), Some(&release));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_that_delayd_does_not_set_are_left_to_others() {
    let Some(site) = Site::new("others") else { return };
    let cluster = site.open();
    apply(&cluster, &site.release(1).await).await.unwrap();
    site.kubectl(&["annotate", "deployment/delay-ml", "team=flights"]);
    site.kubectl(&["label", "service/delay-ml", "scrape=yes"]);
    assert_eq!(cluster.reconcile().await.unwrap(), Vec::<String>::new());
    apply(&cluster, &site.release(2).await).await.unwrap();
    assert_eq!(site.value("deployment/delay-ml", ".metadata.annotations.team"), "flights");
}

// ----------------------------------------------------------------
// Whose service it is.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_daemon_is_refused_until_the_service_is_handed_over() {
    let Some(site) = Site::new("owner") else { return };
    let (ours, theirs) = (site.open(), site.open_as("other-state", site.settings()));
    let (first, second) = (site.release(1).await, site.release(2).await);
    apply(&ours, &first).await.unwrap();
    let errors = [
        apply(&theirs, &second).await.unwrap_err(),
        theirs.current().await.map(|_| ()).unwrap_err(),
        theirs.reconcile().await.map(|_| ()).unwrap_err(),
        theirs.tear_down().await.unwrap_err(),
        theirs.probe().await.map(|_| ()).unwrap_err(),
    ];
    for error in &errors {
        assert_tells(error, ErrorKind::Conflict, &["belongs to the daemon", "kubectl patch configmap delay-ml-delayd"]);
    }
    assert_eq!(ready(&ours).await.len(), 2, "nothing was touched");
    // The error names the command that hands it over.
    let text = errors[0].to_string();
    let patch = text.split("-p '").nth(1).unwrap().split('\'').next().unwrap();
    site.kubectl(&["patch", "configmap", "delay-ml-delayd", "--type", "merge", "-p", patch]);
    // Its name was made by the first attempt.
    apply(&theirs, &second).await.unwrap();
    assert_eq!(apply(&ours, &first).await.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_s_deployment_is_never_taken_over() {
    let Some(site) = Site::new("stranger") else { return };
    site.apply_yaml(
        "---\n{apiVersion: apps/v1, kind: Deployment, metadata: {name: delay-ml}, spec: {replicas: 0, \
         selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: c}]}}}}",
    );
    let cluster = site.open();
    let error = apply(&cluster, &site.release(1).await).await.unwrap_err();
    assert_tells(&error, ErrorKind::Conflict, &["Deployment delay-ml already", "did not make"]);
    assert_eq!(cluster.tear_down().await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(cluster.reconcile().await.unwrap(), Vec::<String>::new());
    assert_eq!(site.value("deployment/delay-ml", ".spec.template.spec.containers[0].image"), "c");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_s_service_is_neither_changed_nor_deleted() {
    let Some(site) = Site::new("service") else { return };
    site.kubectl(&["create", "service", "clusterip", "delay-ml", "--tcp=5678:80"]);
    let cluster = site.open();
    let error = apply(&cluster, &site.release(1).await).await.unwrap_err();
    assert_tells(&error, ErrorKind::Conflict, &["Service delay-ml", "delayd did not make it"]);
    assert_eq!(site.value("service/delay-ml", ".spec.ports[0].port"), "5678");
    assert_eq!(site.value("deployment/delay-ml", ".metadata.name"), "");
    assert_eq!(cluster.current().await.unwrap(), None);
}
