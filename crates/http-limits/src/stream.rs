//! A client's stream with deadlines: for the request that is read from it, and for the
//! answer that is written to it. It knows nothing of HTTP but what
//! [`RequestProgress`](crate::progress) tells it.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::connections::{CloseReason, Slot};
use crate::progress::{Alarm, Phase, RequestProgress};

/// What a client reads whose request's head does not arrive: no handler is there yet to answer it.
const LATE_HEAD: &[u8] = b"HTTP/1.1 408 Request Timeout\r\n\
    content-type: application/problem+json\r\n\
    content-length: 112\r\n\
    connection: close\r\n\
    \r\n\
    {\"type\":\"about:blank\",\"title\":\"Request Timeout\",\"status\":408,\"detail\":\"the request's head did not come in time\"}";

/// A client's stream that ends when a deadline has passed.
#[derive(Debug)]
pub struct LimitedStream<Io> {
    io: Io,
    slot: Slot,
    progress: Rc<RequestProgress>,
    /// Whether a 408 can be written here: not below TLS.
    is_http: bool,
    /// Since when the client has kept written bytes waiting.
    unsent_since: Option<Instant>,
    read_alarm: Alarm,
    write_alarm: Alarm,
    ended: bool,
}

impl<Io> LimitedStream<Io> {
    pub(crate) fn new(io: Io, slot: Slot, progress: Rc<RequestProgress>, is_http: bool) -> Self {
        Self {
            io,
            slot,
            progress,
            is_http,
            unsent_since: None,
            read_alarm: Alarm::default(),
            write_alarm: Alarm::default(),
            ended: false,
        }
    }
}

impl<Io: AsyncWrite + Unpin> LimitedStream<Io> {
    /// The request is given up: nothing more is read, as if the client had closed.
    fn end(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ended = true;
        match self.progress.phase() {
            // Nothing was asked: a connection that was made in advance and not used.
            Phase::FirstByte => {}
            Phase::Head => {
                self.progress.give_up();
                if self.is_http && self.unsent_since.is_none() {
                    // The connection is closed whether the client reads this or not.
                    let _ = Pin::new(&mut self.io).poll_write(context, LATE_HEAD);
                }
            }
            Phase::Nothing | Phase::Body | Phase::UnreadBody => self.progress.give_up(),
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncRead for LimitedStream<Io> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let now = Instant::now();
        // Before reading: a client that sends a byte at a time is never without one.
        if this.ended || this.progress.close_at().is_some_and(|at| at <= now) {
            return if this.ended { Poll::Ready(Ok(())) } else { this.end(context) };
        }
        let before = buffer.filled().len();
        match Pin::new(&mut this.io).poll_read(context, buffer) {
            Poll::Ready(Ok(())) => {
                let bytes = buffer.filled().len() - before;
                if bytes > 0 {
                    this.progress.read(bytes, now);
                }
                Poll::Ready(Ok(()))
            }
            Poll::Pending => match this.progress.close_at() {
                Some(at) if this.read_alarm.is_due(at, context) => this.end(context),
                _ => Poll::Pending,
            },
            failed => failed,
        }
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for LimitedStream<Io> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(context, bytes);
        match &written {
            Poll::Ready(Ok(count)) if *count == bytes.len() => {
                this.unsent_since = None;
                return written;
            }
            Poll::Ready(Err(_)) => return written,
            Poll::Ready(Ok(_)) | Poll::Pending => {}
        }
        let since = *this.unsent_since.get_or_insert_with(Instant::now);
        let at = since + this.slot.connections().limits().answer_deadline;
        if this.write_alarm.is_due(at, context) {
            this.slot.connections().count(CloseReason::SlowAnswer);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not take its answer")));
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}

impl<Io> Drop for LimitedStream<Io> {
    fn drop(&mut self) {
        if self.progress.is_late() {
            self.slot.connections().count(CloseReason::SlowRequest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::connections::{Client, Connections};
    use crate::limits::Limits;

    /// A stream with deadlines of 100 ms, and its client's end.
    fn limited() -> (LimitedStream<DuplexStream>, DuplexStream, Connections) {
        let allowed = Duration::from_millis(100);
        let connections =
            Connections::new(Limits { request_deadline: allowed, answer_deadline: allowed, ..Limits::default() });
        let (ours, clients) = duplex(64);
        let progress = Rc::new(RequestProgress::new(allowed, Instant::now()));
        let slot = connections.admit(Client::Unknown).unwrap();
        (LimitedStream::new(ours, slot, progress, true), clients, connections)
    }

    #[tokio::test]
    async fn an_answer_fails_when_its_client_takes_none_of_it_and_not_while_it_reads() {
        let (mut stream, mut client, connections) = limited();
        let reading = async {
            let mut taken = 0;
            while taken < 640 {
                tokio::time::sleep(Duration::from_millis(30)).await;
                taken += client.read(&mut [0; 64]).await.unwrap();
            }
            client
        };
        // Longer than the deadline in all, but no piece of it waits so long.
        let writing = async {
            for _ in 0..10 {
                stream.write_all(&[0; 64]).await.unwrap();
            }
        };
        let (_client, ()) = tokio::join!(reading, writing);
        let error = stream.write_all(&[0; 1000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(connections.closed(CloseReason::SlowAnswer), 1);
    }

    #[tokio::test]
    async fn a_head_that_does_not_end_is_answered_and_its_stream_ends() {
        let (mut stream, mut client, connections) = limited();
        client.write_all(b"GET / HTT").await.unwrap();
        let mut read = Vec::new();
        let reading = async {
            stream.read_to_end(&mut read).await.unwrap();
            drop(stream);
        };
        let mut answer = String::new();
        tokio::join!(reading, async { client.read_to_string(&mut answer).await.unwrap() });
        assert_eq!(read, b"GET / HTT");
        // The pipe holds no more than that.
        assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
        assert_eq!((connections.closed(CloseReason::SlowRequest), connections.open()), (1, 0));
    }

    #[test]
    fn the_answer_to_a_late_head_is_whole() {
        let text = std::str::from_utf8(LATE_HEAD).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{} bytes", body.len());
    }
}
