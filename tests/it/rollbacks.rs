//! An administrator's rollback: refused where it would split ledger and cluster, finished once it was begun.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use delayd::config::ApprovalMode;
use delayd::cycle::commands::CommandKind;
use delayd::daemon::service_binary;
use delayd::env::Env;
use delayd_core::error::ErrorKind;
use delayd_core::ids::{Digest, ModelVersion, RunId};
use delayd_core::ports::{Cluster, Severity};
use delayd_ledger::{Alias, CycleOutcome, CycleState, DeploymentState, StepState, UndoCause, Undoing};
use delayd_outside::bundles::{BundleStore, download_bundle};
use delayd_outside::local::{ProcessCluster, ProcessClusterConfig};
use delayd_testkit::contracts::training_world::{job_in, process_trainer};
use delayd_testkit::cycle_world::{
    Made, Material, Place, alerts, assert_step, at, command, cycle_until, deployed, ended_with, finished, last_deed,
    live, start, state_of, step, told,
};
use delayd_testkit::tools::{in_system, until};
use delayd_training_job::{Trainer as _, TrainingControl, TrainingJob, TrainingParameters};

/// Two models went live one after the other; the second one serves.
async fn two_models(place: &Place) -> (Made, Made) {
    let first = place.deployed(1).await;
    let second = place.deployed(2).await;
    place.cluster.serve(&second.release);
    (first, second)
}

#[test]
fn a_rollback_is_refused_while_a_release_waits_for_approval_and_the_refusal_names_the_way() {
    in_system(async {
        let place = Place::new(ApprovalMode::Manual);
        two_models(&place).await;
        let third = place.waiting(3).await;
        place.cluster.serve(&third.release);
        let daemon = place.start().await;
        let refused = command(&daemon, CommandKind::Rollback, "no good").await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Conflict);
        for part in ["cycle_3 is waiting for approval", "model_v3 already serves", "`delayd reject`"] {
            assert!(refused.message.contains(part), "{part}: {refused}");
        }
        let ledger = &daemon.env.ledger;
        assert_eq!((place.cluster.applied(), live(ledger).await), (vec![], Some(ModelVersion(2))));
        let deed = last_deed(ledger).await;
        assert_eq!((deed.entry.subject.as_str(), deed.entry.action.as_str()), ("cycle_3", "rollback"));
        assert!(deed.outcome.starts_with("refused: cycle_3 is waiting for approval"), "{}", deed.outcome);
        // A cycle that runs is in the way too, and the way out is another.
        ledger.set_cycle_state(third.cycle.id, CycleState::Running).await.unwrap();
        let refused = command(&daemon, CommandKind::Rollback, "no good").await.unwrap_err();
        assert!(refused.message.contains("cycle_3 is under way; `delayd cancel`"), "{refused}");
        assert!(place.cluster.applied().is_empty());
    });
}

#[test]
fn a_rollback_moves_cluster_and_ledger_together_and_reports_that_the_restored_release_failed_verification() {
    in_system(async {
        let place = Place::new(ApprovalMode::Automatic);
        let (first, second) = two_models(&place).await;
        let daemon = place.start().await;
        let answer = command(&daemon, CommandKind::Rollback, "worse").await.unwrap();
        assert_eq!(answer.model, Some(ModelVersion(1)));
        let ledger = &daemon.env.ledger;
        assert_eq!(place.cluster.serves(), Some(first.release.deployment));
        assert_eq!(live(ledger).await, Some(ModelVersion(1)));
        assert!(ledger.model_by_alias(Alias::Previous).await.unwrap().is_none());
        assert_eq!(state_of(ledger, first.release.deployment).await, DeploymentState::Approved);
        assert_eq!(state_of(ledger, second.release.deployment).await, DeploymentState::RolledBack);
        // There is no such bundle: verifying it must fail, and say so loudly.
        assert!(answer.message.contains("FAILS verification"), "{}", answer.message);
        let body = told(ledger, Severity::Critical, "model_v1 serves again but fails its verification").await;
        assert!(body.contains("could not be verified"), "{body}");
        assert!(last_deed(ledger).await.outcome.starts_with("done: model_v1 is live again"));
        assert_eq!(last_deed(ledger).await.entry.subject, "model_v1");
    });
}

