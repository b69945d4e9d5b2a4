//! Moving objects in parts.
//!
//! Reading: a small object by one request, a large one by several at a time. The first request asks for the first bytes
//! and learns size and version; the others are for that version only (`If-Match`). The bytes land in one buffer.
//!
//! Writing: an upload is ended when it fails, and when whoever waits for it stops waiting; one whose process was killed
//! costs storage until the bucket's lifecycle rule removes it, and is never seen as an object.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::Mutex;

use super::S3Store;
use super::SHA256_MARK;
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

/// Most parts of an upload (Amazon S3 User Guide, "Amazon S3 multipart upload limits").
const MAX_PARTS: u64 = 10_000;

/// An upload under way.
struct Upload {
    client: Client,
    bucket: String,
    key: String,
    id: String,
    /// How long its end may take.
    patience: Duration,
    /// Whether somebody has to end it.
    open: bool,
}

impl Upload {
    /// Removes the parts. What cannot be removed is left to the lifecycle rule.
    async fn end(&mut self) {
        let request = self.client.abort_multipart_upload().bucket(&self.bucket).key(&self.key).upload_id(&self.id);
        let failure = match tokio::time::timeout(self.patience, request.send()).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(Failure::from(error)),
            Err(_) => Some(Failure::new(ErrorKind::Timeout, "no answer came")),
        };
        self.open = false;
        if let Some(failure) = failure.filter(|failure| failure.code != "NoSuchUpload") {
            let error = failure.message;
            tracing::warn!(object.key = self.key, error, "S3: a failed upload stays until the bucket's lifecycle rule");
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let mut abandoned = Self {
            client: self.client.clone(),
            bucket: std::mem::take(&mut self.bucket),
            key: std::mem::take(&mut self.key),
            id: std::mem::take(&mut self.id),
            patience: self.patience,
            open: false,
        };
        runtime.spawn(async move { abandoned.end().await });
    }
}

impl S3Store {
    pub(super) async fn upload(
        &self,
        client: &Client,
        key: &str,
        body: &Bytes,
        metadata: HashMap<String, String>,
    ) -> Result<(), Failure> {
        let mut upload = self.begin(client, key, metadata).await?;
        let finished = async {
            let parts = self.upload_parts(&upload, body).await?;
            self.finish(&upload, parts).await
        };
        match finished.await {
            Ok(()) => {
                upload.open = false;
                Ok(())
            }
            Err(failure) => {
                upload.end().await;
                Err(failure)
            }
        }
    }

    async fn begin(&self, client: &Client, key: &str, metadata: HashMap<String, String>) -> Result<Upload, Failure> {
        let request = || {
            let request = client.create_multipart_upload().bucket(&self.settings.bucket).key(key);
            request.set_metadata(Some(metadata.clone())).send()
        };
        let begun = self.bounds.retried(request).await?;
        let Some(id) = begun.upload_id() else {
            return Err(Failure::new(
                ErrorKind::Corrupt,
                "the upload that was started has no id; the store is at fault",
            ));
        };
        Ok(Upload {
            client: client.clone(),
            bucket: self.settings.bucket.clone(),
            key: key.to_owned(),
            id: id.to_owned(),
            patience: Duration::from_secs(self.settings.http.read_timeout_secs),
            open: true,
        })
    }

    /// Sends every part. After a failure no more are started, but those under way
    /// are waited for: a part that arrives after the upload's end would stay.
    async fn upload_parts(&self, upload: &Upload, body: &Bytes) -> Result<Vec<CompletedPart>, Failure> {
        let size = part_size(body.len() as u64, self.settings.part_bytes);
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let starts = (0..body.len()).step_by(size);
        let failed = &AtomicBool::new(false);
        let sending: Vec<_> = starts
            .zip(1..)
            .map(|(start, number)| async move {
                if failed.load(Ordering::Relaxed) {
                    return Ok(None);
                }
                let bytes = body.slice(start..body.len().min(start.saturating_add(size)));
                let sent = self.upload_part(upload, number, bytes).await;
                failed.fetch_or(sent.is_err(), Ordering::Relaxed);
                sent.map(Some)
            })
            .collect();
        let outcomes: Vec<_> = stream::iter(sending).buffered(self.settings.concurrency).collect().await;
        outcomes.into_iter().filter_map(Result::transpose).collect()
    }

    async fn upload_part(&self, upload: &Upload, number: i32, bytes: Bytes) -> Result<CompletedPart, Failure> {
        let request = || {
            let request = upload.client.upload_part().bucket(&upload.bucket).key(&upload.key).upload_id(&upload.id);
            let request = request.part_number(number).body(ByteStream::from(bytes.clone())).customize();
            let request = if self.settings.is_encrypted() { request.disable_payload_signing() } else { request };
            self.bounds.once(request.send())
        };
        let part = self.bounds.policy.run(request).await?;
        let completed = CompletedPart::builder().part_number(number);
        Ok(completed.set_e_tag(part.e_tag).set_checksum_crc32(part.checksum_crc32).build())
    }

    async fn finish(&self, upload: &Upload, parts: Vec<CompletedPart>) -> Result<(), Failure> {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = || {
            let request = upload.client.complete_multipart_upload().bucket(&upload.bucket).key(&upload.key);
            // Putting a large object together may take S3 minutes: the deadline is that of a whole attempt.
            self.bounds.once(request.upload_id(&upload.id).multipart_upload(parts.clone()).send())
        };
        self.bounds.policy.run(request).await.map(|_| ())
    }
}

/// The configured size of a part, or what is needed to stay within S3's count of parts.
fn part_size(total_bytes: u64, configured_bytes: u64) -> u64 {
    configured_bytes.max(total_bytes.div_ceil(MAX_PARTS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_never_has_more_parts_than_s3_takes() {
        const MIB: u64 = 1 << 20;
        assert_eq!(part_size(20 * MIB, 8 * MIB), 8 * MIB);
        let large = 200 * 1024 * MIB;
        let size = part_size(large, 8 * MIB);
        assert!(size > 8 * MIB && large.div_ceil(size) <= MAX_PARTS, "{size}");
    }
}
