//! `delayd-train`, as a cluster runs it and as the daemon does.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use delayd_testkit::contracts;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use contracts::trainer::worker_command;
use contracts::trainer::{PATIENCE, nonsense};
use contracts::training_world::{World, endless};
use delayd_core::ids::TraceId;
use delayd_training_job::documents::{FailureDocument, Work, WorkDocument, WorkPart, WorkResult, get_json};

struct Site {
    world: World,
    config: PathBuf,
}

impl Site {
    async fn new() -> Self {
        let world = World::new().await;
        let config = world.place.path().join("worker.toml");
        let store = world.store_dir();
        std::fs::write(&config, format!("[object_store]\nfolder = {:?}\n", store.to_str().unwrap())).unwrap();
        Self { world, config }
    }

    async fn document(&self) -> Work {
        let document = WorkDocument::new(self.world.job.clone(), WorkPart::Whole);
        document.store(self.world.store.as_ref()).await.unwrap()
    }

    async fn worker(&self, key: &str) -> Output {
        let mut command = worker_command();
        command.arg("--config").arg(&self.config).args(["--job", key]);
        command.env("TRACEPARENT", TraceId::of("cycle_1").traceparent("train"));
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }
}

/// Exit status and the line that says what was wrong.
fn failed(output: &Output) -> (Option<i32>, String) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let line =
        text.lines().find(|line| line.starts_with("delayd-train: ")).unwrap_or_else(|| panic!("no reason in {text}"));
    (output.status.code(), line.to_owned())
}

#[tokio::test]
async fn a_worker_writes_its_result_once_and_a_second_one_finds_it() {
    let site = Site::new().await;
    let work = site.document().await;
    let first = site.worker(&work.document_key()).await;
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    assert!(String::from_utf8_lossy(&first.stdout).contains("is done"));
    let log = String::from_utf8_lossy(&first.stderr);
    let begins = log.lines().find(|line| line.contains("the work begins")).unwrap_or_else(|| panic!("{log}"));
    assert!(begins.contains(&TraceId::of("cycle_1").to_string()) && begins.contains("run_7"), "{begins}");
    let store = site.world.store.as_ref();
    let objects = store.list("training-jobs/").await.unwrap();
    let second = site.worker(&work.document_key()).await;
    assert!(second.status.success() && String::from_utf8_lossy(&second.stdout).contains("was done already"));
    assert_eq!(store.list("training-jobs/").await.unwrap(), objects, "the second worker wrote something");
    let result: WorkResult = get_json(store, &work.result_key()).await.unwrap().unwrap();
    let WorkResult::Trained { bundle, .. } = result else { panic!("{result:?}") };
    let manifest = format!("{}manifest.json", work.bundle_prefix(&bundle));
    assert!(objects.iter().any(|object| object.key == manifest), "{objects:?}");
}

#[tokio::test]
async fn a_wrong_document_is_refused_by_its_key_with_what_was_expected() {
    let site = Site::new().await;
    let store = site.world.store.as_ref();
    let (status, line) = failed(&site.worker("flights/2013-01.csv").await);
    assert_eq!(status, Some(2), "{line}");
    assert!(line.contains("flights/2013-01.csv") && line.contains("training-jobs/run_7/"), "{line}");

    let missing = "training-jobs/run_7/training-0123456789ab/job.json";
    let (status, line) = failed(&site.worker(missing).await);
    assert_eq!(status, Some(4), "{line}");
    assert!(line.contains(missing), "{line}");

    let work = site.document().await;
    let whole = store.get(&work.document_key()).await.unwrap();
    store.put(&work.document_key(), nonsense()).await.unwrap();
    let (status, line) = failed(&site.worker(&work.document_key()).await);
    assert_eq!(status, Some(2), "{line}");
    assert!(line.contains("digest"), "{line}");
    let told: FailureDocument = get_json(store, &work.failure_key()).await.unwrap().unwrap();
    assert!(line.contains(&told.message), "{told:?}");

    // Written by another build of delayd.
    let version = format!("\"version\": \"{}\"", env!("CARGO_PKG_VERSION"));
    let other = String::from_utf8(whole.to_vec()).unwrap().replace(&version, "\"version\": \"99.0.0\"");
    let key =
        format!("training-jobs/run_7/training-{}/job.json", delayd_core::ids::Digest::of(other.as_bytes()).short());
    store.put(&key, other.into()).await.unwrap();
    let (status, line) = failed(&site.worker(&key).await);
    assert_eq!(status, Some(2), "{line}");
    assert!(line.contains("99.0.0") && line.contains("image"), "{line}");
}

#[tokio::test]
async fn a_store_that_cannot_be_opened_is_named() {
    let site = Site::new().await;
    let blocked = site.world.place.path().join("file");
    std::fs::write(&blocked, "no folder").unwrap();
    std::fs::write(&site.config, format!("[object_store]\nfolder = {:?}\n", blocked.to_str().unwrap())).unwrap();
    let (_, line) = failed(&site.worker("training-jobs/run_7/training-0123456789ab/job.json").await);
    assert!(line.contains(blocked.to_str().unwrap()), "{line}");
}

#[tokio::test]
async fn a_worker_whose_daemon_is_gone_stops_and_leaves_no_temporary_files() {
    let site = Site::new().await;
    let store = site.world.store.as_ref();
    let document = WorkDocument::new(endless(&site.world.job), WorkPart::Whole);
    let work = document.store(store).await.unwrap();
    let scratch = site.world.place.path().join("scratch");
    let mut command = worker_command();
    command.args(["--settings-from-stdin", "--job", &work.document_key(), "--scratch"]).arg(&scratch);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let settings = serde_json::json!({ "object_store": { "folder": site.world.store_dir() } });
    writeln!(stdin, "{settings}").unwrap();
    let began = Instant::now();
    while store.get(&work.progress_key()).await.is_err() {
        assert!(began.elapsed() < PATIENCE && child.try_wait().unwrap().is_none(), "it does not begin");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(child.try_wait().unwrap().is_none(), "it ended although its daemon is there");

    drop(stdin);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(began.elapsed() < PATIENCE, "it goes on although nobody waits for it");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(status.code(), Some(143));
    assert!(get_json::<WorkResult>(store, &work.result_key()).await.unwrap().is_none());
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0, "temporary files are left");
}
