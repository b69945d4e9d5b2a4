//! Commands that are refused change nothing; those that are done are noted with what came of them.

use std::sync::Arc;
use std::time::Duration;

use delayd::config::ApprovalMode;
use delayd::cycle::snapshot::paused;
use delayd::cycle::{commands::CommandKind, coordinator::Consider};
use delayd::env::Env;
use delayd::http::Metrics;
use delayd::stages::live_service::live_service;
use delayd_core::error::ErrorKind;
use delayd_core::ids::{DeploymentId, Digest, ModelVersion};
use delayd_core::ports::{ObjectStore, Release, Severity};
use delayd_ledger::{CancelRequest, CycleOutcome, CycleReason, CycleState, Page, RunState, StepState};
use delayd_testkit::contracts::training_world::{endless, job_in, process_trainer};
use delayd_testkit::cycle_world::{
    Material, Place, alerts, assert_step, at, command, cycle_until, ended_with, finished, last_deed, live, start, step,
    told,
};
use delayd_testkit::tools::{in_system, until};

#[test]
fn a_retrain_that_is_refused_does_not_begin_later_by_itself() {
    in_system(async {
        let place = Place::new(ApprovalMode::Manual);
        let first = place.deployed(1).await;
        let second = place.waiting(2).await;
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
        assert!(refused.message.contains("automatic cycles are not paused"), "{refused}");
        command(&daemon, CommandKind::Pause, "a storm is coming").await.unwrap();
        let refused = command(&daemon, CommandKind::Pause, "").await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Conflict);
        assert!(
            refused.message.contains("alice already paused automatic cycles") && refused.message.contains("a storm")
        );
        assert_eq!(
            daemon.env.ledger.read("reading the pause", paused).await.unwrap().unwrap().reason,
            "a storm is coming"
        );
        command(&daemon, CommandKind::Resume, "").await.unwrap();
        assert_eq!(daemon.env.ledger.read("reading the pause", paused).await.unwrap(), None);
        assert!(command(&daemon, CommandKind::Resume, "").await.is_err());
    });
}

#[test]
fn a_resume_closes_an_open_breaker_without_a_pause() {
    in_system(async {
        let place = Place::new(ApprovalMode::Automatic);
        let ledger = place.ledger().await;
        for _ in 0..place.settings.retrain.governor.breaker_after {
            let cycle = ledger.begin_cycle(CycleReason::Scheduled, at(0)).await.unwrap();
            ledger.finish_cycle(cycle.id, CycleOutcome::KeptLive, "no better", at(1)).await.unwrap();
        }
        drop(ledger);
        let daemon = place.start().await;
        command(&daemon, CommandKind::Resume, "it is the season").await.unwrap();
        let refused = command(&daemon, CommandKind::Resume, "again").await.unwrap_err();
        assert!(refused.message.contains("nothing to resume"), "{refused}");
    });
}

// ----------------------------------------------------------------
// A cycle that somebody stops.

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
        drop(place.ledger().await);
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
        let first = place.deployed(1).await;
        let second = place.cycle_until(2, "push").await;
        place.cluster.serve(&first.release);
        // The rollout is under way until it is let go on.
        place.failures.fail_always("apply", ErrorKind::Unavailable);
        let daemon = place.resumed().await;
        let (ledger, id) = (&daemon.env.ledger, second.cycle.id);
        until("the rollout waits", || async { step(ledger, id, "deploy").await.filter(|step| step.attempt > 1) }).await;
        command(&daemon, CommandKind::Cancel, "not now").await.unwrap();
        until("it is noted", || async { ledger.cycle(id).await.unwrap().unwrap().undoing }).await;
        let refused = command(&daemon, CommandKind::Cancel, "again").await.unwrap_err();
        assert!(refused.message.contains("cycle_2 is already being undone"), "{refused}");
        tokio::time::sleep(Duration::from_millis(50)).await;
        place.failures.heal();
        ended_with(&daemon, id, CycleOutcome::Cancelled).await;
        assert_eq!(place.cluster.serves(), Some(first.release.deployment));
        assert!(!place.cluster.applied().contains(&second.release.deployment));
        assert_eq!(live(ledger).await, Some(ModelVersion(1)));
    });
}

#[test]
fn a_cycle_that_was_to_stop_when_the_daemon_died_stops_at_the_next_start() {
    in_system(async {
        let place = Place::new(ApprovalMode::Automatic);
        let made = place.cycle_until(1, "push").await;
        let ledger = place.ledger().await;
        let request = CancelRequest { by: "alice".to_owned(), why: "not now".to_owned() };
        ledger.request_cancel(made.cycle.id, request).await.unwrap();
        drop(ledger);
        let daemon = place.resumed().await;
        ended_with(&daemon, made.cycle.id, CycleOutcome::Cancelled).await;
        assert!(place.cluster.applied().is_empty());
        assert!(step(&daemon.env.ledger, made.cycle.id, "deploy").await.is_none());
    });
}

