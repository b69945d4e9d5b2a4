//! An address that stays good across restarts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use actix::dev::{MessageResponse, ToEnvelope};
use actix::{Actor, Addr, Context, Handler, MailboxError, Message};

use delayd_core::error::ErrorKind;

/// Why an actor did not answer. The message may or may not have been handled:
/// whoever sends again must send something that is safe to repeat.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActorGone {
    /// It is being started again, or was given up.
    #[error("actor `{actor}` is not running now; it is started again unless it was given up (see the status endpoint)")]
    NotRunning {
        /// The actor.
        actor: String,
    },
    /// It died over the message, or before it came to it.
    #[error("actor `{actor}` died before it answered; the message may or may not have taken effect")]
    Died {
        /// The actor.
        actor: String,
    },
    /// It took too long.
    #[error("actor `{actor}` did not answer within {} ms; it may still be at it", deadline.as_millis())]
    DeadlinePassed {
        /// The actor.
        actor: String,
        /// How long was waited.
        deadline: Duration,
    },
}

impl ActorGone {
    /// What sort of failure this is; all of them may pass.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotRunning { .. } | Self::Died { .. } => ErrorKind::Interrupted,
            Self::DeadlinePassed { .. } => ErrorKind::Timeout,
        }
    }
}

/// How many senders wait for an actor's answer; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Waiting(Arc<AtomicU64>);

impl Waiting {
    pub(super) fn senders(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// One sender more, until the answer is dropped: senders give up in many ways.
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

/// Refers to a supervised actor, whichever incarnation is the present one.
pub struct ActorRef<A: Actor> {
    name: Arc<str>,
    present: Arc<RwLock<Option<Addr<A>>>>,
    waiting: Waiting,
}

impl<A: Actor> Clone for ActorRef<A> {
    fn clone(&self) -> Self {
        Self { name: Arc::clone(&self.name), present: Arc::clone(&self.present), waiting: self.waiting.clone() }
    }
}

impl<A: Actor> std::fmt::Debug for ActorRef<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ActorRef").field(&self.name).finish()
    }
}

impl<A: Actor<Context = Context<A>>> ActorRef<A> {
    pub(super) fn new(name: &str) -> Self {
        Self { name: Arc::from(name), present: Arc::new(RwLock::new(None)), waiting: Waiting::default() }
    }

    pub(super) fn waiting(&self) -> Waiting {
        self.waiting.clone()
    }

    pub(super) fn point_at(&self, address: Option<Addr<A>>) {
        *self.present.write().unwrap_or_else(PoisonError::into_inner) = address;
    }

    fn present(&self) -> Option<Addr<A>> {
        self.present.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends a message and waits for the answer, for at most `deadline`. To be
    /// called on a tokio or actix thread.
    ///
    /// # Errors
    /// The actor is not running, died, or did not answer in time.
    pub async fn send<M>(&self, message: M, deadline: Duration) -> Result<M::Result, ActorGone>
    where
        M: Message + Send + 'static,
        M::Result: MessageResponse<A, M> + Send,
        A: Handler<M>,
        Context<A>: ToEnvelope<A, M>,
    {
        let actor = || self.name.to_string();
        let address = self.present().ok_or_else(|| ActorGone::NotRunning { actor: actor() })?;
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
        if let Some(address) = self.present() {
            address.do_send(message);
        }
    }
}
