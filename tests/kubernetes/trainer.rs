//! Training as Jobs of a real Kubernetes: pods of the daemon's own image, with the
//! rights that are shipped and no more. Needs what `cluster::Site` needs, and skopeo;
//! says SKIPPED without. Pods and this test share a folder store on the node, so the
//! cluster must run on this machine.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ids::{Digest, RunId};
use delayd_outside::cloud::kubernetes_trainer::{self, KubernetesTrainerSettings};
use delayd_testkit::cluster;
use delayd_testkit::cluster::{Gate, GateState, Site};
use delayd_testkit::contracts::trainer::{keeps_the_whole_contract, trained};
use delayd_testkit::contracts::training_world::{World, endless, quick_search};
use delayd_testkit::contracts::{daemon_image, training_world};
use delayd_testkit::tools::{assert_error, until_true};
use delayd_training_job::tune::TrialOutcome;
use delayd_training_job::{Progress, Trainer, TrainingControl, TrainingJob, TrainingParameters};
use nix::sys::stat::{Mode, umask};

/// A namespace, a world on the node's disk, and the image.
struct Field {
    site: Site,
    world: World,
    image: String,
    kubeconfig: std::path::PathBuf,
}

impl Field {
    /// `short` names the namespace, whose name has an end.
    async fn new(test: &str, short: &str) -> Option<Self> {
        // Pods write beside what this test writes, and neither is root to the other.
        umask(Mode::empty());
        let site = Site::new(short)?;
        let service = cluster::service_binary()?;
        let image = daemon_image::pushed(test, &site.registry, &service)?;
        let world = World::new().await;
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(world.place.path(), open).unwrap();
        let kubeconfig = shipped_rights(&site);
        Some(Self { site, world, image, kubeconfig })
    }

    fn settings(&self) -> KubernetesTrainerSettings {
        KubernetesTrainerSettings {
            image: self.image.clone(),
            cpu: "50m".to_owned(),
            memory: "2Gi".to_owned(),
            scratch: "200Mi".to_owned(),
            parallel_trials: 3,
            retries: 1,
            poll_secs: 1,
            start_deadline_secs: 120,
            deadline_secs: 600,
            store_host_path: self.world.store_dir(),
            ..KubernetesTrainerSettings::default()
        }
    }

    fn trainer_with(&self, change: impl FnOnce(&mut KubernetesTrainerSettings)) -> Box<dyn Trainer> {
        let mut settings = self.settings();
        change(&mut settings);
        self.trainer_via(&settings, self.kubeconfig.clone())
    }

    fn trainer_via(&self, settings: &KubernetesTrainerSettings, kubeconfig: std::path::PathBuf) -> Box<dyn Trainer> {
        let faults = settings.faults();
        assert!(faults.is_empty(), "{faults:?}");
        let cluster = delayd_outside::cloud::kubernetes::KubernetesSettings { kubeconfig, ..self.site.settings() };
        Box::new(kubernetes_trainer::open(settings, &cluster, self.world.store.clone()).unwrap())
    }

    fn trainer(&self) -> Box<dyn Trainer> {
        self.trainer_with(|_| ())
    }

    fn jobs(&self) -> Vec<String> {
        let names = self.site.kubectl(&["get", "jobs", "-o", "jsonpath={.items[*].metadata.name}"]);
        names.split_whitespace().map(str::to_owned).collect()
    }

    async fn refused(&self, trainer: &dyn Trainer, job: &TrainingJob) -> (PortError, Vec<Progress>) {
        let news: Arc<Mutex<Vec<Progress>>> = Arc::default();
        let heard = news.clone();
        let control = TrainingControl::new(Arc::default(), move |news| heard.lock().unwrap().push(news.clone()));
        let error = match trainer.train(job, &control).await {
            Ok(result) => panic!("it was trained: {}", result.bundle),
            Err(error) => error,
        };
        eprintln!("{error}");
        let news = news.lock().unwrap().clone();
        (error, news)
    }
}

/// Credentials of a service account that may do what `k8s/daemon/base` grants for training.
fn shipped_rights(site: &Site) -> std::path::PathBuf {
    let read = |path: &str| std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    for path in ["k8s/rbac/service-account.yaml", "k8s/daemon/base/training-role.yaml"] {
        site.apply_yaml(&read(path).replace("namespace: delayd", &format!("namespace: {}", site.namespace)));
    }
    site.kubeconfig_with_token("training", &site.token())
}

