//! The watcher beside each actor, and the list of all of them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix::{Actor, Context, System};

use super::actor::ActorRef;
use super::incarnation::{Ended, Factory, Incarnation, start};
use super::policy::{RestartBudget, SupervisionPolicy, Verdict, decide};
use super::status::{ActorState, ActorStatus, Heartbeat, StatusCell};

/// An actor that died too often: the daemon cannot continue without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUp {
    pub actor: String,
    /// How it died last.
    pub failure: String,
}

/// Supervises all actors of a daemon.
#[derive(Clone)]
pub struct Supervision {
    policy: SupervisionPolicy,
    give_up: Arc<dyn Fn(GivenUp) + Send + Sync>,
    statuses: Arc<Mutex<Vec<StatusCell>>>,
}

impl std::fmt::Debug for Supervision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervision").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Supervision {
    /// Supervision by `policy`. `give_up` is called, on a watcher's thread, when
    /// an actor has died too often; it should end the process.
    pub fn new(policy: SupervisionPolicy, give_up: impl Fn(GivenUp) + Send + Sync + 'static) -> Self {
        Self { policy, give_up: Arc::new(give_up), statuses: Arc::default() }
    }

    /// Starts an actor under supervision, on a thread of its own. `factory` makes
    /// it, now and after every death, on that thread; it gets the incarnation's
    /// heartbeat and its own lasting address. Must be called where an actix system runs.
    pub fn spawn<A: Actor<Context = Context<A>>>(
        &self,
        name: &str,
        factory: impl Fn(Heartbeat, ActorRef<A>) -> A + Send + Sync + 'static,
    ) -> std::io::Result<SupervisedActor<A>> {
        let actor_ref = ActorRef::new(name);
        let status = StatusCell::new(name, Heartbeat::new(), actor_ref.waiting());
        let (stop, stopped) = channel();
        let watcher = Watcher {
            factory: Arc::new(factory) as Factory<A>,
            policy: self.policy.clone(),
            actor_ref: actor_ref.clone(),
            status: status.clone(),
            stopped,
            give_up: Arc::clone(&self.give_up),
            since: Instant::now(),
        };
        let system = System::current();
        let thread = std::thread::Builder::new().name(format!("watch-{name}")).spawn(move || {
            System::set_current(system);
            watcher.run();
        })?;
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner).push(status.clone());
        Ok(SupervisedActor { actor_ref, status, stop, watcher: Some(thread) })
    }

    /// All actors' statuses, in the order in which they were started.
    pub fn statuses(&self) -> Vec<ActorStatus> {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner).iter().map(StatusCell::read).collect()
    }
}

/// A supervised actor. Dropping it stops the supervision and the actor.
#[derive(Debug)]
pub struct SupervisedActor<A: Actor> {
    actor_ref: ActorRef<A>,
    status: StatusCell,
    stop: Sender<()>,
    watcher: Option<JoinHandle<()>>,
}

impl<A: Actor> SupervisedActor<A> {
    /// The address that stays good across restarts.
    pub fn actor_ref(&self) -> ActorRef<A> {
        self.actor_ref.clone()
    }

    /// How it is doing.
    pub fn status(&self) -> ActorStatus {
        self.status.read()
    }
}

impl<A: Actor> Drop for SupervisedActor<A> {
    fn drop(&mut self) {
        // The watcher may have given up and gone already.
        let _ = self.stop.send(());
        let Some(watcher) = self.watcher.take() else { return };
        // `give_up` may drop us on the watcher's own thread.
        if watcher.thread().id() != std::thread::current().id() {
            let _ = watcher.join();
        }
    }
}

struct Watcher<A: Actor> {
    factory: Factory<A>,
    policy: SupervisionPolicy,
    actor_ref: ActorRef<A>,
    status: StatusCell,
    stopped: Receiver<()>,
    give_up: Arc<dyn Fn(GivenUp) + Send + Sync>,
    since: Instant,
}

/// Why the watcher stopped watching one incarnation.
enum End {
    Died { state: ActorState, failure: String },
    StopRequested,
}

impl<A: Actor<Context = Context<A>>> Watcher<A> {
    fn run(self) {
        let mut budget = RestartBudget::default();
        let mut restarts = 0u64;
        loop {
            let end = match start(Arc::clone(&self.factory), self.policy.beat_interval, self.actor_ref.clone()) {
                Ok(incarnation) => {
                    self.status.running(incarnation.heartbeat.clone(), restarts > 0);
                    self.watch(&incarnation)
                    // Here the incarnation is dropped: abandoned, its thread asked to end.
                }
                Err(error) => {
                    End::Died { state: ActorState::Restarting, failure: format!("its thread did not start: {error}") }
                }
            };
            self.actor_ref.set_address(None);
            let End::Died { state, failure } = end else { break };
            self.status.set(state, Some(failure.clone()));
            let name = self.status.name();
            match decide(&mut budget, &self.policy, self.since.elapsed(), self.spread(restarts)) {
                Verdict::RestartAfter(pause) => {
                    tracing::warn!(
                        actor.name = name,
                        error = failure,
                        pause_ms = pause.as_millis() as u64,
                        "actor died and is restarted after a pause"
                    );
                    if !matches!(self.stopped.recv_timeout(pause), Err(RecvTimeoutError::Timeout)) {
                        break;
                    }
                }
                Verdict::GiveUp => {
                    tracing::error!(actor.name = name, error = failure, "actor died too often; the daemon ends");
                    self.status.set(ActorState::Dead, None);
                    (self.give_up)(GivenUp { actor: name.to_owned(), failure });
                    return;
                }
            }
            restarts += 1;
        }
        self.status.set(ActorState::Dead, None);
    }

    /// A number in 0..1 that differs between actors and restarts. It need not be
    /// random: it only keeps actors that died together from returning together.
    fn spread(&self, restarts: u64) -> f64 {
        let mut hasher = DefaultHasher::new();
        (self.status.name(), restarts).hash(&mut hasher);
        (hasher.finish() >> 32) as f64 / f64::from(u32::MAX)
    }

    fn watch(&self, incarnation: &Incarnation) -> End {
        let tick = (self.policy.beat_interval / 2).clamp(Duration::from_millis(1), Duration::from_millis(250));
        loop {
            match incarnation.ended.recv_timeout(tick) {
                Ok(Ended::Stopped) => return died("it stopped"),
                Ok(Ended::Panicked(message)) => return died(&format!("it panicked: {message}")),
                Err(RecvTimeoutError::Disconnected) => return died("its thread ended"),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if !matches!(self.stopped.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty)) {
                return End::StopRequested;
            }
            let heartbeat = &incarnation.heartbeat;
            if self.policy.is_hung(heartbeat.last_beat(), heartbeat.age()) {
                let silent = heartbeat.age().saturating_sub(heartbeat.last_beat());
                let work = heartbeat.current_work().map(|work| format!(" while {work}")).unwrap_or_default();
                let failure = format!("it gave no sign of life for {} ms{work}", silent.as_millis());
                return End::Died { state: ActorState::Hung, failure };
            }
        }
    }
}

fn died(failure: &str) -> End {
    End::Died { state: ActorState::Restarting, failure: failure.to_owned() }
}
