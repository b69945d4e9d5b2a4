//! Reading: a small object by one request, a large one by several at a time. The
//! first request asks for the first bytes and learns size and version; the others
//! are for that version only (`If-Match`). The bytes land in one buffer.

use aws_sdk_s3::Client;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::Mutex;

use super::{S3Store, SHA256_MARK};
use crate::cloud::aws::Failure;
use delayd_core::blocking;
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ids::Digest;

/// The beginning of an object, and what its answer told of the whole.
struct Opening {
    /// The bytes that came, with room for all others behind them.
    begun: BytesMut,
    total_bytes: u64,
    etag: Option<String>,
    /// The digest that the writer left; none where somebody else wrote the object.
    sha256: Option<String>,
}

impl S3Store {
    /// The whole object, read again where it changed meanwhile.
    pub(super) async fn read(&self, client: &Client, key: &str) -> Result<Bytes, Failure> {
        let read = || async {
            let version = self.read_version(client, key).await;
            version.map_err(|failure| Failure { again: failure.restart, ..failure })
        };
        self.bounds.policy.run(read).await
    }

    async fn read_version(&self, client: &Client, key: &str) -> Result<Bytes, Failure> {
        let opening = match self.opened(client, key, true).await {
            // No byte can be asked for of an empty object.
            Err(failure) if failure.status == 416 => self.opened(client, key, false).await?,
            opened => opened?,
        };
        let Opening { begun: mut whole, total_bytes, etag, sha256 } = opening;
        let first = whole.len() as u64;
        if first < total_bytes {
            let Some(etag) = etag else {
                let message = "the answer has no ETag, without which a large object cannot be read in parts";
                return Err(Failure::new(ErrorKind::Corrupt, message));
            };
            let rest = whole.split_off(whole.len());
            for part in self.parts(client, key, rest, first, total_bytes, &etag).await? {
                whole.unsplit(part);
            }
        }
        checked(whole.freeze(), sha256).await
    }

    /// The beginning of the object, or all of it where no range is asked for.
    async fn opened(&self, client: &Client, key: &str, in_range: bool) -> Result<Opening, Failure> {
        let opened = || {
            self.bounds.once(async {
                let range = in_range.then(|| format!("bytes=0-{}", self.settings.multipart_threshold_bytes - 1));
                let request = client.get_object().bucket(&self.settings.bucket).key(key).set_range(range);
                let mut answer: GetObjectOutput = self.bounds.next(request.send()).await??;
                let (total_bytes, here_bytes) = extent(&answer)?;
                if total_bytes > self.settings.maximum_object_bytes {
                    let limit = self.settings.maximum_object_bytes;
                    let message =
                        format!("the object has {total_bytes} bytes; object_store.s3.maximum_object_bytes is {limit}");
                    return Err(Failure::new(ErrorKind::Exhausted, message));
                }
                let mut begun = BytesMut::with_capacity(length(total_bytes)?);
                self.take(&mut answer, &mut begun, here_bytes).await?;
                let sha256 = answer.metadata().and_then(|marks| marks.get(SHA256_MARK).cloned());
                Ok::<_, Failure>(Opening { begun, total_bytes, etag: answer.e_tag, sha256 })
            })
        };
        self.bounds.policy.run(opened).await
    }

    /// All bytes from `first` on, in order, in pieces of the buffer `room`.
    async fn parts(
        &self,
        client: &Client,
        key: &str,
        mut room: BytesMut,
        first: u64,
        total_bytes: u64,
        etag: &str,
    ) -> Result<Vec<BytesMut>, Failure> {
        let mut reading = Vec::new();
        let mut start = first;
        while start < total_bytes {
            let end = total_bytes.min(start + self.settings.part_bytes);
            let beyond = room.split_off(length(end - start)?);
            let piece = std::mem::replace(&mut room, beyond);
            reading.push(self.part(client, key, piece, start, end, etag));
            start = end;
        }
        stream::iter(reading).buffered(self.settings.concurrency).try_collect().await
    }

