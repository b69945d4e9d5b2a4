//! The span of a cycle and of its steps, carried to wherever work goes on:
//! across an actor's mailbox and onto other threads.

use actix::dev::MessageResponse;
use actix::{Actor, Handler, Message};
use tokio::sync::oneshot::Sender;
use tracing::Span;

pub use crate::spans::{TRACEPARENT, carried, spawn_blocking, step_span, undo_span, worker_span};
use crate::ledger::Cycle;

/// The span of a cycle. At the level of errors, because a span that a filter leaves
/// out would take its fields from the errors inside.
#[must_use]
pub fn cycle_span(cycle: &Cycle) -> Span {
    tracing::error_span!("cycle", trace.id = %cycle.trace_id(), cycle.id = %cycle.id)
}

/// What an actor does with a message.
type Handling<A> = Box<dyn FnOnce(&mut A, &mut <A as Actor>::Context) + Send>;

/// A message with the span of its sender, and where its answer goes. It knows no
/// message's type, so that an actor handles all of them by one handler.
pub struct Traced<A: Actor>(Handling<A>);

impl<A: Actor> std::fmt::Debug for Traced<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Traced").finish_non_exhaustive()
    }
}

impl<A: Actor> Traced<A> {
    /// The message, sent from here.
    pub fn new<M>(message: M, answer: Sender<M::Result>) -> Self
    where
        A: Handler<M>,
        M: Message + Send + 'static,
        M::Result: Send,
    {
        let span = Span::current();
        Self(Box::new(move |actor, context| {
            span.in_scope(|| {
                let response = <A as Handler<M>>::handle(actor, message, context);
                MessageResponse::<A, M>::handle(response, context, Some(answer));
            });
        }))
    }

    /// Has the actor handle the message within the sender's span. What the handler
    /// answers as a future must enter it by itself.
    pub fn handled_by(self, actor: &mut A, context: &mut A::Context) {
        (self.0)(actor, context);
    }
}

impl<A: Actor> Message for Traced<A> {
    type Result = ();
}
