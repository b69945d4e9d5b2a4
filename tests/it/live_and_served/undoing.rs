//! A cycle that is undone stays undone, whenever the daemon dies; what is not served is not made live.

use delayd::config::ApprovalMode;
use delayd::cycle::commands::CommandKind;
use delayd_core::error::ErrorKind;
use delayd_core::ids::ModelVersion;
use delayd_core::ports::Severity;
use delayd_ledger::{CycleOutcome, CycleState, DeploymentState, StepState, UndoCause, Undoing};

use super::world::{
    Material, Place, assert_step, command, cycle_until, deployed, finished, in_system, last_deed, live, state_of, step,
    told, until,
};

#[test]
fn a_cycle_whose_undo_was_cut_off_goes_on_undoing_and_never_deploys_again() {
    in_system(async {
        let place = Place::new(ApprovalMode::Automatic);
        let ledger = place.env().ledger;
        let first = deployed(&ledger, place.path(), Material::made_up(1)).await;
        let second = cycle_until(&ledger, place.path(), Material::made_up(2), "push").await;
        drop(ledger);
        place.cluster.serve(&first.release);
        let (good, bad) = (first.release.deployment, second.release.deployment);
        // There is no such bundle, so the verification fails; going back takes effect, and the daemon dies there.
        place.cluster.hang_after(Some(good));
        let daemon = place.start().await;
        daemon.resume().await.unwrap();
        until("the release before is applied", || async { (place.cluster.applied() == [bad, good]).then_some(()) })
            .await;
        let id = second.cycle.id;
        let noted = daemon.env.ledger.cycle(id).await.unwrap().unwrap().undoing.unwrap();
        assert_eq!(noted.cause, UndoCause::Failed, "{}", noted.why);
        drop(daemon);
        place.cluster.hang_after(None);

        let next = place.start().await;
        next.resume().await.unwrap();
        let ended = finished(&next, id).await;
        assert_eq!(ended.outcome, Some(CycleOutcome::RolledBack), "{}", ended.detail);
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
        let ledger = place.env().ledger;
        let first = deployed(&ledger, place.path(), Material::made_up(1)).await;
        let second = cycle_until(&ledger, place.path(), Material::made_up(2), "deploy").await;
        let id = second.cycle.id;
        let undoing = Undoing { cause: UndoCause::Failed, why: "p95_latency: over 50 ms".to_owned() };
        ledger.begin_undo(id, undoing).await.unwrap();
        ledger.step_undone(id, 80, super::world::at(9)).await.unwrap();
        drop(ledger);
        place.cluster.serve(&first.release);
        let daemon = place.start().await;
        daemon.resume().await.unwrap();
        let ended = finished(&daemon, id).await;
        assert_eq!(ended.outcome, Some(CycleOutcome::RolledBack), "{}", ended.detail);
        assert!(place.cluster.applied().is_empty(), "{:?}", place.cluster.applied());
        assert_step(&daemon.env.ledger, id, "push", StepState::Undone).await;
    });
}

#[test]
fn a_release_that_does_not_serve_any_more_is_neither_approved_nor_made_live() {
    in_system(async {
        let place = Place::new(ApprovalMode::Manual);
        let ledger = place.env().ledger;
        let first = deployed(&ledger, place.path(), Material::made_up(1)).await;
        let second = cycle_until(&ledger, place.path(), Material::made_up(2), "verify").await;
        let id = second.cycle.id;
        ledger.set_cycle_state(id, CycleState::WaitingApproval).await.unwrap();
        drop(ledger);
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
        let ended = finished(&daemon, id).await;
        assert_eq!(ended.outcome, Some(CycleOutcome::RolledBack), "{}", ended.detail);
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
        let ledger = place.env().ledger;
        let first = cycle_until(&ledger, place.path(), Material::made_up(1), "verify").await;
        let id = first.cycle.id;
        ledger.set_cycle_state(id, CycleState::WaitingApproval).await.unwrap();
        place.cluster.serve(&first.release);
        // The daemon died right after it had noted the approval.
        ledger.approve_cycle(id, "alice").await.unwrap();
        drop(ledger);
        let daemon = place.start().await;
        daemon.resume().await.unwrap();
        let ended = finished(&daemon, id).await;
        assert_eq!(ended.outcome, Some(CycleOutcome::Deployed), "{}", ended.detail);
        assert!(ended.detail.contains("approved by alice"), "{}", ended.detail);
        assert_eq!(ended.approved_by.as_deref(), Some("alice"));
        assert_eq!(live(&daemon.env.ledger).await, Some(ModelVersion(1)));
    });
}

#[test]
fn a_rejection_is_told_and_one_that_is_stuck_is_told_as_critical() {
    in_system(async {
        for (stuck, severity, title, outcome) in [
            (false, Severity::Warning, "model_v2 was rolled back", CycleOutcome::RolledBack),
            (true, Severity::Critical, "cycle_2 is stuck", CycleOutcome::Stuck),
        ] {
            let place = Place::new(ApprovalMode::Manual);
            let ledger = place.env().ledger;
            let first = deployed(&ledger, place.path(), Material::made_up(1)).await;
            let second = cycle_until(&ledger, place.path(), Material::made_up(2), "verify").await;
            let id = second.cycle.id;
            ledger.set_cycle_state(id, CycleState::WaitingApproval).await.unwrap();
            drop(ledger);
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
