//! How far the request on a connection has come, and until when it must be whole.
//!
//! The connection's stream notes what is read, the middleware ([`receive_in_time`]) what was understood of it;
//! both run on one worker's thread, so that cells are enough. It is given the time and
//! closes nothing itself.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_http::error::PayloadError;
use actix_web::body::MessageBody;
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::ConnectionType;
use actix_web::middleware::Next;
use actix_web::web::Bytes;
use actix_web::{Error, HttpMessage, HttpRequest};
use futures_core::Stream;
use tokio::time::{Instant, Sleep, sleep_until};

/// A late body is answered by its handler; the stream closes the connection only so long after.
const ANSWER_GRACE: Duration = Duration::from_secs(2);
/// What each received byte adds to the deadline: a second for a MB.
const TIME_PER_BYTE: Duration = Duration::from_micros(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing: the connection is idle, or its request is being answered.
    Nothing,
    /// A fresh connection's first byte.
    FirstByte,
    Head,
    /// The body, which its handler reads.
    Body,
    /// A body that its handler does not read on; it is thrown away.
    UnreadBody,
}

#[derive(Debug)]
pub(crate) struct RequestProgress {
    allowed: Duration,
    phase: Cell<Phase>,
    until: Cell<Option<Instant>>,
    handling: Cell<bool>,
    /// Bytes of the next request came while one was being handled.
    read_ahead: Cell<bool>,
    late: Cell<bool>,
}

impl RequestProgress {
    pub(crate) fn new(allowed: Duration, now: Instant) -> Self {
        Self {
            allowed,
            phase: Cell::new(Phase::FirstByte),
            until: Cell::new(Some(now + allowed)),
            handling: Cell::new(false),
            read_ahead: Cell::new(false),
            late: Cell::new(false),
        }
    }

    pub(crate) fn read(&self, bytes: usize, now: Instant) {
        match self.phase.get() {
            Phase::Nothing if self.handling.get() => self.read_ahead.set(true),
            Phase::Nothing => self.begin(Phase::Head, now),
            Phase::FirstByte => self.phase.set(Phase::Head),
            Phase::Head | Phase::Body => {
                let more = TIME_PER_BYTE.saturating_mul(u32::try_from(bytes).unwrap_or(u32::MAX));
                self.until.set(self.until.get().map(|until| until + more));
            }
            // Otherwise a client that sends fast enough would never be cut off.
            Phase::UnreadBody => {}
        }
    }

    /// The head is whole, and the request is handled from now on.
    pub(crate) fn head_received(&self, has_body: bool, now: Instant) {
        self.handling.set(true);
        if !has_body {
            self.end();
        } else if self.phase.get() == Phase::Head {
            self.phase.set(Phase::Body);
        } else {
            // Its head was read together with the request before it.
            self.begin(Phase::Body, now);
        }
    }

    pub(crate) fn body_received(&self) {
        self.end();
    }

    pub(crate) fn body_left_unread(&self) {
        self.phase.set(Phase::UnreadBody);
    }

    pub(crate) fn handled(&self, now: Instant) {
        self.handling.set(false);
        if self.read_ahead.take() && self.phase.get() == Phase::Nothing {
            self.begin(Phase::Head, now);
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub(crate) fn allowed(&self) -> Duration {
        self.allowed
    }

    /// Until when the request must be whole; `None` while nothing is awaited.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.until.get()
    }

    pub(crate) fn close_at(&self) -> Option<Instant> {
        let grace = if self.phase.get() == Phase::Body { ANSWER_GRACE } else { Duration::ZERO };
        self.until.get().map(|until| until + grace)
    }

    pub(crate) fn give_up(&self) {
        self.late.set(true);
    }

    pub(crate) fn is_late(&self) -> bool {
        self.late.get()
    }

    fn begin(&self, phase: Phase, now: Instant) {
        self.phase.set(phase);
        self.until.set(Some(now + self.allowed));
    }

    fn end(&self) {
        self.phase.set(Phase::Nothing);
        self.until.set(None);
    }
}

/// Middleware around every application behind [`http_service`](crate::http_service), outside of
/// whatever may answer by itself, because it notes that a request has arrived: a body
/// that does not arrive in time ends with an error for its reader, which answers 408
/// ([`arrived_late`]), and the connection is closed after the answer.
pub async fn receive_in_time<B: MessageBody>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    let Some(progress) = request.conn_data::<Rc<RequestProgress>>().cloned() else {
        return next.call(request).await;
    };
    let payload = request.take_payload();
    let has_body = !matches!(payload, Payload::None);
    progress.head_received(has_body, Instant::now());
    if has_body {
        let body = TimelyBody { payload, progress: Rc::clone(&progress), alarm: Alarm::default(), whole: false };
        request.set_payload(Payload::Stream { payload: Box::pin(body) });
    }
    let handled = Handled(Rc::clone(&progress));
    let mut response = next.call(request).await?;
    drop(handled);
    if progress.is_late() {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    Ok(response)
}

/// How long the request's body was waited for, where it did not arrive whole in that time.
pub fn arrived_late(request: &HttpRequest) -> Option<Duration> {
    let progress = request.conn_data::<Rc<RequestProgress>>()?;
    progress.is_late().then(|| progress.allowed())
}

/// Notes the end of the handling, also of one that is given up.
struct Handled(Rc<RequestProgress>);

impl Drop for Handled {
    fn drop(&mut self) {
        self.0.handled(Instant::now());
    }
}

/// A body that fails when its time is over.
struct TimelyBody {
    payload: Payload,
    progress: Rc<RequestProgress>,
    alarm: Alarm,
    whole: bool,
}

impl Stream for TimelyBody {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        match Pin::new(&mut this.payload).poll_next(context) {
            Poll::Ready(None) => {
                this.whole = true;
                this.progress.body_received();
                Poll::Ready(None)
            }
            Poll::Pending => match this.progress.until() {
                Some(until) if this.alarm.is_due(until, context) => this.late(),
                _ => Poll::Pending,
            },
            chunk => chunk,
        }
    }
}

