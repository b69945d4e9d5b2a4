//! The build as a step of a cycle: a real daemon drives a cycle whose model is
//! registered already, and builds, packages and pushes its service.

use std::path::Path;
use std::sync::Arc;

use delayd::config::Settings;
use delayd::cycle::steps::BUILD;
use delayd::daemon::{Daemon, ledger_path};
use delayd::http::{Access, ApiState, Listeners, Metrics, Streams, serve};
use delayd::stages::image_export::ImageExport;
use delayd::stages::package::{
    BuildService, ModelPackaged, PackageModel, PackagingStage, PushImage, ServiceBuilt, WithdrawImage,
};
use delayd::supervision::{Supervision, SupervisionPolicy};
use delayd_core::clock::SystemClock;
use delayd_core::error::ErrorKind;
use delayd_core::failure::StepFailure;
use delayd_core::ids::{Digest, ModelVersion};
use delayd_ledger::{Cycle, CycleOutcome, CycleState, Ledger, LineageKind, StepState};
use delayd_outside::bundles::BundleStore;
use delayd_outside::packaging::oci::{Layout, Manifest};
use delayd_outside::packaging::{Builds, SourceSettings};
use delayd_testkit::ci;
use delayd_testkit::ci::ServerProcess;
use delayd_testkit::ci::{ServiceRepository, is_alive, makes_a_binary, private_folder, script_settings};
use delayd_testkit::contracts::flaky_proxy::{FlakyProxy, Mood};
use delayd_testkit::contracts::layouts;
use delayd_testkit::cycle_world::{Material, alerts, at, cycle_until, ended_with, step};
use delayd_testkit::tools::{Silent, in_system, until};

/// Settings of a daemon that tries again quickly and deploys nothing that runs.
fn settings(place: &Path, source: SourceSettings) -> Settings {
    let mut settings = Settings::default();
    settings.daemon.state_dir = place.join("state");
    settings.daemon.step_attempts = 2;
    settings.daemon.step_retry_secs = 0.05;
    settings.cluster.replicas = 1;
    settings.cluster.ready_deadline_secs = 2;
    settings.packaging.source = source;
    settings.packaging.service_binary = place.join("at-hand");
    layouts::write_static_binary(&settings.packaging.service_binary);
    settings
}

/// Begins a cycle in a ledger of its own, and does everything up to the registration of its model: the cycle, its
/// bundle and its dataset.
async fn registered(settings: &Settings) -> (Cycle, Digest, Digest) {
    let state = &settings.daemon.state_dir;
    let folder = state.join("being-written");
    let (bundle, dataset) = (layouts::write_bundle(&folder, b"model_v1"), Digest::of(b"manifest"));
    let kept = BundleStore::new(state.join("bundles")).path_of(&bundle);
    std::fs::create_dir_all(kept.parent().unwrap()).unwrap();
    std::fs::rename(&folder, &kept).unwrap();
    let ledger = Ledger::open(&ledger_path(state)).unwrap();
    let material = Material { bundle: bundle.clone(), dataset: dataset.clone(), as_of: at(0) };
    (cycle_until(&ledger, state, material, "register").await.cycle, bundle, dataset)
}

fn start(settings: Settings) -> Daemon {
    Daemon::start(settings, Arc::new(SystemClock), Arc::new(Silent), |_| ()).unwrap()
}

/// Has the daemon continue what is unfinished; its actors may only be starting.
async fn resume(daemon: &Daemon) {
    until("the daemon's actors run", || async { daemon.resume().await.ok() }).await;
}

/// The body of the alert with this title, if there is one.
async fn alert(daemon: &Daemon, title: &str) -> Option<String> {
    let all = alerts(&daemon.env.ledger).await;
    all.into_iter().find(|(_, other, _)| other == title).map(|(.., body)| body)
}

/// The status endpoint of a daemon, and its address.
fn endpoint(daemon: &Daemon) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/api/v1", listener.local_addr().unwrap());
    let state = ApiState {
        env: daemon.env.clone(),
        settings: daemon.settings.clone(),
        coordinator: daemon.coordinator.clone(),
        supervision: daemon.supervision().clone(),
        metrics: Metrics::new(&daemon.settings).unwrap(),
        access: Arc::new(Access::new(daemon.settings.http.clone())),
        streams: Streams::default(),
    };
    let mut listeners = Listeners { tcp: listener, tls: None, local: None };
    actix_web::rt::spawn(serve(state, &mut listeners).unwrap());
    url
}

