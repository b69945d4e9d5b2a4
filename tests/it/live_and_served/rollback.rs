//! An administrator's rollback: refused where it would split ledger and cluster, finished once it was begun.

use delayd::config::ApprovalMode;
use delayd::cycle::commands::CommandKind;
use delayd_core::error::ErrorKind;
use delayd_core::ids::ModelVersion;
use delayd_core::ports::Severity;
use delayd_ledger::{Alias, CycleState, DeploymentState};

use super::world::{
    Made, Material, Place, command, cycle_until, deployed, in_system, last_deed, live, start, state_of, told, until,
};

/// Two models went live one after the other; the second one serves.
async fn two_models(place: &Place) -> (Made, Made) {
    let ledger = place.env().ledger;
    let first = deployed(&ledger, place.path(), Material::made_up(1)).await;
    let second = deployed(&ledger, place.path(), Material::made_up(2)).await;
    place.cluster.serve(&second.release);
    (first, second)
}

#[test]
fn a_rollback_is_refused_while_a_release_waits_for_approval_and_the_refusal_names_the_way() {
    in_system(async {
        let place = Place::new(ApprovalMode::Manual);
        two_models(&place).await;
        let ledger = place.env().ledger;
        let third = cycle_until(&ledger, place.path(), Material::made_up(3), "verify").await;
        ledger.set_cycle_state(third.cycle.id, CycleState::WaitingApproval).await.unwrap();
        place.cluster.serve(&third.release);
        drop(ledger);
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
        assert!(deed.outcome.starts_with("refused: cycle_3 waits"), "{}", deed.outcome);
        // A cycle that runs is in the way too, and the way out is another.
        ledger.set_cycle_state(third.cycle.id, CycleState::Running).await.unwrap();
        let refused = command(&daemon, CommandKind::Rollback, "no good").await.unwrap_err();
        assert!(refused.message.contains("cycle_3 is under way; `delayd cancel`"), "{refused}");
        assert!(place.cluster.applied().is_empty());
    });
}

#[test]
fn a_rollback_moves_cluster_and_ledger_together_and_tells_that_the_restored_release_was_not_found_good() {
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
fn a_rollback_that_is_cut_off_after_the_cluster_went_back_is_finished_at_the_next_start() {
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

        let next = place.start().await;
        next.resume().await.unwrap();
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
fn a_rollback_that_cannot_be_done_is_given_up_and_told_and_the_live_model_stays() {
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
fn a_rollback_waits_for_a_cluster_that_is_away() {
    in_system(async {
        let place = Place::new(ApprovalMode::Automatic);
        let (first, _) = two_models(&place).await;
        let daemon = start(&place.settings, place.env()).await;
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
