//! What the packaging stage does with a built service, asked by the test itself.

use std::path::Path;
use std::sync::Arc;

use delayd::config::Settings;
use delayd::cycle::steps::BUILD;
use delayd::daemon::{Daemon, ledger_path};
use delayd::stages::image_export::ImageExport;
use delayd::stages::package::PackagingStage;
use delayd::stages::package::{BuildService, ModelPackaged, PackageModel, PushImage, ServiceBuilt, WithdrawImage};
use delayd::supervision::{Supervision, SupervisionPolicy};
use delayd_core::error::ErrorKind;
use delayd_core::failure::StepFailure;
use delayd_core::ids::{Digest, ModelVersion};
use delayd_ledger::{Cycle, Ledger, LineageKind};
use delayd_outside::bundles::BundleStore;
use delayd_outside::packaging::Builds;
use delayd_outside::packaging::oci::{Layout, Manifest};

use crate::ci_cycle::world::{alerts, at, endpoint, get, in_system, registered, settings, start, until};
use delayd_testkit::ci::{ServiceRepository, makes_a_binary, private_folder, script_settings};

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
        std::fs::create_dir_all(&state).unwrap();
        let (cycle, bundle, dataset) = registered(&Ledger::open(&ledger_path(&state)).unwrap(), &state).await;
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
fn an_export_that_cannot_be_written_is_told_and_holds_nothing_up() {
    in_system(async {
        let (bench, _) = Bench::new(&makes_a_binary("one"), |settings| {
            settings.packaging.export.dotenv_path = settings.daemon.state_dir.join("no/such/folder/image.env");
        })
        .await;
        let packaged = bench.package(None).await.unwrap();
        bench.push(packaged).await;
        let told = alerts(&bench.daemon).await;
        let (_, body) = told.iter().find(|(title, _)| title == "the image of model_v1 could not be exported").unwrap();
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
