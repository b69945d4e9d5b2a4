//! One incarnation of a supervised actor, on an arbiter thread of its own.
//!
//! What actix 0.13 does about a panic in a handler: the actor is one tokio task;
//! tokio catches the panic, the arbiter's thread lives on, and nobody notices.
//! Worse, dropping the actor's future while it unwinds polls it once more, and so
//! handles the next message of the mailbox with a half-changed `self`; if that
//! panics too, the process aborts. So the task is guarded here: the panic is
//! caught first, and the context is terminated before it is dropped.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::task::{self, Poll};
use std::time::Duration;

use actix::dev::ContextFut;
use actix::{Actor, ActorContext, Arbiter, AsyncContext, Context};

use super::actor::ActorRef;
use super::status::Heartbeat;
use delayd_core::failure::panic_message;

/// Makes a new actor, given its heartbeat and its lasting address; runs on the actor's own thread.
pub(super) type Factory<A> = Arc<dyn Fn(Heartbeat, ActorRef<A>) -> A + Send + Sync>;

/// How an incarnation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// It stopped itself.
    Stopped,
    /// A handler, a future of its own, or the factory panicked.
    Panicked(String),
}

/// A started actor. Dropping it asks its thread to end, and waits for nothing.
pub(super) struct Incarnation {
    pub(super) heartbeat: Heartbeat,
    /// How it ended; disconnected if its thread ended without reporting.
    pub(super) ended: Receiver<Ended>,
    arbiter: Arbiter,
}

impl Drop for Incarnation {
    fn drop(&mut self) {
        self.heartbeat.abandon();
        self.arbiter.stop();
    }
}

/// Starts an actor. Must run on a thread where an actix system is current.
pub(super) fn start<A: Actor<Context = Context<A>>>(
    factory: Factory<A>,
    beat_interval: Duration,
    actor_ref: ActorRef<A>,
) -> std::io::Result<Incarnation> {
    let arbiter = Arbiter::try_new()?;
    let heartbeat = Heartbeat::new();
    let (report, ended) = channel();
    let beats = heartbeat.clone();
    arbiter.spawn_fn(move || {
        let made = catch_unwind(AssertUnwindSafe(|| factory(beats.clone(), actor_ref.clone())));
        let actor = match made {
            Ok(actor) => actor,
            Err(payload) => {
                // The watcher may be gone, and then nobody needs to know.
                let _ = report.send(Ended::Panicked(panic_message(payload.as_ref())));
                return;
            }
        };
        // The factory may have taken so long that it was abandoned.
        if beats.is_abandoned() {
            return;
        }
        let mut context = Context::new();
        actor_ref.set_address(Some(context.address()));
        let pulse = beats.clone();
        context.run_interval(beat_interval, move |_, _| pulse.beat());
        beats.beat();
        let life = Guarded { life: Some(Box::pin(context.into_future(actor))), heartbeat: beats };
        actix::spawn(async move {
            let _ = report.send(life.await);
        });
    });
    Ok(Incarnation { heartbeat, ended, arbiter })
}

/// An actor's whole run.
type Life<A> = Pin<Box<ContextFut<A, Context<A>>>>;

/// The actor's task, with panics caught and with an end for the abandoned.
struct Guarded<A: Actor<Context = Context<A>>> {
    life: Option<Life<A>>,
    heartbeat: Heartbeat,
}

impl<A: Actor<Context = Context<A>>> Guarded<A> {
    /// Ends the actor without letting it handle anything more.
    fn terminate(&mut self) {
        if let Some(mut life) = self.life.take() {
            life.ctx().terminate();
            // Dropping an actor's fields can panic as well.
            let _ = catch_unwind(AssertUnwindSafe(move || drop(life)));
        }
    }
}

// `life` is boxed and pinned there; nothing else here minds being moved.
impl<A: Actor<Context = Context<A>>> Unpin for Guarded<A> {}

impl<A: Actor<Context = Context<A>>> Future for Guarded<A> {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Ended> {
        if self.heartbeat.is_abandoned() {
            self.terminate();
        }
        let Some(life) = self.life.as_mut() else { return Poll::Ready(Ended::Stopped) };
        match catch_unwind(AssertUnwindSafe(|| life.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(())) => Poll::Ready(Ended::Stopped),
            Err(payload) => {
                self.terminate();
                Poll::Ready(Ended::Panicked(panic_message(payload.as_ref())))
            }
        }
    }
}

impl<A: Actor<Context = Context<A>>> Drop for Guarded<A> {
    fn drop(&mut self) {
        self.terminate();
    }
}
