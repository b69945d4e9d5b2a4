//! The whole of it with `delayd-serve`: a release whose verification fails, and the one before that serves again.
//! Needs the service binary (`DELAYD_SERVE_BIN`); without it the test says SKIPPED and passes.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use delayd::config::ApprovalMode;
use delayd::daemon::service_binary;
use delayd::env::Env;
use delayd_core::ids::{Digest, ModelVersion, RunId};
use delayd_core::ports::Cluster;
use delayd_ledger::{CycleOutcome, DeploymentState, StepState};
use delayd_outside::bundles::{BundleStore, download_bundle};
use delayd_outside::local::{ProcessCluster, ProcessClusterConfig};
use delayd_training_job::{BundlePlace, Trainer as _, TrainingJob};
use delayd_training_job::{TrainingControl, TrainingParameters};

use super::world::{
    Material, Place, alerts, assert_step, cycle_until, deployed, finished, in_system, live, start, state_of,
};
use delayd_testkit::contracts::training_world::{job_in, process_trainer};

/// A bundle of its own for each seed, at home among the daemon's bundles.
async fn trained(env: &Env, place: &Path, job: &TrainingJob, seed: u64) -> Digest {
    let parameters = TrainingParameters { seed, ..job.parameters.clone() };
    let job = TrainingJob { parameters, run: RunId(100 + seed), ..job.clone() };
    let trainer = process_trainer(env.object_store.clone(), place.join("store"), place.join("training"));
    let result = trainer.train(&job, &TrainingControl::default()).await.unwrap();
    let BundlePlace::Store(prefix) = &result.place else { panic!("{:?}", result.place) };
    let folder = place.join(format!("trained-{seed}"));
    download_bundle(env.object_store.as_ref(), prefix, &result.bundle, &folder).await.unwrap();
    BundleStore::new(place.join("bundles")).take_in(&result.bundle, &folder).unwrap();
    result.bundle
}

/// The service, but for a release of `model_v2`: that serves the first model's bundle under its name.
fn confused_service(place: &Path, service: &Path, first: &Path) -> PathBuf {
    let path = place.join("confused-serve");
    let (service, first) = (service.display(), first.display());
    let script = format!(
        "#!/bin/sh\nif [ \"$4\" = model_v2 ]; then shift 2; exec '{service}' --bundle '{first}' \"$@\"; fi\n\
         exec '{service}' \"$@\"\n"
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_release_that_fails_its_verification_gives_way_to_the_one_before_which_is_verified_too() {
    let Ok(service) = service_binary(Path::new("")) else {
        eprintln!("SKIPPED: no delayd-serve; `make service` builds it");
        return;
    };
    in_system(async {
        let mut place = Place::new(ApprovalMode::Automatic);
        let policy = &mut place.settings.verification;
        (policy.p95_limit_ms, policy.p95_baseline_ratio, policy.score_psi) = (10_000.0, 1_000.0, 1_000.0);
        let env = place.env();
        let job = job_in(env.object_store.as_ref()).await;
        place.settings.holdout = job.holdout.clone();
        let material =
            |bundle: &Digest| Material { bundle: bundle.clone(), dataset: job.dataset.clone(), as_of: job.as_of };
        let (good, other) = (trained(&env, place.path(), &job, 1).await, trained(&env, place.path(), &job, 2).await);
        assert_ne!(good, other);
        let first = deployed(&env.ledger, place.path(), material(&good)).await;
        let second = cycle_until(&env.ledger, place.path(), material(&other), "push").await;

        let confused = confused_service(place.path(), &service, &first.release.bundle_dir);
        let config = ProcessClusterConfig {
            linger: Duration::from_secs(1),
            ..ProcessClusterConfig::new(&confused, &place.path().join("cluster"))
        };
        let cluster = Arc::new(ProcessCluster::open(config).unwrap());
        cluster.apply(&first.release, Duration::from_secs(60), &|_| ()).await.unwrap();
        let daemon = start(&place.settings, Env { cluster: cluster.clone(), ..env }).await;
        daemon.resume().await.unwrap();
        let ended = finished(&daemon, second.cycle.id).await;
        let serves = cluster.current().await.unwrap().map(|release| release.deployment);
        let ledger = &daemon.env.ledger;
        let records = ledger.verifications_of(first.release.deployment).await.unwrap();
        let failed = ledger.verifications_of(second.release.deployment).await.unwrap();
        let told = alerts(ledger).await;
        let replicas = cluster.replicas().await.unwrap();
        cluster.tear_down().await.unwrap();

        assert_eq!(ended.outcome, Some(CycleOutcome::RolledBack), "{}", ended.detail);
        assert!(
            ended.detail.contains("served_model") && ended.detail.contains("expected model_v2"),
            "{}",
            ended.detail
        );
        assert_step(ledger, second.cycle.id, "verify", StepState::Failed).await;
        assert!(!failed[0].passed);
        // The old release serves, as a whole, and was asked for all that a new one is asked for.
        assert_eq!(serves, Some(first.release.deployment));
        assert!(replicas.iter().any(|replica| replica.model == ModelVersion(1)), "{replicas:?}");
        assert_eq!(records.len(), 1, "it was verified after the rollback");
        assert!(records[0].passed, "{:?}", records[0].report);
        let report: delayd_judge::verification::verify::VerificationReport = records[0].report.read().unwrap();
        assert!(report.rows.contains("held out"), "{}", report.rows);
        assert!(ended.detail.contains("model_v1 (deployment_1) serves again, and it passed"), "{}", ended.detail);
        assert_eq!(state_of(ledger, first.release.deployment).await, DeploymentState::Approved);
        assert_eq!(live(ledger).await, Some(ModelVersion(1)));
        assert!(!told.iter().any(|(_, title, _)| title.contains("is not found good")), "{told:?}");
    });
}