#[test]
fn a_rollback_that_is_interrupted_after_the_cluster_went_back_is_finished_at_the_next_start() {
    in_system(async {
        let place = Place::new(ApprovalMode::Automatic);
        let (first, second) = two_models(&place).await;
        let to = first.release.deployment;
        place.cluster.hang_after(Some(to));
        let daemon = place.start().await;
        let coordinator = daemon.coordinator.clone();
        let asked = actix::spawn(async move {
            let message = delayd::cycle::commands::OperatorCommand {
                command: CommandKind::Rollback,
                by: "alice".to_owned(),
                why: "worse".to_owned(),
            };
            coordinator.ask(message).await
        });
        until("the cluster went back", || async { (place.cluster.serves() == Some(to)).then_some(()) }).await;
        // The daemon dies here: the cluster is at model_v1, and the ledger says that model_v2 is live.
        assert_eq!(live(&daemon.env.ledger).await, Some(ModelVersion(2)));
        drop(daemon);
        asked.abort();
        place.cluster.hang_after(None);

        let next = place.resumed().await;
        let ledger = &next.env.ledger;
        assert_eq!((live(ledger).await, place.cluster.serves()), (Some(ModelVersion(1)), Some(to)));
        assert_eq!(state_of(ledger, second.release.deployment).await, DeploymentState::RolledBack);
        let body = told(ledger, Severity::Warning, "model_v1 is live again").await;
        assert!(body.contains("alice rolled back: worse"), "{body}");
        let applied = place.cluster.applied().len();
        // It is over: another turn does nothing.
        next.resume().await.unwrap();
        assert_eq!(place.cluster.applied().len(), applied);
    });
}

#[test]
fn a_rollback_that_cannot_be_done_is_given_up_and_reported_and_the_live_model_is_kept() {
    in_system(async {
        let place = Place::new(ApprovalMode::Automatic);
        let (_, second) = two_models(&place).await;
        let daemon = place.start().await;
        place.failures.fail_always("apply", ErrorKind::Timeout);
        let failed = command(&daemon, CommandKind::Rollback, "worse").await.unwrap_err();
        assert!(failed.message.contains("the rollback to model_v1 failed"), "{failed}");
        let ledger = &daemon.env.ledger;
        assert_eq!(live(ledger).await, Some(ModelVersion(2)));
        assert_eq!(place.cluster.serves(), Some(second.release.deployment));
        told(ledger, Severity::Critical, "the rollback to model_v1 failed").await;
        assert!(last_deed(ledger).await.outcome.starts_with("failed: the rollback to model_v1"));
        // Nothing of it is left to be done later.
        place.failures.heal();
        daemon.resume().await.unwrap();
        assert!(place.cluster.applied().is_empty());
    });
}

#[test]
fn a_rollback_waits_for_a_cluster_that_is_unavailable() {
    in_system(async {
        let place = Place::new(ApprovalMode::Automatic);
        let (first, _) = two_models(&place).await;
        let daemon = place.start().await;
        place.failures.fail_always("apply", ErrorKind::Unavailable);
        let failed = command(&daemon, CommandKind::Rollback, "worse").await.unwrap_err();
        assert!(failed.message.contains("is not finished and is retried automatically"), "{failed}");
        assert_eq!(live(&daemon.env.ledger).await, Some(ModelVersion(2)));
        place.failures.heal();
        daemon.resume().await.unwrap();
        assert_eq!(live(&daemon.env.ledger).await, Some(ModelVersion(1)));
        assert_eq!(place.cluster.serves(), Some(first.release.deployment));
    });
}

// ----------------------------------------------------------------
// A cycle that is undone stays undone, whenever the daemon dies; what is not served is not made live.

