//! A request's body: read whole, within what one request and all requests together may hold.

use std::future::poll_fn;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix_web::http::header;
use actix_web::{HttpRequest, web};
use delayd_http_limits::arrived_late;
use futures_core::Stream;

use crate::error::ApiError;

/// Memory for the bodies of all requests together. Without a bound, clients that send most
/// of a large body and then wait would hold a body's limit for every connection.
#[derive(Debug)]
pub(crate) struct BodyMemory {
    limit_bytes: usize,
    held_bytes: AtomicUsize,
}

impl BodyMemory {
    pub(crate) fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, held_bytes: AtomicUsize::new(0) }
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes.load(Ordering::Relaxed)
    }
}

/// A body, and its part of the memory.
#[derive(Debug)]
pub(crate) struct Body<'a> {
    bytes: web::BytesMut,
    memory: &'a BodyMemory,
}

impl Body<'_> {
    fn add(&mut self, chunk: &[u8]) -> Result<(), ApiError> {
        let before = self.memory.held_bytes.fetch_add(chunk.len(), Ordering::Relaxed);
        if before + chunk.len() > self.memory.limit_bytes {
            self.memory.held_bytes.fetch_sub(chunk.len(), Ordering::Relaxed);
            return Err(ApiError::OutOfBodyMemory);
        }
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }
}

impl Deref for Body<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Body<'_> {
    fn drop(&mut self) {
        self.memory.held_bytes.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

/// The whole body of a JSON request, of at most so many bytes, in the memory that all share.
pub(crate) async fn json_body<'a>(
    request: &HttpRequest,
    mut payload: web::Payload,
    limit_bytes: usize,
    memory: &'a BodyMemory,
) -> Result<Body<'a>, ApiError> {
    let text = |name| request.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    if let Some(encoding) = text(header::CONTENT_ENCODING).filter(|encoding| encoding != "identity") {
        return Err(ApiError::UnsupportedMedia(encoding));
    }
    if let Some(content) = text(header::CONTENT_TYPE) {
        let media = content.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if media != "application/json" && !media.ends_with("+json") {
            return Err(ApiError::UnsupportedMedia(content));
        }
    }
    let announced = text(header::CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit_bytes) {
        return Err(ApiError::TooLarge { limit_bytes });
    }
    let mut body = Body { bytes: web::BytesMut::new(), memory };
    while let Some(chunk) = poll_fn(|context| Pin::new(&mut payload).poll_next(context)).await {
        let chunk = chunk.map_err(|error| match arrived_late(request) {
            Some(allowed) => ApiError::TooSlow { allowed },
            None => ApiError::BrokenBody(error.to_string()),
        })?;
        if body.len() + chunk.len() > limit_bytes {
            return Err(ApiError::TooLarge { limit_bytes });
        }
        body.add(&chunk)?;
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_share_their_memory_and_give_it_back() {
        let memory = BodyMemory::new(10);
        let mut first = Body { bytes: web::BytesMut::new(), memory: &memory };
        let mut second = Body { bytes: web::BytesMut::new(), memory: &memory };
        first.add(b"123456").unwrap();
        assert!(matches!(second.add(b"12345"), Err(ApiError::OutOfBodyMemory)));
        second.add(b"1234").unwrap();
        assert_eq!(memory.held_bytes(), 10);
        drop(first);
        assert_eq!(memory.held_bytes(), 4);
        drop(second);
        assert_eq!(memory.held_bytes(), 0);
    }
}