async fn get(url: &str) -> (u16, String) {
    let answer = crate::http_api::client().get(url).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[test]
fn a_failed_build_ends_the_cycle_cleanly_and_its_last_lines_are_in_the_alert() {
    in_system(async {
        let place = ci::private_folder();
        let script = "echo compiling\necho 'error: the encoder is not there' >&2\nexit 4\n";
        let (repository, commit) = ServiceRepository::script(&place.path().join("service"), script);
        let settings = settings(place.path(), script_settings(&repository.url()));
        let (cycle, ..) = registered(&settings).await;
        let daemon = start(settings);
        resume(&daemon).await;
        let ended = ended_with(&daemon, cycle.id, CycleOutcome::Failed).await;
        for part in [&commit[..12], "exit status 4", "error: the encoder is not there", "build.log"] {
            assert!(ended.detail.contains(part), "{part} is not in {}", ended.detail);
        }
        let ledger = &daemon.env.ledger;
        let build = step(ledger, cycle.id, "build").await.unwrap();
        // Not tried again: it would fail the same way.
        assert_eq!((build.state, build.attempt, build.position), (StepState::Failed, 1, BUILD.position));
        assert!(build.error.unwrap().contains("the encoder is not there"));
        assert_eq!(step(ledger, cycle.id, "register").await.unwrap().state, StepState::Undone);
        assert!(step(ledger, cycle.id, "package").await.is_none());
        let body = alert(&daemon, "cycle_1 failed and was undone").await.unwrap();
        assert!(body.contains("error: the encoder is not there"), "{body}");

        let url = endpoint(&daemon);
        let (status, log) = get(&format!("{url}/cycles/cycle_1/build-log")).await;
        assert_eq!(status, 200);
        assert!(log.contains("$ nice -n 10 sh build.sh") && log.contains("the encoder is not there"), "{log}");
        let (_, last) = get(&format!("{url}/cycles/cycle_1/build-log?lines=1")).await;
        assert_eq!(last.lines().count(), 1, "{last}");
        let (status, problem) = get(&format!("{url}/cycles/cycle_7/build-log")).await;
        assert!(status == 404 && problem.contains("cycle_7 has no build log"), "{status} {problem}");
        let (status, problem) = get(&format!("{url}/image")).await;
        assert!(status == 404 && problem.contains("a pushed image"), "{status} {problem}");
    });
}

#[test]
fn a_cycle_waits_for_a_git_server_that_is_unavailable_and_continues_when_it_is_back() {
    in_system(async {
        let place = ci::private_folder();
        ServiceRepository::script(&place.path().join("root/service"), &makes_a_binary("one"));
        let server = ServerProcess::git_daemon(&place.path().join("root"));
        let proxy = FlakyProxy::before(server.address).await;
        proxy.set(Mood::Down);
        let source = script_settings(&format!("git://{}/service", proxy.address()));
        let settings = settings(place.path(), source);
        let state = settings.daemon.state_dir.clone();
        let (cycle, ..) = registered(&settings).await;
        let daemon = start(settings);
        resume(&daemon).await;
        until("the outage is told", || alert(&daemon, "cycle_1 is waiting at `build`")).await;
        proxy.set(Mood::Pass);
        let build = until("the build is done", || async {
            step(&daemon.env.ledger, cycle.id, "build").await.filter(|step| step.state == StepState::Done)
        })
        .await;
        assert!(build.attempt > 2, "{build:?}");
        until("the end of the outage is told", || alert(&daemon, "cycle_1 resumes after `build`")).await;
        // What passes for a service here does not run, so the release is taken back, and the rest with it.
        ended_with(&daemon, cycle.id, CycleOutcome::RolledBack).await;
        let of = |name: &'static str| step(&daemon.env.ledger, cycle.id, name);
        assert_eq!(of("push").await.unwrap().state, StepState::Undone);
        assert_eq!(daemon.env.ledger.standing_image(None).await.unwrap(), None);
        assert!(!state.join("image.json").exists(), "the withdrawn image is still exported");
    });
}

#[test]
fn a_daemon_that_stops_ends_its_build_and_leaves_the_cycle_to_the_next_start() {
    in_system(async {
        let place = ci::private_folder();
        let pid_file = place.path().join("pid");
        let script = format!("sleep 600 &\necho $! > {}\nwait\n", pid_file.display());
        let (repository, _) = ServiceRepository::script(&place.path().join("service"), &script);
        let settings = settings(place.path(), script_settings(&repository.url()));
        let state = settings.daemon.state_dir.clone();
        let (cycle, ..) = registered(&settings).await;
        let daemon = start(settings.clone());
        resume(&daemon).await;
        let pid = until("the build runs", || async {
            std::fs::read_to_string(&pid_file).ok().map(|pid| pid.trim().to_owned()).filter(|pid| !pid.is_empty())
        })
        .await;
        let told = until("its progress is told", || async {
            step(&daemon.env.ledger, cycle.id, "build").await.filter(|step| step.progress.starts_with("building "))
        })
        .await;
        assert_eq!(told.state, StepState::Running);
        drop(daemon);
        assert!(!is_alive(&pid));
        let ledger = until("the ledger is free", || async { Ledger::open(&ledger_path(&state)).ok() }).await;
        let left = ledger.cycle(cycle.id).await.unwrap().unwrap();
        assert_eq!(left.state, CycleState::Running, "{}", left.detail);
        assert_eq!(step(&ledger, cycle.id, "build").await.unwrap().state, StepState::Running);
        assert_eq!(step(&ledger, cycle.id, "register").await.unwrap().state, StepState::Done);
        drop(ledger);
        // The next start does it again.
        std::fs::remove_file(&pid_file).unwrap();
        let next = start(settings);
        resume(&next).await;
        until("the build runs again", || async { pid_file.exists().then_some(()) }).await;
        let build = step(&next.env.ledger, cycle.id, "build").await.unwrap();
        assert_eq!(build.attempt, 2);
    });
}

/// The ledger of a daemon that numbered its steps 1 to 10 and knew no build.
fn older_ledger(path: &Path) {
    let newest = rusqlite::Connection::open(path).unwrap();
    let objects = ["rows_duplicate", "unused_columns", "quarantine_key", "resolved_at"];
    let dropped = objects.map(|column| format!("ALTER TABLE objects DROP COLUMN {column};")).concat();
    newest.execute_batch(&format!("DROP TABLE refused_datasets; {dropped}")).unwrap();
    newest
        .execute_batch(
            "UPDATE steps SET position = -position; UPDATE steps SET position = -position / 10;
             DROP TABLE builds; DROP TRIGGER image_withdrawn; ALTER TABLE images DROP COLUMN withdrawn_at;
             ALTER TABLE runs DROP COLUMN record; ALTER TABLE models RENAME COLUMN reason TO drift_reason;
             DROP TRIGGER deed_ended; ALTER TABLE audit DROP COLUMN outcome; ALTER TABLE cycles DROP COLUMN approved_by;
             ALTER TABLE cycles DROP COLUMN undoing; ALTER TABLE cycles DROP COLUMN cancel; PRAGMA user_version = 3;",
        )
        .unwrap();
}

#[test]
fn a_cycle_that_an_older_daemon_packaged_continues_without_a_build() {
    in_system(async {
        let place = ci::private_folder();
        // Nothing could be built from there.
        let source = script_settings(&place.path().join("nowhere").display().to_string());
        let settings = settings(place.path(), source);
        let state = settings.daemon.state_dir.clone();
        let (cycle, ..) = registered(&settings).await;
        let ledger = Ledger::open(&ledger_path(&state)).unwrap();
        let (image, layout) = layouts::image(place.path(), cycle.model.0);
        let packaged = ModelPackaged { layout, digest: image.manifest, size_bytes: image.size_bytes };
        ledger.step_started(cycle.id, 60, "package", at(7)).await.unwrap();
        ledger.step_done(cycle.id, 60, serde_json::to_value(packaged).unwrap().into(), at(8), 1).await.unwrap();
        drop(ledger);
        older_ledger(&ledger_path(&state));
        let positions = |name: &str| -> Vec<(u32, String)> {
            let connection = rusqlite::Connection::open(ledger_path(&state)).unwrap();
            let mut query =
                connection.prepare(&format!("SELECT position, name FROM {name} ORDER BY position")).unwrap();
            query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
        };
        let names = ["ingest", "dataset", "train", "gate", "register", "package"].map(str::to_owned);
        let older: Vec<(u32, String)> = (1..).zip(names).collect();
        assert_eq!(positions("steps"), older, "the ledger is not what the older daemon left");

        let daemon = start(settings);
        let newer: Vec<(u32, String)> = older.iter().map(|(position, name)| (position * 10, name.clone())).collect();
        assert_eq!(positions("steps"), newer);
        resume(&daemon).await;
        // The made-up service does not run: what counts is that its image was pushed, and nothing was built.
        ended_with(&daemon, cycle.id, CycleOutcome::RolledBack).await;
        let steps = daemon.env.ledger.steps_of(cycle.id).await.unwrap();
        let names: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(names, ["ingest", "dataset", "train", "gate", "register", "package", "push", "deploy"]);
        assert!(steps.iter().all(|step| step.attempt == 1 || step.name == "deploy"), "{steps:?}");
    });
}

// ----------------------------------------------------------------
// What the packaging stage does with a built service, asked by the test itself.

/// The packaging stage's actor over a ledger with one registered model.
struct Bench {
    place: tempfile::TempDir,
    settings: Settings,
    cycle: Cycle,
    bundle: Digest,
    dataset: Digest,
    daemon: Daemon,
    packaging: delayd::supervision::SupervisedActor<delayd::supervision::StageActor<PackagingStage>>,
}

impl Bench {
    /// The cycle is open and nobody drives it: the test asks the stage itself.
    async fn new(script: &str, change: impl FnOnce(&mut Settings)) -> (Self, String) {
        let place = private_folder();
        let (repository, commit) = ServiceRepository::script(&place.path().join("service"), script);
        let mut settings = settings(place.path(), script_settings(&repository.url()));
        change(&mut settings);
        let state = settings.daemon.state_dir.clone();
        let (cycle, bundle, dataset) = registered(&settings).await;
        let daemon = start(settings.clone());
        let stage = PackagingStage {
            env: daemon.env.clone(),
            settings: Arc::new(settings.clone()),
            bundles: BundleStore::new(state.join("bundles")),
            service_binary: settings.packaging.service_binary.clone(),
            image_builder: delayd::open::image_builder(&settings),
            builds: Builds::default(),
        };
        daemon.env.ledger.step_started(cycle.id, BUILD.position, "build", at(7)).await.unwrap();
        let supervision = Supervision::new(SupervisionPolicy::default(), |_| ());
        let packaging = supervision
            .spawn("packaging", move |beat, _| delayd::supervision::StageActor::new(stage.clone(), beat))
            .unwrap();
        until("the actor runs", || async {
            let withdraw = WithdrawImage { model: ModelVersion(99) };
            packaging.actor_ref().ask(withdraw).await.ok()
        })
        .await;
        (Self { place, settings, cycle, bundle, dataset, daemon, packaging }, commit)
    }

    async fn build(&self) -> Result<ServiceBuilt, StepFailure> {
        self.packaging.actor_ref().ask(BuildService { cycle: self.cycle.id }).await
    }

    async fn package(&self, service: Option<ServiceBuilt>) -> Result<ModelPackaged, StepFailure> {
        let (bundle, dataset) = (self.bundle.clone(), self.dataset.clone());
        let package = PackageModel { model: self.cycle.model, bundle, dataset, service };
        self.packaging.actor_ref().ask(package).await
    }

    async fn push(&self, packaged: ModelPackaged) {
        let push = PushImage { model: self.cycle.model, packaged };
        self.packaging.actor_ref().ask(push).await.unwrap();
    }

    fn state(&self) -> &Path {
        &self.settings.daemon.state_dir
    }
}

#[test]
fn what_was_built_is_recorded_annotated_exported_and_withdrawn() {
    in_system(async {
        let (bench, commit) = Bench::new(&makes_a_binary("one"), |settings| {
            settings.packaging.export.github_output_path = settings.daemon.state_dir.join("github");
            settings.packaging.export.dotenv_path = settings.daemon.state_dir.join("image.env");
        })
        .await;
        let built = bench.build().await.unwrap();
        let repository = format!("file://{}", bench.place.path().join("service").display());
        assert_eq!((&built.commit, &built.repository), (&commit, &repository));
        let record = bench.daemon.env.ledger.build_of(bench.cycle.id).await.unwrap().unwrap();
        assert_eq!((&record.commit, &record.binary_digest, record.reused), (&commit, &built.digest, false));
        assert_eq!(
            (record.revision.as_str(), &record.command),
            ("main", &bench.settings.packaging.source.build_command)
        );
        assert!(record.toolchain.starts_with("rustc "), "{}", record.toolchain);

        let packaged = bench.package(Some(built.clone())).await.unwrap();
        let layout = Layout::at(&packaged.layout);
        let manifest: Manifest = layout.document(&layout.image("model_v1").unwrap()).unwrap();
        assert_eq!(manifest.annotations["org.opencontainers.image.revision"], commit);
        assert_eq!(manifest.annotations["org.opencontainers.image.source"], repository);
        bench.push(packaged.clone()).await;
        // Once more, as after a crash.
        bench.push(packaged.clone()).await;

        let json = std::fs::read(bench.state().join("image.json")).unwrap();
        let export: ImageExport = serde_json::from_slice(&json).unwrap();
        assert_eq!(
            (export.tag.as_str(), &export.digest, export.model_version),
            ("model_v1", &packaged.digest, bench.cycle.model)
        );
        assert_eq!(export.build.as_ref().map(|build| &build.commit), Some(&commit));
        let github = std::fs::read_to_string(bench.state().join("github")).unwrap();
        assert_eq!(github, export.github_output());
        assert!(github.contains("tag=model_v1\n") && github.contains("model_version=model_v1\n"), "{github}");
        let dotenv = std::fs::read_to_string(bench.state().join("image.env")).unwrap();
        assert!(dotenv.contains(&format!("DELAYD_IMAGE_DIGEST={}\n", packaged.digest)), "{dotenv}");
        let url = endpoint(&bench.daemon);
        for path in ["/image", "/image?model=model_v1"] {
            let (status, body) = get(&format!("{url}{path}")).await;
            assert_eq!(status, 200, "{body}");
            assert_eq!(serde_json::from_str::<ImageExport>(&body).unwrap(), export, "{path}");
        }
        assert_eq!(get(&format!("{url}/image?model=model_v9")).await.0, 404);
        let lineage = bench.daemon.env.ledger.lineage(bench.cycle.model).await.unwrap();
        let node = lineage.nodes.iter().find(|node| node.kind == LineageKind::Build).unwrap();
        assert!(node.label.contains(&commit[..12]), "{}", node.label);
        assert!(lineage.edges.iter().any(|edge| edge.from == node.id && edge.to == export.reference));
        assert!(lineage.tree().contains(&format!("service {}", &commit[..12])), "{}", lineage.tree());

        let told = |arguments: &[&str]| {
            let mut delayd = std::process::Command::new(env!("CARGO_BIN_EXE_delayd"));
            let output = delayd.arg("--state").arg(bench.state()).args(arguments).output().unwrap();
            (output.status.code(), String::from_utf8(output.stdout).unwrap())
        };
        assert_eq!(told(&["image", "--github-output"]), (Some(0), github));
        assert_eq!(told(&["image", "--dotenv", "model_v1"]), (Some(0), dotenv));
        let (_, text) = told(&["image"]);
        assert!(text.contains(&commit) && text.contains(packaged.digest.as_str()), "{text}");
        let json: ImageExport = serde_json::from_str(&told(&["--json", "image"]).1).unwrap();
        assert_eq!(json, export);
        let (_, log) = told(&["build-log", "cycle_1"]);
        assert!(log.contains("$ nice -n 10 sh build.sh"), "{log}");
        assert_eq!(told(&["build-log"]).1, log);
        assert_eq!(told(&["build-log", "cycle_9"]).0, Some(4));

        let withdraw = WithdrawImage { model: bench.cycle.model };
        bench.packaging.actor_ref().ask(withdraw).await.unwrap();
        assert_eq!(told(&["image"]).0, Some(4));
        assert!(!bench.state().join("image.json").exists() && !bench.state().join("image.env").exists());
        assert_eq!(get(&format!("{url}/image")).await.0, 404);
    });
}

#[test]
fn an_export_that_cannot_be_written_is_reported_and_holds_nothing_up() {
    in_system(async {
        let (bench, _) = Bench::new(&makes_a_binary("one"), |settings| {
            settings.packaging.export.dotenv_path = settings.daemon.state_dir.join("no/such/folder/image.env");
        })
        .await;
        let packaged = bench.package(None).await.unwrap();
        bench.push(packaged).await;
        let body = alert(&bench.daemon, "the image of model_v1 could not be exported").await.unwrap();
        assert!(body.contains("no/such/folder/image.env") && body.contains("delayd image"), "{body}");
        assert!(bench.state().join("image.json").exists(), "the file that can be written is written");
    });
}

#[test]
fn a_built_service_that_was_changed_since_is_not_packaged() {
    in_system(async {
        let (bench, _) = Bench::new(&makes_a_binary("one"), |_| ()).await;
        let built = bench.build().await.unwrap();
        std::fs::write(&built.binary, "something else").unwrap();
        let failure = bench.package(Some(built.clone())).await.unwrap_err();
        assert_eq!(failure.kind, ErrorKind::Corrupt, "{failure}");
        assert!(failure.message.contains(&built.digest.to_string()), "{failure}");
        // Building again finds the damage and repairs it.
        let again = bench.build().await.unwrap();
        assert_eq!(again, built);
        bench.package(Some(again)).await.unwrap();
    });
}
