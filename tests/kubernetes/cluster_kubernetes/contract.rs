//! The contract of the port, and what a release consists of.

use std::time::{Duration, Instant};

use delayd_core::ports::{Cluster, ReplicaState};
use delayd_outside::cloud::kubernetes::ServiceObject;

use delayd_testkit::cluster::{Site, answering_model, in_state, prediction, through_the_api_server};
use delayd_testkit::contracts::cluster::{apply, keeps_the_whole_contract, ready, rolls_without_losing_a_request};

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