#[test]
fn a_cycle_whose_undo_was_interrupted_continues_undoing_and_never_deploys_again() {
    in_system(async {
        let place = Place::new(ApprovalMode::Automatic);
        let first = place.deployed(1).await;
        let second = place.cycle_until(2, "push").await;
        place.cluster.serve(&first.release);
        let (good, bad) = (first.release.deployment, second.release.deployment);
        // There is no such bundle, so the verification fails; going back takes effect, and the daemon dies there.
        place.cluster.hang_after(Some(good));
        let daemon = place.resumed().await;
        until("the release before is applied", || async { (place.cluster.applied() == [bad, good]).then_some(()) })
            .await;
        let id = second.cycle.id;
        let noted = daemon.env.ledger.cycle(id).await.unwrap().unwrap().undoing.unwrap();
        assert_eq!(noted.cause, UndoCause::Failed, "{}", noted.why);
        drop(daemon);
        place.cluster.hang_after(None);

        let next = place.resumed().await;
        let ended = ended_with(&next, id, CycleOutcome::RolledBack).await;
        assert!(ended.detail.starts_with(&noted.why) && ended.detail.contains("model_v1"), "{}", ended.detail);
        assert_eq!(place.cluster.applied(), [bad, good, good]);
        let ledger = &next.env.ledger;
        assert_eq!(step(ledger, id, "verify").await.unwrap().attempt, 1, "a step was done again");
        for name in ["deploy", "push", "package", "register", "train"] {
            assert_step(ledger, id, name, StepState::Undone).await;
        }
        assert_eq!(state_of(ledger, bad).await, DeploymentState::RolledBack);
        assert_eq!(live(ledger).await, Some(ModelVersion(1)));
    });
}

#[test]
fn a_release_that_was_taken_back_before_the_crash_is_not_deployed_by_the_next_start() {
    in_system(async {
        let place = Place::new(ApprovalMode::Automatic);
        let first = place.deployed(1).await;
        let second = place.cycle_until(2, "deploy").await;
        let ledger = place.ledger().await;
        let id = second.cycle.id;
        let undoing = Undoing { cause: UndoCause::Failed, why: "p95_latency: over 50 ms".to_owned() };
        ledger.begin_undo(id, undoing).await.unwrap();
        ledger.step_undone(id, 80, at(9)).await.unwrap();
        drop(ledger);
        place.cluster.serve(&first.release);
        let daemon = place.resumed().await;
        ended_with(&daemon, id, CycleOutcome::RolledBack).await;
        assert!(place.cluster.applied().is_empty(), "{:?}", place.cluster.applied());
        assert_step(&daemon.env.ledger, id, "push", StepState::Undone).await;
    });
}

#[test]
fn a_release_that_does_not_serve_any_more_is_neither_approved_nor_made_live() {
    in_system(async {
        let place = Place::new(ApprovalMode::Manual);
        let first = place.deployed(1).await;
        let second = place.waiting(2).await;
        let id = second.cycle.id;
        place.cluster.serve(&first.release);
        let daemon = place.start().await;
        let refused = command(&daemon, CommandKind::Approve, "fine").await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Conflict);
        assert!(refused.message.contains("is no longer being served") && refused.message.contains("`delayd reject`"));
        let ledger = &daemon.env.ledger;
        assert_eq!(live(ledger).await, Some(ModelVersion(1)));
        // Approved before that was looked at: the step that makes it live looks again.
        ledger.approve_cycle(id, "alice").await.unwrap();
        daemon.resume().await.unwrap();
        let ended = ended_with(&daemon, id, CycleOutcome::RolledBack).await;
        assert!(ended.detail.contains("model_v2 was not promoted"), "{}", ended.detail);
        assert_eq!(live(ledger).await, Some(ModelVersion(1)));
        assert_eq!(place.cluster.serves(), Some(first.release.deployment));
        told(ledger, Severity::Warning, "model_v2 was rolled back").await;
    });
}

