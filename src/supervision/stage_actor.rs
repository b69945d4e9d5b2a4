//! Stages as actors. A stage is what its work needs, cheap to clone; what it can be asked is a [`Request`] each, and one
//! handler passes all of them on.

use std::future::Future;
use std::time::Duration;

use actix::{Actor, Context, Handler, Message, ResponseFuture};
use tracing::{Instrument, Span};

use super::actor_ref::ActorRef;
use super::heartbeat::Heartbeat;
use delayd_core::failure::StepFailure;

/// Something that a stage is asked, with the work that answers it.
pub trait Request: Send + 'static {
    /// Who is asked.
    type Stage: Clone + Unpin + 'static;
    /// What it answers.
    type Answer: Send + 'static;
    /// Who asks waits no longer than this, for this attempt. Hangs are noticed sooner, by supervision; this bounds
    /// honest work.
    const DEADLINE: Duration = Duration::from_secs(1800);

    /// The work. It must be safe to repeat: whoever asks does not know whether a stage that died had done it.
    fn run(self, stage: &Self::Stage) -> impl Future<Output = Result<Self::Answer, StepFailure>>;
}

/// A request on its way, with the span it was sent from.
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
    /// An actor of this stage.
    #[must_use]
    pub fn new(stage: S, heartbeat: Heartbeat) -> Self {
        Self { stage, heartbeat }
    }

    /// The stage, for a handler.
    #[must_use]
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
    /// Asks a stage, from within the caller's span. A stage that is gone is a failure that may be tried again, because
    /// supervision starts it again.
    ///
    /// # Errors
    /// The stage's own failure, or that its actor died or did not answer.
    pub async fn ask<R: Request<Stage = S>>(&self, request: R) -> Result<R::Answer, StepFailure> {
        match self.send(Sent { request, span: Span::current() }, R::DEADLINE).await {
            Ok(answer) => answer,
            Err(gone) => Err(StepFailure::of(gone.kind(), &gone)),
        }
    }
}