    /// The bytes from `start` to before `end` of the version `etag`.
    async fn part(
        &self,
        client: &Client,
        key: &str,
        piece: BytesMut,
        start: u64,
        end: u64,
        etag: &str,
    ) -> Result<BytesMut, Failure> {
        let piece = Mutex::new(piece);
        let read = || async {
            let request = async {
                let mut piece = piece.lock().await;
                piece.clear();
                let request = client.get_object().bucket(&self.settings.bucket).key(key);
                let request = request.range(format!("bytes={start}-{}", end - 1)).if_match(etag);
                let mut answer = self.bounds.next(request.send()).await??;
                // Some stores do not look at If-Match.
                if answer.e_tag().is_some_and(|found| found != etag) {
                    return Err(Failure::new(ErrorKind::Conflict, "a part of another version came"));
                }
                let (_, here_bytes) = extent(&answer)?;
                if here_bytes != end - start {
                    let message = format!("{here_bytes} bytes are offered where {} were asked for", end - start);
                    return Err(Failure::new(ErrorKind::Corrupt, message));
                }
                self.take(&mut answer, &mut piece, here_bytes).await
            };
            match self.bounds.once(request).await {
                // The version is gone and stays so; one that became shorter may have no such part.
                Err(failure) if failure.kind == ErrorKind::Conflict || failure.status == 416 => {
                    let message = format!("the object changed while it was read: {}", failure.message);
                    Err(Failure { kind: ErrorKind::Conflict, message, again: false, restart: true, ..failure })
                }
                read => read,
            }
        };
        self.bounds.policy.run(read).await?;
        Ok(piece.into_inner())
    }

    /// Reads exactly `expected` bytes of an answer behind what `buffer` holds.
    async fn take(&self, answer: &mut GetObjectOutput, buffer: &mut BytesMut, expected: u64) -> Result<(), Failure> {
        let mut taken = 0;
        while let Some(bytes) = self.bounds.next(answer.body.next()).await? {
            let bytes = bytes.map_err(|error| {
                let error = delayd_core::error::chain(&error);
                Failure::new(
                    ErrorKind::Unavailable,
                    format!("the body broke off after {taken} of {expected} bytes: {error}"),
                )
            })?;
            taken += bytes.len() as u64;
            if taken > expected {
                break;
            }
            buffer.extend_from_slice(&bytes);
        }
        if taken == expected {
            return Ok(());
        }
        let message = format!("the answer has {taken} bytes or more and was said to have {expected}");
        Err(Failure::new(ErrorKind::Unavailable, message))
    }
}

/// How many bytes the object has, and how many of them an answer brings.
fn extent(answer: &GetObjectOutput) -> Result<(u64, u64), Failure> {
    let fault = |what: &str| Failure::new(ErrorKind::Corrupt, format!("the answer {what}; the store is at fault"));
    let here = answer.content_length().and_then(|bytes| u64::try_from(bytes).ok());
    let here = here.ok_or_else(|| fault("does not tell its length"))?;
    let Some(range) = answer.content_range() else { return Ok((here, here)) };
    // `bytes 0-99/1234` (RFC 9110, 14.4).
    let total = range.rsplit_once('/').and_then(|(_, total)| total.parse().ok());
    Ok((total.ok_or_else(|| fault(&format!("has the content range {range:?}")))?, here))
}

fn length(bytes: u64) -> Result<usize, Failure> {
    usize::try_from(bytes)
        .map_err(|_| Failure::new(ErrorKind::Exhausted, format!("{bytes} bytes do not fit in memory")))
}

/// The bytes, if they are those that were written.
async fn checked(bytes: Bytes, sha256: Option<String>) -> Result<Bytes, Failure> {
    let Some(expected) = sha256 else { return Ok(bytes) };
    let hashed = blocking("hashing an object", move || {
        let found = Digest::of(&bytes);
        Ok::<_, PortError>((bytes, found))
    });
    let (bytes, found) = hashed.await?;
    if found.hex() == expected {
        return Ok(bytes);
    }
    let message =
        format!("the bytes have SHA-256 {}; they were written with {expected}: restore the object", found.hex());
    // If they were damaged on their way, and not where they lie, reading it again helps.
    Err(Failure { restart: true, ..Failure::new(ErrorKind::Corrupt, message) })
}
