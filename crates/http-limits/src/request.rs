//! What a request passes before its handler: its body is read against the deadline.

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
use tokio::time::Instant;

use crate::alarm::Alarm;
use crate::progress::RequestProgress;

/// Middleware around every application behind [`http_service`](crate::http_service), outside of
/// whatever may answer by itself, because it notes that a request has arrived: a body
/// that does not arrive in time ends with an error for whoever reads it, who answers 408
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
