//! Commands that are refused change nothing; those that are done are noted with what came of them.

use delayd::config::ApprovalMode;
use delayd::cycle::snapshot::paused;
use delayd::cycle::{commands::CommandKind, coordinator::Consider};
use delayd_core::error::ErrorKind;
use delayd_ledger::{CycleOutcome, CycleReason, CycleState, Page};

use super::world::{Material, Place, command, cycle_until, deployed, in_system, last_deed};

#[test]
fn a_retrain_that_is_refused_does_not_begin_later_by_itself() {
    in_system(async {
        let place = Place::new(ApprovalMode::Manual);
        let ledger = place.env().ledger;
        let first = deployed(&ledger, place.path(), Material::made_up(1)).await;
        let second = cycle_until(&ledger, place.path(), Material::made_up(2), "verify").await;
        ledger.set_cycle_state(second.cycle.id, CycleState::WaitingApproval).await.unwrap();
        drop(ledger);
        place.cluster.serve(&second.release);
        let daemon = place.start().await;
        let refused = command(&daemon, CommandKind::Retrain, "new airline").await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Conflict);
        assert!(refused.message.contains("not now") && refused.message.contains("cycle_2"), "{refused}");
        let ledger = &daemon.env.ledger;
        let deed = last_deed(ledger).await;
        assert_eq!((deed.entry.subject.as_str(), deed.entry.detail.as_str()), ("cycle_2", "new airline"));
        assert!(deed.outcome.starts_with("refused: not now"), "{}", deed.outcome);

        command(&daemon, CommandKind::Reject, "worse").await.unwrap();
        assert_eq!(place.cluster.serves(), Some(first.release.deployment));
        let considered = daemon.coordinator.ask(Consider::default()).await.unwrap();
        assert_eq!(considered.cycle, None, "{}", considered.reason);
        assert_eq!(ledger.cycles(Page { offset: 0, limit: 10 }).await.unwrap().len(), 2);

        // Asked when nothing is in the way, it begins, in the name of whoever asked.
        let answer = command(&daemon, CommandKind::Retrain, "new airline").await.unwrap();
        let cycle = ledger.cycle(answer.cycle.unwrap()).await.unwrap().unwrap();
        let asked = CycleReason::Manual { by: "alice".to_owned(), why: "new airline".to_owned() };
        assert_eq!(cycle.reason, asked);
        let deed = last_deed(ledger).await;
        assert_eq!((deed.entry.subject.as_str(), deed.outcome.as_str()), ("cycle_3", "done: cycle_3 started"));
    });
}

#[test]
fn a_second_pause_leaves_the_first_ones_reason_and_a_resume_needs_something_to_resume() {
    in_system(async {
        let place = Place::new(ApprovalMode::Automatic);
        let daemon = place.start().await;
        let refused = command(&daemon, CommandKind::Resume, "").await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Conflict);
        assert!(refused.message.contains("the loop is not paused"), "{refused}");
        command(&daemon, CommandKind::Pause, "a storm is coming").await.unwrap();
        let refused = command(&daemon, CommandKind::Pause, "").await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Conflict);
        assert!(refused.message.contains("alice already paused the loop") && refused.message.contains("a storm"));
        assert_eq!(paused(&daemon.env).await.unwrap().unwrap().reason, "a storm is coming");
        command(&daemon, CommandKind::Resume, "").await.unwrap();
        assert_eq!(paused(&daemon.env).await.unwrap(), None);
        assert!(command(&daemon, CommandKind::Resume, "").await.is_err());
    });
}

#[test]
fn a_resume_closes_an_open_breaker_without_a_pause() {
    in_system(async {
        let place = Place::new(ApprovalMode::Automatic);
        let ledger = place.env().ledger;
        for _ in 0..place.settings.retrain.governor.breaker_after {
            let cycle = ledger.begin_cycle(CycleReason::Scheduled, super::world::at(0)).await.unwrap();
            ledger.finish_cycle(cycle.id, CycleOutcome::KeptLive, "no better", super::world::at(1)).await.unwrap();
        }
        drop(ledger);
        let daemon = place.start().await;
        command(&daemon, CommandKind::Resume, "it is the season").await.unwrap();
        let refused = command(&daemon, CommandKind::Resume, "again").await.unwrap_err();
        assert!(refused.message.contains("nothing to resume"), "{refused}");
    });
}
