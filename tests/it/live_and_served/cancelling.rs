//! A cycle that somebody stops.

use std::sync::Arc;
use std::time::Duration;

use delayd::config::ApprovalMode;
use delayd::cycle::commands::CommandKind;
use delayd::env::Env;
use delayd_core::error::ErrorKind;
use delayd_core::ids::ModelVersion;
use delayd_core::ports::{ObjectStore, Severity};
use delayd_ledger::{CancelRequest, CycleOutcome, CycleState, Ledger, RunState, StepState};

use super::world::{
    Material, Place, assert_step, command, cycle_until, deployed, finished, in_system, last_deed, live, start, step,
    told, until,
};
use delayd_testkit::contracts::training_world::{endless, job_in, process_trainer};

#[test]
fn training_that_would_take_hours_stops_at_once_when_its_cycle_is_cancelled() {
    in_system(async {
        let mut place = Place::new(ApprovalMode::Automatic);
        let env = place.env();
        let store: &dyn ObjectStore = env.object_store.as_ref();
        let job = job_in(store).await;
        place.settings.training = endless(&job).parameters;
        place.settings.tuning.search.trials = 0;
        place.settings.holdout = job.holdout.clone();
        let material = Material { bundle: Material::made_up(1).bundle, dataset: job.dataset.clone(), as_of: job.as_of };
        let made = cycle_until(&env.ledger, place.path(), material, "dataset").await;
        let trainer = process_trainer(env.object_store.clone(), place.path().join("store"), place.path().to_owned());
        drop(env);
        until("the ledger is free", || async { Ledger::open(&place.path().join("ledger.sqlite")).ok().map(drop) })
            .await;
        let daemon = start(&place.settings, Env { trainer: Arc::new(trainer), ..place.env() }).await;
        daemon.resume().await.unwrap();
        let (ledger, id) = (&daemon.env.ledger, made.cycle.id);
        until("the run has begun", || async {
            step(ledger, id, "train").await.filter(|step| !step.progress.is_empty())
        })
        .await;
        let begun = std::time::Instant::now();
        let answer = command(&daemon, CommandKind::Cancel, "the wrong month").await.unwrap();
        assert_eq!(answer.cycle, Some(id));
        let ended = finished(&daemon, id).await;
        eprintln!("the cycle ended {:?} after it was cancelled", begun.elapsed());
        assert_eq!(ended.outcome, Some(CycleOutcome::Cancelled), "{}", ended.detail);
        assert_eq!(ended.detail, "alice cancelled it: the wrong month");
        assert_step(ledger, id, "train", StepState::Undone).await;
        assert_eq!(ledger.run(made.cycle.run).await.unwrap().unwrap().state, RunState::Cancelled);
        told(ledger, Severity::Info, "cycle_1 was cancelled").await;
        assert!(last_deed(ledger).await.outcome.starts_with("done: cycle_1 stops"));

        let refused = command(&daemon, CommandKind::Cancel, "again").await.unwrap_err();
        assert_eq!((refused.kind, refused.message.as_str()), (ErrorKind::Conflict, "no cycle is under way"));
        assert_eq!(last_deed(ledger).await.outcome, "refused: no cycle is under way");
    });
}

#[test]
fn a_cycle_that_is_cancelled_in_its_rollout_ends_with_the_release_before() {
    in_system(async {
        let place = Place::new(ApprovalMode::Automatic);
        let ledger = place.env().ledger;
        let first = deployed(&ledger, place.path(), Material::made_up(1)).await;
        let second = cycle_until(&ledger, place.path(), Material::made_up(2), "push").await;
        drop(ledger);
        place.cluster.serve(&first.release);
        // The rollout is under way until it is let go on.
        place.failures.fail_always("apply", ErrorKind::Unavailable);
        let daemon = place.start().await;
        daemon.resume().await.unwrap();
        let (ledger, id) = (&daemon.env.ledger, second.cycle.id);
        until("the rollout waits", || async { step(ledger, id, "deploy").await.filter(|step| step.attempt > 1) }).await;
        command(&daemon, CommandKind::Cancel, "not now").await.unwrap();
        until("it is noted", || async { ledger.cycle(id).await.unwrap().unwrap().undoing }).await;
        let refused = command(&daemon, CommandKind::Cancel, "again").await.unwrap_err();
        assert!(refused.message.contains("cycle_2 is already being undone"), "{refused}");
        tokio::time::sleep(Duration::from_millis(50)).await;
        place.failures.heal();
        let ended = finished(&daemon, id).await;
        assert_eq!(ended.outcome, Some(CycleOutcome::Cancelled), "{}", ended.detail);
        assert_eq!(place.cluster.serves(), Some(first.release.deployment));
        assert!(!place.cluster.applied().contains(&second.release.deployment));
        assert_eq!(live(ledger).await, Some(ModelVersion(1)));
    });
}

#[test]
fn a_cycle_that_was_to_stop_when_the_daemon_died_stops_at_the_next_start() {
    in_system(async {
        let place = Place::new(ApprovalMode::Automatic);
        let ledger = place.env().ledger;
        let made = cycle_until(&ledger, place.path(), Material::made_up(1), "push").await;
        let request = CancelRequest { by: "alice".to_owned(), why: "not now".to_owned() };
        ledger.request_cancel(made.cycle.id, request).await.unwrap();
        drop(ledger);
        let daemon = place.start().await;
        daemon.resume().await.unwrap();
        let ended = finished(&daemon, made.cycle.id).await;
        assert_eq!(ended.outcome, Some(CycleOutcome::Cancelled), "{}", ended.detail);
        assert!(place.cluster.applied().is_empty());
        assert!(step(&daemon.env.ledger, made.cycle.id, "deploy").await.is_none());
    });
}

#[test]
fn a_cycle_that_waits_for_approval_is_rejected_and_not_cancelled() {
    in_system(async {
        let place = Place::new(ApprovalMode::Manual);
        let ledger = place.env().ledger;
        let made = cycle_until(&ledger, place.path(), Material::made_up(1), "verify").await;
        ledger.set_cycle_state(made.cycle.id, CycleState::WaitingApproval).await.unwrap();
        drop(ledger);
        let daemon = place.start().await;
        let refused = command(&daemon, CommandKind::Cancel, "no").await.unwrap_err();
        assert!(refused.message.contains("`delayd reject` takes model_v1 back"), "{refused}");
        let cycle = daemon.env.ledger.cycle(made.cycle.id).await.unwrap().unwrap();
        assert_eq!((cycle.state, cycle.cancel), (CycleState::WaitingApproval, None));
    });
}