impl TimelyBody {
    fn late(&self) -> Poll<Option<Result<Bytes, PayloadError>>> {
        self.progress.give_up();
        Poll::Ready(Some(Err(PayloadError::Io(io::ErrorKind::TimedOut.into()))))
    }
}

impl Drop for TimelyBody {
    fn drop(&mut self) {
        if !self.whole {
            self.progress.body_left_unread();
        }
    }
}

/// A timer that is made when it is first needed: most connections never wait for one.
///
/// Wakes a task at a moment that may move.
#[derive(Debug, Default)]
pub(crate) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Whether `at` has passed; otherwise the task is woken then.
    pub(crate) fn is_due(&mut self, at: Instant, context: &mut Context<'_>) -> bool {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if sleep.deadline() != at {
            sleep.as_mut().reset(at);
        }
        sleep.as_mut().poll(context).is_ready()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What happens on a connection, in order, a second apart.
    #[derive(Debug, Clone, Copy)]
    enum Event {
        Read(usize),
        Head { has_body: bool },
        Body,
        Unread,
        Handled,
    }

    #[test]
    fn a_deadline_runs_while_something_is_awaited_and_only_then() {
        use Event::{Body, Handled, Head, Read, Unread};
        let (plain, with_body) = (Head { has_body: false }, Head { has_body: true });
        type Case<'a> = (&'a [Event], Option<u64>, &'a str);
        let cases: &[Case<'_>] = &[
            (&[], Some(10), "a fresh connection owes its first request"),
            (&[Read(0)], Some(10), "its first byte does not begin the time again"),
            (&[Read(0), plain], None, "a request without a body is whole"),
            (&[Read(0), plain, Handled], None, "an idle connection owes nothing"),
            (&[Read(0), plain, Handled, Read(1)], Some(14), "the next request's time begins with its first byte"),
            (&[Read(0), plain, Handled, Read(1), Read(0)], Some(14), "and not with the next"),
            (&[Read(0), with_body], Some(12), "a body is waited for, a little longer for its answer"),
            (&[Read(0), with_body, Read(3_000_000)], Some(15), "a MB adds a second"),
            (&[Read(0), with_body, Body], None, "a whole body"),
            (&[Read(0), with_body, Unread, Handled], Some(10), "nobody reads the rest"),
            (&[Read(0), with_body, Unread, Handled, Read(9_000_000)], Some(10), "however much of it comes"),
            (&[Read(0), with_body, Unread, Handled, Read(0), with_body], Some(18), "then the next request"),
            (&[Read(0), plain, Read(5)], None, "what is sent ahead waits for the answer before it"),
            (&[Read(0), plain, Read(5), Handled], Some(14), "and has its own time from then on"),
            (&[Read(0), plain, Handled, with_body], Some(16), "a request that was read together with the one before"),
        ];
        for (events, expected, why) in cases {
            let start = Instant::now();
            let progress = RequestProgress::new(Duration::from_secs(10), start);
            for (index, event) in events.iter().enumerate() {
                let now = start + Duration::from_secs(index as u64 + 1);
                match *event {
                    Read(bytes) => progress.read(bytes, now),
                    Head { has_body } => progress.head_received(has_body, now),
                    Body => progress.body_received(),
                    Unread => progress.body_left_unread(),
                    Handled => progress.handled(now),
                }
            }
            let close_after = progress.close_at().map(|at| (at - start).as_secs());
            assert_eq!(close_after, *expected, "{why}: {events:?}");
        }
    }
}
