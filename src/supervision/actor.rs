//! Actors as others see them: an address that stays good across restarts, and stages behind it. A stage is what its
//! work needs, cheap to clone; each thing it can be asked is a [`Request`], and one handler serves all of them.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use actix::dev::{MessageResponse, ToEnvelope};
use actix::{Actor, Addr, Context, Handler, MailboxError, Message, ResponseFuture};
use tracing::{Instrument, Span};

use super::status::Heartbeat;
use delayd_core::error::ErrorKind;
use delayd_core::failure::StepFailure;

/// Why an actor did not answer. The message may or may not have been handled:
/// whoever sends again must send something that is safe to repeat.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActorGone {
    #[error("actor `{actor}` is not running now; it is restarted unless it was given up (see the status endpoint)")]
    NotRunning { actor: String },
    /// It died while handling the message, or before.
    #[error("actor `{actor}` died before it answered; the message may or may not have taken effect")]
    Died { actor: String },
    #[error("actor `{actor}` did not answer within {} ms; it may still be working on it", deadline.as_millis())]
    DeadlinePassed { actor: String, deadline: Duration },
}

impl ActorGone {
    /// All of them may pass.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotRunning { .. } | Self::Died { .. } => ErrorKind::Interrupted,
            Self::DeadlinePassed { .. } => ErrorKind::Timeout,
        }
    }
}

/// The number of senders waiting for an actor's answer; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Waiting(Arc<AtomicU64>);

impl Waiting {
    pub(super) fn senders(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// One more sender, until the guard is dropped: senders give up in many ways.
    fn enter(&self) -> WaitingSender<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        WaitingSender(&self.0)
    }
}

struct WaitingSender<'a>(&'a AtomicU64);

impl Drop for WaitingSender<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Refers to a supervised actor, whichever incarnation is the current one.
pub struct ActorRef<A: Actor> {
    name: Arc<str>,
    current: Arc<RwLock<Option<Addr<A>>>>,
    waiting: Waiting,
}

impl<A: Actor> Clone for ActorRef<A> {
    fn clone(&self) -> Self {
        Self { name: Arc::clone(&self.name), current: Arc::clone(&self.current), waiting: self.waiting.clone() }
    }
}

impl<A: Actor> std::fmt::Debug for ActorRef<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ActorRef").field(&self.name).finish()
    }
}

impl<A: Actor<Context = Context<A>>> ActorRef<A> {
    pub(super) fn new(name: &str) -> Self {
        Self { name: Arc::from(name), current: Arc::new(RwLock::new(None)), waiting: Waiting::default() }
    }

    pub(super) fn waiting(&self) -> Waiting {
        self.waiting.clone()
    }

    pub(super) fn set_address(&self, address: Option<Addr<A>>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = address;
    }

    fn address(&self) -> Option<Addr<A>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends a message and waits for the answer, for at most `deadline`. To be
    /// called on a tokio or actix thread.
    pub async fn send<M>(&self, message: M, deadline: Duration) -> Result<M::Result, ActorGone>
    where
        M: Message + Send + 'static,
        M::Result: MessageResponse<A, M> + Send,
        A: Handler<M>,
        Context<A>: ToEnvelope<A, M>,
    {
        let actor = || self.name.to_string();
        let address = self.address().ok_or_else(|| ActorGone::NotRunning { actor: actor() })?;
        let _waiting = self.waiting.enter();
        match tokio::time::timeout(deadline, address.send(message)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(MailboxError::Closed)) => Err(ActorGone::Died { actor: actor() }),
            Ok(Err(MailboxError::Timeout)) | Err(_) => Err(ActorGone::DeadlinePassed { actor: actor(), deadline }),
        }
    }

    /// Sends a wake-up that is safe to lose and safe to repeat. It is lost
    /// silently while the actor is restarting: actors also wake on a timer.
    pub fn wake<M>(&self, message: M)
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
        Context<A>: ToEnvelope<A, M>,
    {
        if let Some(address) = self.address() {
            address.do_send(message);
        }
    }
}

/// Something that a stage can be asked, with the work that answers it.
pub trait Request: Send + 'static {
    type Stage: Clone + Unpin + 'static;
    type Answer: Send + 'static;
    /// The caller waits no longer than this for one attempt. Hangs are noticed sooner, by supervision; this bounds
    /// honest work.
    const DEADLINE: Duration = Duration::from_secs(1800);

    /// The work. It must be safe to repeat: the caller does not know whether a stage that died had done it.
    fn run(self, stage: &Self::Stage) -> impl Future<Output = Result<Self::Answer, StepFailure>>;
}

/// A request in the mailbox, with the span it was sent from.
struct Sent<R> {
    request: R,
    span: Span,
}

impl<R: Request> Message for Sent<R> {
    type Result = Result<R::Answer, StepFailure>;
}

/// An actor around a stage. It keeps nothing between messages that the ledger does not have, so that a restart loses
/// nothing.
#[derive(Debug)]
pub struct StageActor<S> {
    stage: S,
    heartbeat: Heartbeat,
}

impl<S: Clone + Unpin + 'static> StageActor<S> {
    pub fn new(stage: S, heartbeat: Heartbeat) -> Self {
        Self { stage, heartbeat }
    }

    pub fn stage(&self) -> S {
        self.stage.clone()
    }

    /// Works on a message within the sender's span, and shows what it works on.
    pub fn work<T: 'static>(&self, what: &str, work: impl Future<Output = T> + 'static) -> ResponseFuture<T> {
        let (heartbeat, what) = (self.heartbeat.clone(), what.to_owned());
        let done = async move {
            heartbeat.working_on(Some(what));
            let answer = work.await;
            heartbeat.working_on(None);
            answer
        };
        // Handlers run within the sender's span; the future outlives them.
        Box::pin(done.instrument(Span::current()))
    }
}

impl<S: Clone + Unpin + 'static> Actor for StageActor<S> {
    type Context = Context<Self>;
}

impl<R: Request> Handler<Sent<R>> for StageActor<R::Stage> {
    type Result = ResponseFuture<Result<R::Answer, StepFailure>>;

    fn handle(&mut self, message: Sent<R>, _: &mut Self::Context) -> Self::Result {
        let Sent { request, span } = message;
        let stage = self.stage();
        let name = std::any::type_name::<R>();
        let name = name.rsplit("::").next().unwrap_or(name);
        span.in_scope(|| self.work(name, async move { request.run(&stage).await }))
    }
}

/// Refers to a stage's actor.
pub type StageRef<S> = ActorRef<StageActor<S>>;

impl<S: Clone + Unpin + 'static> StageRef<S> {
    /// Asks a stage, within the caller's span. A stage that is gone is a retryable failure, because supervision
    /// restarts it.
    pub async fn ask<R: Request<Stage = S>>(&self, request: R) -> Result<R::Answer, StepFailure> {
        match self.send(Sent { request, span: Span::current() }, R::DEADLINE).await {
            Ok(answer) => answer,
            Err(gone) => Err(StepFailure::of(gone.kind(), &gone)),
        }
    }
}
