//! A cycle meets an outside system that is away: it waits, tells, and goes on.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use delayd_testkit::contracts;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use contracts::surroundings::env;
use delayd::cycle::saga::{RetryPolicy, Saga, StepName, StepObserver};
use delayd::env::Env;
use delayd_core::error::ErrorKind;
use delayd_core::failure::StepFailure;
use delayd_core::ids::CycleId;
use delayd_core::ports::Severity;
use delayd_ledger::{CancelRequest, CycleReason, Page, StepState};

const PUSH: StepName = StepName::new(7, "push");

struct Silent;

impl StepObserver for Silent {
    fn started(&self, _: CycleId, _: &str) {}
    fn finished(&self, _: CycleId, _: &str, _: Duration, _: Option<&StepFailure>) {}
}

async fn saga(env: &Env, patience: Duration) -> (Saga, CycleId) {
    let cycle = env.ledger.begin_cycle(CycleReason::Bootstrap, env.now()).await.unwrap();
    let retry = RetryPolicy {
        attempts: 2,
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(2),
        outage_patience: patience,
    };
    (Saga::new(env.clone(), cycle.id, retry, Arc::new(Silent)), cycle.id)
}

/// Fails as a registry that is away does, `times` times.
async fn away(calls: &AtomicU32, times: u32) -> Result<(), StepFailure> {
    if calls.fetch_add(1, Ordering::SeqCst) < times {
        return Err(StepFailure::new(ErrorKind::Unavailable, "pushing delay-ml:model_v1: connection refused"));
    }
    Ok(())
}

async fn alerts(env: &Env) -> Vec<(Severity, String)> {
    let alerts = env.ledger.alerts(Page { offset: 0, limit: 10 }).await.unwrap();
    let mut told: Vec<_> = alerts.into_iter().map(|alert| (alert.alert.severity, alert.alert.title)).collect();
    told.sort();
    told
}

#[tokio::test]
async fn a_step_waits_out_an_outage_and_both_its_beginning_and_its_end_are_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let env = env(folder.path());
    let (saga, cycle) = saga(&env, Duration::from_secs(60)).await;
    let calls = AtomicU32::new(0);
    saga.step(PUSH, || away(&calls, 7)).await.unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 8);
    let steps = env.ledger.steps_of(cycle).await.unwrap();
    assert_eq!((steps[0].state, steps[0].attempt), (StepState::Done, 8));
    let expected = [
        (Severity::Info, format!("{cycle} resumes after `push`")),
        (Severity::Warning, format!("{cycle} is waiting at `push`")),
    ];
    assert_eq!(alerts(&env).await, expected);
}

#[tokio::test]
async fn patience_with_an_outage_has_an_end_and_the_step_then_fails_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let env = env(folder.path());
    let (saga, cycle) = saga(&env, Duration::from_millis(20)).await;
    let calls = AtomicU32::new(0);
    let failure = saga.step(PUSH, || away(&calls, u32::MAX)).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Unavailable);
    let steps = env.ledger.steps_of(cycle).await.unwrap();
    assert_eq!(steps[0].state, StepState::Failed);
    assert!(steps[0].error.as_deref().unwrap().contains("connection refused"));
}

#[tokio::test]
async fn an_undo_waits_out_an_outage_instead_of_getting_stuck() {
    let folder = tempfile::tempdir().unwrap();
    let env = env(folder.path());
    let (saga, cycle) = saga(&env, Duration::from_secs(60)).await;
    saga.step(PUSH, || async { Ok(()) }).await.unwrap();
    let calls = AtomicU32::new(0);
    saga.undo(PUSH, || away(&calls, 5)).await.unwrap();
    assert_eq!(env.ledger.steps_of(cycle).await.unwrap()[0].state, StepState::Undone);
}

#[tokio::test]
async fn what_is_no_outage_is_tried_a_few_times_only() {
    let folder = tempfile::tempdir().unwrap();
    let env = env(folder.path());
    let (saga, _) = saga(&env, Duration::from_secs(60)).await;
    let calls = AtomicU32::new(0);
    let attempt = || async {
        calls.fetch_add(1, Ordering::SeqCst);
        Err::<(), _>(StepFailure::new(ErrorKind::Interrupted, "the actor died"))
    };
    assert_eq!(saga.step(PUSH, attempt).await.unwrap_err().kind, ErrorKind::Interrupted);
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    assert!(alerts(&env).await.is_empty());
}

#[tokio::test]
async fn a_cancelled_cycle_begins_no_step_and_stops_waiting_for_an_outage() {
    let folder = tempfile::tempdir().unwrap();
    let env = env(folder.path());
    let (saga, cycle) = saga(&env, Duration::from_secs(60)).await;
    let calls = AtomicU32::new(0);
    let request = CancelRequest { by: "alice".to_owned(), why: "enough".to_owned() };
    let waiting = || async {
        if calls.fetch_add(1, Ordering::SeqCst) == 2 {
            env.ledger.request_cancel(cycle, request.clone()).await.unwrap();
        }
        Err::<(), _>(StepFailure::new(ErrorKind::Unavailable, "connection refused"))
    };
    let failure = saga.step(PUSH, waiting).await.unwrap_err();
    assert_eq!((failure.kind, failure.message.as_str()), (ErrorKind::Cancelled, "alice cancelled it: enough"));
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    let next = StepName::new(8, "deploy");
    assert_eq!(saga.step(next, || async { Ok(()) }).await.unwrap_err().kind, ErrorKind::Cancelled);
    assert_eq!(env.ledger.steps_of(cycle).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_undo_that_fails_is_journaled_before_it_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let env = env(folder.path());
    let (saga, cycle) = saga(&env, Duration::from_secs(60)).await;
    saga.step(PUSH, || async { Ok(()) }).await.unwrap();
    let calls = AtomicU32::new(0);
    let undo = || async {
        if calls.fetch_add(1, Ordering::SeqCst) == 0 {
            return Err(StepFailure::new(ErrorKind::Unavailable, "connection refused"));
        }
        let journaled = env.ledger.steps_of(cycle).await.unwrap().remove(0);
        assert_eq!((journaled.state, journaled.error.as_deref()), (StepState::UndoFailed, Some("connection refused")));
        Ok(())
    };
    saga.undo(PUSH, undo).await.unwrap();
    assert_eq!(env.ledger.steps_of(cycle).await.unwrap()[0].state, StepState::Undone);
}
