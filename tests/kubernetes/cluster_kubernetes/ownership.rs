//! Whose service it is.

use delayd_core::error::ErrorKind;
use delayd_core::ports::Cluster;

use crate::cluster_kubernetes::assert_tells;
use delayd_testkit::cluster::Site;
use delayd_testkit::contracts::cluster::{apply, ready};

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
