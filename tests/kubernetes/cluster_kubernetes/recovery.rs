//! What breaks or is changed while nobody looks.

use std::time::Duration;

use delayd_core::ports::Cluster;

use delayd_testkit::cluster::{PATIENCE, Site, answering_model, until};
use delayd_testkit::contracts::cluster::{apply, ready};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_killed_is_replaced_and_both_are_told() {
    let Some(site) = Site::new("killed") else { return };
    let cluster = site.open();
    apply(&cluster, &site.release(1).await).await.unwrap();
    let victim = ready(&cluster).await.remove(0);
    let killed = std::time::Instant::now();
    site.kubectl(&["delete", "pod", &victim.name, "--grace-period=0", "--force", "--wait=false"]);
    until("another pod is ready", async || {
        let now = ready(&cluster).await;
        now.len() == 2 && now.iter().all(|replica| replica.name != victim.name)
    })
    .await;
    eprintln!("a killed pod was replaced and ready after {:?}", killed.elapsed());
    assert_eq!(cluster.reconcile().await.unwrap(), Vec::<String>::new(), "the cluster did it by itself");
    assert_eq!(answering_model(&cluster).await, Ok("model_v1".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_died_in_the_middle_of_a_rollout_is_followed_by_one_that_goes_on() {
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
    until("it has become ready", async || {
        assert_eq!(cluster.reconcile().await.unwrap(), Vec::<String>::new());
        cluster.current().await.unwrap().as_ref() == Some(&third)
    })
    .await;
    assert_eq!(answering_model(&cluster).await, Ok("model_v3".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_rollout_that_nobody_goes_on_with_is_undone() {
    let Some(site) = Site::new("undone") else { return };
    let (good, bad) = (site.release(1).await, site.damaged_release(2).await);
    let cluster = site.open();
    apply(&cluster, &good).await.unwrap();
    let interrupted = tokio::time::timeout(Duration::from_secs(1), apply(&cluster, &bad)).await;
    assert!(interrupted.is_err());
    drop(cluster);
    let cluster = site.open();
    until("the broken pods are gone", async || {
        cluster.reconcile().await.unwrap();
        let all = cluster.replicas().await.unwrap();
        all.len() == 2 && all.iter().all(|replica| replica.deployment == good.deployment)
    })
    .await;
    assert_eq!(cluster.current().await.unwrap().as_ref(), Some(&good));
    assert_eq!(answering_model(&cluster).await, Ok("model_v1".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_changes_or_deletes_is_noticed_told_and_put_right() {
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
    until("it serves again", async || {
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