#[test]
fn who_approved_is_not_forgotten_by_a_crash() {
    in_system(async {
        let place = Place::new(ApprovalMode::Manual);
        let first = place.waiting(1).await;
        let ledger = place.ledger().await;
        let id = first.cycle.id;
        place.cluster.serve(&first.release);
        // The daemon died right after it had noted the approval.
        ledger.approve_cycle(id, "alice").await.unwrap();
        drop(ledger);
        let daemon = place.resumed().await;
        let ended = ended_with(&daemon, id, CycleOutcome::Deployed).await;
        assert!(ended.detail.contains("approved by alice"), "{}", ended.detail);
        assert_eq!(ended.approved_by.as_deref(), Some("alice"));
        assert_eq!(live(&daemon.env.ledger).await, Some(ModelVersion(1)));
    });
}

#[test]
fn a_rejection_is_reported_and_one_that_is_stuck_is_reported_as_critical() {
    in_system(async {
        for (stuck, severity, title, outcome) in [
            (false, Severity::Warning, "model_v2 was rolled back", CycleOutcome::RolledBack),
            (true, Severity::Critical, "cycle_2 is stuck", CycleOutcome::Stuck),
        ] {
            let place = Place::new(ApprovalMode::Manual);
            let first = place.deployed(1).await;
            let second = place.waiting(2).await;
            let id = second.cycle.id;
            place.cluster.serve(&second.release);
            let daemon = place.start().await;
            if stuck {
                place.failures.fail_always("apply", ErrorKind::Denied);
            }
            let answer = command(&daemon, CommandKind::Reject, "worse for LGA").await;
            assert_eq!(answer.is_err(), stuck, "{answer:?}");
            let ledger = &daemon.env.ledger;
            let ended = ledger.cycle(id).await.unwrap().unwrap();
            assert_eq!((ended.state, ended.outcome), (CycleState::Finished, Some(outcome)), "{}", ended.detail);
            let body = told(ledger, severity, title).await;
            assert!(body.contains("alice rejected it: worse for LGA"), "{body}");
            let serves = if stuck { &second } else { &first };
            assert_eq!(place.cluster.serves(), Some(serves.release.deployment));
            let deed = last_deed(ledger).await;
            assert!(deed.outcome.starts_with(if stuck { "failed: " } else { "done: " }), "{}", deed.outcome);
        }
    });
}

// ----------------------------------------------------------------
// The whole of it with `delayd-serve`: a release whose verification fails, and the one before that serves again.
// Needs the service binary (`DELAYD_SERVE_BIN`); without it the test says SKIPPED and passes.

/// A bundle of its own for each seed, at home among the daemon's bundles.
async fn trained(env: &Env, place: &Path, job: &TrainingJob, seed: u64) -> Digest {
    let parameters = TrainingParameters { seed, ..job.parameters.clone() };
    let job = TrainingJob { parameters, run: RunId(100 + seed), ..job.clone() };
    let trainer = process_trainer(env.object_store.clone(), place.join("store"), place.join("training"));
    let result = trainer.train(&job, &TrainingControl::default()).await.unwrap();
    let folder = place.join(format!("trained-{seed}"));
    download_bundle(env.object_store.as_ref(), &result.bundle_prefix, &result.bundle, &folder).await.unwrap();
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
        eprintln!("SKIPPED: no delayd-serve; `make build` builds it");
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
        let report: delayd_judge::verification::VerificationReport = records[0].report.read().unwrap();
        assert!(report.rows.contains("held out"), "{}", report.rows);
        assert!(ended.detail.contains("model_v1 (deployment_1) serves again, and it passed"), "{}", ended.detail);
        assert_eq!(state_of(ledger, first.release.deployment).await, DeploymentState::Approved);
        assert_eq!(live(ledger).await, Some(ModelVersion(1)));
        assert!(!told.iter().any(|(_, title, _)| title.contains("fails its verification")), "{told:?}");
    });
}
