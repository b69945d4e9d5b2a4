//! What all stages' actors have in common: they hold the stage's work, which is
//! cheap to clone, and hand each message to it as a future.

use std::future::Future;

use actix::{Actor, Context, ResponseFuture};

use super::heartbeat::Heartbeat;

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
        Box::pin(async move {
            heartbeat.working_on(Some(what));
            let answer = work.await;
            heartbeat.working_on(None);
            answer
        })
    }
}

impl<S: Clone + Unpin + 'static> Actor for StageActor<S> {
    type Context = Context<Self>;
}