#[tokio::test]
async fn jobs_of_a_cluster_keep_the_contract() {
    let Some(field) = Field::new("jobs_of_a_cluster_keep_the_contract", "jobs_contract").await else { return };
    let found = field.trainer().probe().await.unwrap();
    assert!(found.contains(&field.site.namespace) && found.contains(&field.image), "{found}");
    assert!(field.jobs().is_empty(), "probing made a Job: {:?}", field.jobs());
    keeps_the_whole_contract(&field.world, &|| field.trainer()).await;
    assert!(field.jobs().is_empty(), "Jobs are left: {:?}", field.jobs());
}

#[tokio::test]
async fn a_gpu_that_no_node_has_is_reported_in_the_schedulers_words() {
    let Some(field) = Field::new("a_gpu_that_no_node_has_is_reported_in_the_schedulers_words", "jobs_gpu").await else {
        return;
    };
    let trainer = field.trainer_with(|settings| {
        settings.gpus = 1;
        settings.start_deadline_secs = 4;
    });
    let (error, news) = field.refused(trainer.as_ref(), &field.world.job).await;
    assert_error(&error, ErrorKind::Timeout, &["Unschedulable", "nvidia.com/gpu"]);
    let waiting = |news: &Progress| matches!(news, Progress::Waiting { what } if what.contains("nvidia.com/gpu"));
    assert!(news.iter().any(waiting), "{news:?}");
    assert!(field.jobs().is_empty(), "what was given up must not start later: {:?}", field.jobs());

    let nowhere = field.trainer_with(|settings| {
        settings.node_selector.insert("delayd.dev/hall".to_owned(), "nowhere".to_owned());
        settings.start_deadline_secs = 4;
    });
    let (error, _) = field.refused(nowhere.as_ref(), &field.world.job).await;
    assert_error(&error, ErrorKind::Timeout, &["node"]);
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_is_reported() {
    let Some(field) = Field::new("an_image_that_cannot_be_pulled_is_reported", "jobs_image").await else { return };
    let trainer = field.trainer_with(|settings| {
        let (repository, _) = settings.image.rsplit_once('@').unwrap();
        settings.image = format!("{repository}@{}", Digest::of(b"nowhere"));
        settings.start_deadline_secs = 8;
    });
    let (error, _) = field.refused(trainer.as_ref(), &field.world.job).await;
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    let text = error.to_string();
    assert!(text.contains("ImagePull") && text.contains(Digest::of(b"nowhere").hex()), "{text}");
    assert!(field.jobs().is_empty());
}

#[tokio::test]
async fn a_pod_that_ran_out_of_memory_is_reported_and_a_trial_that_did_has_lost() {
    let Some(field) =
        Field::new("a_pod_that_ran_out_of_memory_is_reported_and_a_trial_that_did_has_lost", "jobs_memory").await
    else {
        return;
    };
    let trainer = field.trainer_with(|settings| {
        settings.memory = "40Mi".to_owned();
        settings.retries = 0;
    });
    let (error, _) = field.refused(trainer.as_ref(), &field.world.job).await;
    assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
    let text = error.to_string();
    assert!(text.contains("OOMKilled") && text.contains("137") && text.contains("trainer.kubernetes.memory"), "{text}");
    assert_eq!(field.jobs(), ["delayd-run-7-training"], "the Job stays for people to look at");
    // With room again, the same run is asked for again and the failed Job replaced.
    trained(&field.world, field.trainer().as_ref(), &field.world.job).await;

    // All trials are lost in pods that small: what is in use stays in use.
    let mut search = quick_search();
    search.trials = 2;
    let job = TrainingJob { run: RunId(8), tuning: Some(search), ..field.world.job.clone() };
    let (error, _) = field.refused(trainer.as_ref(), &job).await;
    assert_eq!(error.kind(), ErrorKind::Exhausted, "the training itself has no room either: {error}");
    let result = trained(&field.world, field.trainer().as_ref(), &job).await;
    let report = result.report.tuning.unwrap();
    assert_eq!((report.best_trial, report.trials.len()), (0, 2));
    for trial in &report.trials {
        assert!(matches!(&trial.outcome, TrialOutcome::Failed { reason } if reason.contains("memory")), "{trial:?}");
    }
}

#[tokio::test]
async fn a_job_is_found_again_after_the_daemon_died_and_is_stopped_when_the_run_is_discarded() {
    let test = "a_job_is_found_again_after_the_daemon_died_and_is_stopped_when_the_run_is_discarded";
    let Some(field) = Field::new(test, "jobs_found").await else { return };
    let job = TrainingJob { run: RunId(5), ..endless(&field.world.job) };
    let start = |trainer: Box<dyn Trainer>| {
        let job = job.clone();
        tokio::spawn(async move { trainer.train(&job, &TrainingControl::default()).await.map(|_| ()) })
    };
    let ready = async || field.site.value("job/delayd-run-5-training", ".status.active") == "1";
    let first = start(field.trainer());
    until_true("the Job runs", ready).await;
    let uid = field.site.value("job/delayd-run-5-training", ".metadata.uid");
    first.abort();
    let second = start(field.trainer());
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(field.site.value("job/delayd-run-5-training", ".metadata.uid"), uid, "another Job was made");
    assert!(!second.is_finished());
    second.abort();
    field.trainer().forget(RunId(5)).await.unwrap();
    assert!(field.jobs().is_empty());
    let pods = field.site.kubectl(&["get", "pods", "-o", "name"]);
    assert!(pods.trim().is_empty(), "{pods}");
    assert!(training_world::listed(field.world.store.as_ref(), "training-jobs/").await.is_empty());
}

#[tokio::test]
async fn an_api_server_that_is_unavailable_for_a_while_costs_no_training() {
    let Some(field) =
        Field::new("an_api_server_that_is_unavailable_for_a_while_costs_no_training", "jobs_outage").await
    else {
        return;
    };
    let gate = Gate::before(field.site.api_server()).await;
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(&field.kubeconfig).unwrap()).unwrap();
    let mut config = config;
    config["clusters"][0]["cluster"]["server"] = format!("https://{}", gate.address).into();
    let kubeconfig = field.site.folder.path().join("through-the-gate");
    std::fs::write(&kubeconfig, config.to_string()).unwrap();
    let parameters =
        TrainingParameters { batch_size: 16, max_epochs: 40, patience: 40, ..field.world.job.parameters.clone() };
    let job = TrainingJob { parameters, ..field.world.job.clone() };
    let trainer = field.trainer_via(&field.settings(), kubeconfig);
    let outage = async {
        until_true("the Job runs", async || field.site.value("job/delayd-run-7-training", ".status.active") == "1")
            .await;
        gate.set(GateState::Shut);
        // Until the training is over: its result waits in the object store.
        until_true("the pod has ended", async || {
            field.site.value("job/delayd-run-7-training", ".status.succeeded") == "1"
        })
        .await;
        gate.set(GateState::Open);
    };
    // As the saga does: an outage that outlasts the adapter's own patience is asked about again.
    let asked_again = async {
        loop {
            match trainer.train(&job, &TrainingControl::default()).await {
                Err(error) if error.kind().is_outage() => tokio::time::sleep(Duration::from_millis(200)).await,
                ended => return ended,
            }
        }
    };
    let (result, ()) = tokio::join!(asked_again, outage);
    let result = result.unwrap();
    assert_eq!(result.bundle, trained(&field.world, &field.world.process_trainer(), &job).await.bundle);
    assert_eq!(field.jobs(), ["delayd-run-7-training"]);
    assert_eq!(field.site.value("job/delayd-run-7-training", ".status.succeeded"), "1");
    trainer.forget(job.run).await.unwrap();
}

#[tokio::test]
async fn missing_rights_are_reported_by_the_probe() {
    let Some(field) = Field::new("missing_rights_are_reported_by_the_probe", "jobs_rights").await else { return };
    field.site.kubectl(&["delete", "rolebinding", "delayd-training"]);
    let error = field.trainer().probe().await.unwrap_err();
    assert_error(&error, ErrorKind::Denied, &["jobs"]);
}
