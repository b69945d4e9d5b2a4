//! A cycle meets an outside system that is away: it waits, tells, and goes on.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message};
use delayd::cycle::saga::{RetryPolicy, Saga, StepName, StepObserver};
use delayd::env::Env;
use delayd::supervision::{ActorGone, ActorState, GivenUp, Heartbeat, SupervisedActor, Supervision, SupervisionPolicy};
use delayd_core::error::ErrorKind;
use delayd_core::failure::StepFailure;
use delayd_core::ids::CycleId;
use delayd_core::ports::Severity;
use delayd_ledger::{CancelRequest, CycleReason, Page, StepState};
use delayd_testkit::contracts::surroundings::env;

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
async fn a_step_waits_out_an_outage_and_both_its_beginning_and_its_end_are_reported_once() {
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
async fn what_is_not_an_outage_is_tried_a_few_times_only() {
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

// ----------------------------------------------------------------
// Actors that panic, hang, stop and fail, for real, on real threads.

const SOON: Duration = Duration::from_secs(5);

struct Worker {
    number: u32,
    heartbeat: Heartbeat,
    handled_late: Arc<AtomicU32>,
}

impl Actor for Worker {
    type Context = Context<Self>;
}

#[derive(Message, Clone, Copy)]
#[rtype(result = "Result<u32, String>")]
enum Do {
    TellNumber,
    Fail,
    Panic,
    PanicInFuture,
    Stop,
    Hang(Duration),
    CountIfAbandoned,
}

impl Handler<Do> for Worker {
    type Result = Result<u32, String>;
    fn handle(&mut self, message: Do, context: &mut Self::Context) -> Self::Result {
        match message {
            Do::TellNumber => {}
            Do::Fail => return Err("not today".into()),
            Do::Panic => panic!("a bug in a handler"),
            Do::PanicInFuture => {
                context.run_later(Duration::from_millis(1), |_, _| panic!("a bug in a future"));
            }
            Do::Stop => context.stop(),
            Do::Hang(time) => {
                self.heartbeat.working_on(Some("counting sheep".into()));
                std::thread::sleep(time);
            }
            Do::CountIfAbandoned => {
                if !self.heartbeat.is_abandoned() {
                    self.handled_late.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
        Ok(self.number)
    }
}

fn policy() -> SupervisionPolicy {
    SupervisionPolicy {
        beat_interval: Duration::from_millis(10),
        hang_limit: Duration::from_millis(300),
        initial_backoff: Duration::from_millis(20),
        max_backoff: Duration::from_millis(200),
        jitter: 0.1,
        max_restarts: 4,
        within: Duration::from_secs(60),
    }
}

struct Bench {
    supervision: Supervision,
    actor: SupervisedActor<Worker>,
    given_up: Arc<Mutex<Vec<GivenUp>>>,
    handled_late: Arc<AtomicU32>,
}

/// Each actor made gets the next number, so that answers tell who gave them.
fn bench() -> Bench {
    // Without a backtrace: to find the names in a binary of this size takes longer than a hang may.
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    let given_up = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&given_up);
    let supervision = Supervision::new(policy(), move |actor| heard.lock().unwrap().push(actor));
    let (made, handled_late) = (AtomicU32::new(0), Arc::new(AtomicU32::new(0)));
    let counter = Arc::clone(&handled_late);
    let actor = supervision
        .spawn("worker", move |heartbeat, _| Worker {
            number: made.fetch_add(1, Ordering::SeqCst) + 1,
            heartbeat,
            handled_late: Arc::clone(&counter),
        })
        .unwrap();
    Bench { supervision, actor, given_up, handled_late }
}

/// Waits for the actor with this number.
async fn number(bench: &Bench, expected: u32) {
    let begun = Instant::now();
    loop {
        let answer = bench.actor.actor_ref().send(Do::TellNumber, SOON).await;
        if answer == Ok(Ok(expected)) {
            return;
        }
        assert!(begun.elapsed() < SOON, "no actor {expected}: {answer:?}, {:?}", bench.actor.status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[actix::test]
async fn an_actor_that_panics_in_a_handler_is_replaced_and_its_caller_gets_an_error() {
    let bench = bench();
    number(&bench, 1).await;
    let gone = bench.actor.actor_ref().send(Do::Panic, SOON).await.unwrap_err();
    assert_eq!(gone, ActorGone::Died { actor: "worker".into() });
    number(&bench, 2).await;
    let status = bench.actor.status();
    assert_eq!((status.state, status.restarts), (ActorState::Running, 1));
    assert_eq!(status.last_failure.as_deref(), Some("it panicked: a bug in a handler"));
    assert_eq!(bench.supervision.statuses()[0].name, "worker");
}

#[actix::test]
async fn a_mailbox_full_of_panics_does_not_abort_the_process() {
    let bench = bench();
    number(&bench, 1).await;
    for _ in 0..10 {
        bench.actor.actor_ref().wake(Do::Panic);
    }
    number(&bench, 2).await;
    assert!(bench.given_up.lock().unwrap().is_empty());
}

#[actix::test]
async fn an_actor_that_panics_in_a_future_or_stops_is_replaced() {
    let bench = bench();
    number(&bench, 1).await;
    bench.actor.actor_ref().wake(Do::PanicInFuture);
    number(&bench, 2).await;
    assert_eq!(bench.actor.status().last_failure.as_deref(), Some("it panicked: a bug in a future"));
    bench.actor.actor_ref().wake(Do::Stop);
    number(&bench, 3).await;
    assert_eq!(bench.actor.status().last_failure.as_deref(), Some("it stopped"));
}

#[actix::test]
async fn an_error_is_an_answer_and_restarts_nothing() {
    let bench = bench();
    number(&bench, 1).await;
    assert_eq!(bench.actor.actor_ref().send(Do::Fail, SOON).await, Ok(Err("not today".into())));
    number(&bench, 1).await;
    assert_eq!(bench.actor.status().restarts, 0);
}

#[actix::test]
async fn an_actor_that_hangs_is_abandoned_and_does_nothing_when_it_comes_back() {
    let bench = bench();
    number(&bench, 1).await;
    let actor = bench.actor.actor_ref();
    let gone = actor.send(Do::Hang(Duration::from_millis(1500)), Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(gone, ActorGone::DeadlinePassed { .. }), "{gone}");
    // Behind the hanging message, in the mailbox of the one that will be abandoned.
    actor.wake(Do::CountIfAbandoned);
    number(&bench, 2).await;
    let failure = bench.actor.status().last_failure.unwrap();
    assert!(failure.contains("no sign of life") && failure.contains("counting sheep"), "{failure}");
    tokio::time::sleep(Duration::from_millis(1800)).await;
    assert_eq!(bench.handled_late.load(Ordering::SeqCst), 0);
    number(&bench, 2).await;
}

#[actix::test]
async fn a_hanging_actor_does_not_hold_up_another() {
    let first = bench();
    let second = bench();
    number(&first, 1).await;
    number(&second, 1).await;
    first.actor.actor_ref().wake(Do::Hang(Duration::from_millis(600)));
    let begun = Instant::now();
    number(&second, 1).await;
    assert!(begun.elapsed() < Duration::from_millis(300));
}

#[actix::test]
async fn an_actor_that_keeps_dying_is_given_up_after_growing_pauses() {
    let bench = bench();
    let begun = Instant::now();
    for n in 1..=5 {
        number(&bench, n).await;
        bench.actor.actor_ref().wake(Do::Panic);
    }
    while bench.given_up.lock().unwrap().is_empty() {
        assert!(begun.elapsed() < SOON, "not given up: {:?}", bench.actor.status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // 20 + 40 + 80 + 160 ms, less ten per cent.
    assert!(begun.elapsed() >= Duration::from_millis(270), "the pauses were too short: {:?}", begun.elapsed());
    assert_eq!(bench.given_up.lock().unwrap()[0].actor, "worker");
    let status = bench.actor.status();
    assert_eq!((status.state, status.restarts), (ActorState::Dead, 4));
    let gone = bench.actor.actor_ref().send(Do::TellNumber, SOON).await.unwrap_err();
    assert_eq!(gone, ActorGone::NotRunning { actor: "worker".into() });
}

#[actix::test]
async fn a_factory_that_panics_counts_as_a_death() {
    let given_up = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&given_up);
    let supervision = Supervision::new(policy(), move |actor| heard.lock().unwrap().push(actor));
    let actor = supervision.spawn::<Worker>("unborn", |_, _| panic!("no such folder")).unwrap();
    let begun = Instant::now();
    while given_up.lock().unwrap().is_empty() {
        assert!(begun.elapsed() < SOON, "not given up: {:?}", actor.status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(given_up.lock().unwrap()[0].failure, "it panicked: no such folder");
}

#[actix::test]
async fn dropping_a_supervised_actor_stops_it_for_good() {
    let Bench { supervision, actor, given_up, .. } = bench();
    let reference = actor.actor_ref();
    drop(actor);
    assert!(matches!(reference.send(Do::TellNumber, SOON).await, Err(ActorGone::NotRunning { .. })));
    assert_eq!(supervision.statuses()[0].state, ActorState::Dead);
    assert!(given_up.lock().unwrap().is_empty());
}
