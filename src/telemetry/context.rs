//! The span of a cycle and of its steps, carried to wherever work goes on:
//! across an actor's mailbox and onto other threads.

use actix::dev::MessageResponse;
use actix::{Actor, Handler, Message};
use tokio::task::JoinHandle;
use tracing::Span;

use crate::ledger::Cycle;

/// The span of a cycle. At the level of errors, because a span that a filter leaves
/// out would take its fields from the errors inside.
#[must_use]
pub fn cycle_span(cycle: &Cycle) -> Span {
    tracing::error_span!("cycle", trace.id = %cycle.trace_id(), cycle.id = %cycle.id)
}

/// The span of a cycle's step.
#[must_use]
pub fn step_span(step: &'static str) -> Span {
    tracing::error_span!("step", step)
}

/// The span of a step being taken back.
#[must_use]
pub fn undo_span(step: &'static str) -> Span {
    tracing::error_span!("undo", step, undo = true)
}

/// Work that, on whichever thread it runs, belongs to the caller's span.
pub fn carried<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let span = Span::current();
    move || span.in_scope(work)
}

/// [`tokio::task::spawn_blocking`] within the caller's span.
pub fn spawn_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    tokio::task::spawn_blocking(carried(work))
}

/// A message with the span of its sender.
#[derive(Debug)]
pub struct Traced<M> {
    message: M,
    span: Span,
}

impl<M> Traced<M> {
    /// The message, sent from here.
    pub fn new(message: M) -> Self {
        Self { message, span: Span::current() }
    }

    /// Has an actor handle the message within the sender's span. What the handler
    /// answers as a future must enter it by itself.
    pub fn handled_by<A>(self, actor: &mut A, context: &mut A::Context) -> <A as Handler<M>>::Result
    where
        A: Actor + Handler<M>,
        M: Message,
        <A as Handler<M>>::Result: MessageResponse<A, Self>,
    {
        let Self { message, span } = self;
        span.in_scope(|| actor.handle(message, context))
    }
}

impl<M: Message> Message for Traced<M> {
    type Result = M::Result;
}
