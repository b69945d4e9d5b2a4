//! An upload in parts. It is ended when it fails, and when whoever waits for it
//! stops waiting; one whose process was killed costs storage until the bucket's
//! lifecycle rule removes it, and is never seen as an object.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use futures::{StreamExt, stream};

use super::S3Store;
use crate::cloud::aws::Failure;
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
    /// Writes an object in parts.
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
