//! What all stages' actors have in common: they hold the stage's work, which is
//! cheap to clone, and hand each message to it as a future.

use std::future::Future;

use actix::{Actor, Context, Handler, ResponseFuture};
use tracing::{Instrument, Span};

use super::heartbeat::Heartbeat;
use crate::telemetry::Traced;

/// An actor around a stage. It keeps nothing between messages that the ledger
/// does not have, so that a restart loses nothing.
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

    /// Works on a message, and shows what it works on.
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

/// Whatever a stage's actor handles, it also handles within the sender's span.
impl<S: Clone + Unpin + 'static> Handler<Traced<Self>> for StageActor<S> {
    type Result = ();

    fn handle(&mut self, message: Traced<Self>, context: &mut Self::Context) {
        message.handled_by(self, context);
    }
}