#[test]
fn a_cycle_that_waits_for_approval_is_rejected_and_not_cancelled() {
    in_system(async {
        let place = Place::new(ApprovalMode::Manual);
        let made = place.waiting(1).await;
        let daemon = place.start().await;
        let refused = command(&daemon, CommandKind::Cancel, "no").await.unwrap_err();
        assert!(refused.message.contains("`delayd reject` takes model_v1 out of service"), "{refused}");
        let cycle = daemon.env.ledger.cycle(made.cycle.id).await.unwrap().unwrap();
        assert_eq!((cycle.state, cycle.cancel), (CycleState::WaitingApproval, None));
    });
}

// ----------------------------------------------------------------
// A cluster that serves what the ledger does not say.

/// What a newer ledger than this one had deployed.
fn of_a_lost_ledger(known: &Release) -> Release {
    Release { deployment: DeploymentId(9), model: ModelVersion(9), bundle: Digest::of(b"lost"), ..known.clone() }
}

#[test]
fn with_an_older_ledger_restored_a_release_is_deployed_and_undone_to_the_live_models_own() {
    in_system(async {
        let place = Place::new(ApprovalMode::Automatic);
        let first = place.deployed(1).await;
        let second = place.cycle_until(2, "push").await;
        place.cluster.serve(&of_a_lost_ledger(&first.release));
        let daemon = place.resumed().await;
        // There is no such bundle, so its verification fails, after it was deployed.
        ended_with(&daemon, second.cycle.id, CycleOutcome::RolledBack).await;
        let (good, bad) = (first.release.deployment, second.release.deployment);
        assert_eq!(place.cluster.applied(), [bad, good]);
        let ledger = &daemon.env.ledger;
        assert_step(ledger, second.cycle.id, "verify", StepState::Failed).await;
        assert_eq!(ledger.deployment(bad).await.unwrap().unwrap().previous, Some(good));
        let body = told(ledger, Severity::Warning, "serves a deployment unknown to this ledger").await;
        assert!(body.contains("deployment_9 of model_v9"), "{body}");
        assert_eq!(live(ledger).await, Some(ModelVersion(1)));
        assert!(live_service(&daemon.env).await.unwrap().unwrap().served, "ledger and cluster agree again");
    });
}

#[test]
fn a_live_model_that_is_not_being_served_is_reported_once_and_measured() {
    in_system(async {
        let place = Place::new(ApprovalMode::Automatic);
        let first = place.deployed(1).await;
        let second = place.deployed(2).await;
        place.cluster.serve(&second.release);
        let daemon = place.start().await;
        let metrics = Metrics::new(&daemon.settings).unwrap();
        let measured = async || {
            let page = metrics.render(&daemon.env, daemon.supervision()).await.unwrap();
            page.lines().find(|line| line.starts_with("delayd_live_model_served")).map(str::to_owned)
        };
        daemon.resume().await.unwrap();
        assert!(alerts(&daemon.env.ledger).await.is_empty(), "what is live serves");
        assert_eq!(measured().await.as_deref(), Some("delayd_live_model_served 1"));

        for (serves, said) in [
            (Some(first.release.clone()), "the cluster serves deployment_1 of model_v1."),
            (Some(of_a_lost_ledger(&first.release)), "a deployment unknown to this ledger"),
            (None, "the cluster serves nothing."),
        ] {
            match &serves {
                Some(release) => place.cluster.serve(release),
                None => delayd_core::ports::Cluster::tear_down(&place.cluster).await.unwrap(),
            }
            let before = alerts(&daemon.env.ledger).await.len();
            let day = daemon.env.now().date_naive();
            daemon.resume().await.unwrap();
            daemon.resume().await.unwrap();
            let all = alerts(&daemon.env.ledger).await;
            // Midnight may lie between the two.
            assert!(all.len() == before + 1 || daemon.env.now().date_naive() != day, "{all:?}");
            let found = all.iter().find(|(_, _, body)| body.contains(said)).unwrap_or_else(|| panic!("{all:?}"));
            assert_eq!((found.0, found.1.as_str()), (Severity::Critical, "model_v2 is live but not being served"));
            assert!(found.2.contains("`delayd rollback` brings model_v1 back"), "{}", found.2);
            assert_eq!(measured().await.as_deref(), Some("delayd_live_model_served 0"));
        }

        // While a cycle is open another release may serve: nothing can be said.
        daemon.env.ledger.begin_cycle(delayd_ledger::CycleReason::Scheduled, daemon.env.now()).await.unwrap();
        assert_eq!((live_service(&daemon.env).await.unwrap(), measured().await), (None, None));
    });
}
