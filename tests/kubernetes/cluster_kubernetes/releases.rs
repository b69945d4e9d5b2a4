//! Releases that do not work: rolled back, with the reason.

use std::time::Duration;

use delayd_core::error::ErrorKind;
use delayd_core::ports::{Cluster, Release};

use crate::cluster_kubernetes::assert_tells;
use delayd_testkit::cluster::{Site, answering_model, until};
use delayd_testkit::contracts::cluster::{apply, ready};

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
async fn what_no_node_has_room_for_is_told_as_the_scheduler_says_it() {
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
async fn pods_that_a_quota_forbids_are_told() {
    let Some(site) = Site::new("quota") else { return };
    let cluster = site.open();
    apply(&cluster, &site.release(1).await).await.unwrap();
    site.kubectl(&["create", "quota", "small", "--hard=pods=2"]);
    until("the quota counts", async || site.value("resourcequota/small", ".status.used.pods") == "2").await;
    let error = cluster.apply(&site.release(2).await, Duration::from_secs(5), &|_| ()).await.unwrap_err();
    assert_tells(&error, ErrorKind::Exhausted, &["cannot be made", "exceeded quota", "model_v1 still serves"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_probe_is_told_as_the_kubelet_says_it() {
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
async fn a_service_that_the_daemon_cannot_reach_is_told_with_the_way_out() {
    let Some(site) = Site::new("unreachable") else { return };
    let cluster = site.open_with(|settings| settings.service_url = "http://127.0.0.1:1".to_owned());
    let error = cluster.apply(&site.release(1).await, Duration::from_secs(30), &|_| ()).await.unwrap_err();
    assert_tells(&error, ErrorKind::Timeout, &["does not answer", "api_proxy"]);
    assert_eq!(cluster.current().await.unwrap(), None);
}
