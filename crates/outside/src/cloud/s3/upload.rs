//! An upload in parts. It is ended when it fails, and when whoever waits for it
//! stops waiting; one whose process was killed costs storage until the bucket's
//! lifecycle rule removes it, and is never seen as an object.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use futures::{StreamExt, stream};

use super::S3Store;
use super::failure::Failure;
use super::write::Write;
use delayd_core::error::ErrorKind;

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
        if let Some(failure) = failure.filter(|failure| !failure.is_missing_upload()) {
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
    /// Writes an object in parts.
    pub(super) async fn upload(&self, client: &Client, write: &Write<'_>) -> Result<(), Failure> {
        let mut upload = self.begin(client, write).await?;
        let finished = async {
            let parts = self.upload_parts(&upload, &write.body).await?;
            self.finish(&upload, write, parts).await
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

    async fn begin(&self, client: &Client, write: &Write<'_>) -> Result<Upload, Failure> {
        let request = || {
            let request = client.create_multipart_upload().bucket(&self.settings.bucket).key(write.key);
            request.set_metadata(Some(write.metadata())).send()
        };
        let begun = self.bounds.retried(request).await?;
        let Some(id) = begun.upload_id() else {
            return Err(Failure::new(ErrorKind::Corrupt, "the upload that was begun has no id; the store is at fault"));
        };
        Ok(Upload {
            client: client.clone(),
            bucket: self.settings.bucket.clone(),
            key: write.key.to_owned(),
            id: id.to_owned(),
            patience: Duration::from_secs(self.settings.http.read_timeout_secs),
            open: true,
        })
    }

    /// Sends every part. After a failure none is begun any more, but those under way
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
        let mut attempts = self.bounds.attempts();
        loop {
            let request = upload.client.upload_part().bucket(&upload.bucket).key(&upload.key).upload_id(&upload.id);
            let request = request.part_number(number).body(ByteStream::from(bytes.clone())).customize();
            let request = if self.settings.is_encrypted() { request.disable_payload_signing() } else { request };
            match self.bounds.once(request.send()).await {
                Ok(part) => {
                    let completed = CompletedPart::builder().part_number(number);
                    let completed = completed.set_e_tag(part.e_tag).set_checksum_crc32(part.checksum_crc32);
                    return Ok(completed.build());
                }
                Err(failure) => attempts.again(failure).await?,
            }
        }
    }

    async fn finish(&self, upload: &Upload, write: &Write<'_>, parts: Vec<CompletedPart>) -> Result<(), Failure> {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let mut attempts = self.bounds.attempts();
        loop {
            let request = upload.client.complete_multipart_upload().bucket(&upload.bucket).key(&upload.key);
            let request = request.upload_id(&upload.id).multipart_upload(parts.clone());
            let request = request.set_if_none_match(write.condition());
            // Putting a large object together may take S3 minutes: the deadline is that of a whole attempt.
            match self.bounds.once(request.send()).await {
                Ok(_) => return Ok(()),
                // After a conflict S3 wants a new upload, which is for the caller to decide.
                Err(failure) if failure.is_conflict() => return Err(failure),
                Err(failure) => attempts.again(failure).await?,
            }
        }
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
