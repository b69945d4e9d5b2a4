//! Listings, and the look at the bucket that changes nothing.

use aws_sdk_s3::types::Object;
use chrono::{DateTime, Utc};

use super::S3Store;
use super::failure::Failure;
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ports::{ObjectMeta, check_key, check_prefix};

impl S3Store {
    /// Every object under a prefix, page by page. What is no key of the port, such as
    /// the placeholders `folder/` that consoles make, is not shown.
    pub(super) async fn entries(&self, action: &str, prefix: &str) -> Result<Vec<ObjectMeta>, PortError> {
        check_prefix(action, prefix)?;
        let client = self.client(action).await?;
        let prefix = format!("{}{prefix}", self.root);
        let mut found = Vec::new();
        let mut from: Option<String> = None;
        loop {
            let request = || {
                let request = client.list_objects_v2().bucket(&self.settings.bucket).prefix(&prefix);
                request.set_continuation_token(from.clone()).send()
            };
            let page = self.bounds.retried(request).await.map_err(|failure| failure.into_port(action))?;
            for object in page.contents() {
                found.extend(self.entry(action, object)?);
            }
            if page.is_truncated() != Some(true) {
                break;
            }
            let next = page.next_continuation_token().map(str::to_owned);
            if next.is_none() || next == from {
                let message = "the listing is cut off and does not say where it goes on; the store is at fault";
                return Err(PortError::new(ErrorKind::Corrupt, action, message));
            }
            from = next;
        }
        // Amazon's directory buckets, and some other stores, list in an order of their own.
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    fn entry(&self, action: &str, object: &Object) -> Result<Option<ObjectMeta>, PortError> {
        let Some(key) = object.key().and_then(|key| key.strip_prefix(&self.root)) else { return Ok(None) };
        if check_key(action, key).is_err() {
            return Ok(None);
        }
        let size = object.size().and_then(|size| u64::try_from(size).ok());
        let (Some(size_bytes), Some(last_modified)) = (size, object.last_modified().and_then(moment)) else {
            let message = format!("the listing does not tell size and time of {key}; the store is at fault");
            return Err(PortError::new(ErrorKind::Corrupt, action, message));
        };
        Ok(Some(ObjectMeta { key: key.to_owned(), size_bytes, last_modified }))
    }

    /// Whether the bucket is there and lets us list. One attempt each: somebody waits.
    pub(super) async fn look(&self, action: &str) -> Result<String, PortError> {
        let client = self.client(action).await?;
        let bucket = &self.settings.bucket;
        let told = |failure: Failure| failure.into_port(action);
        // First the listing: unlike that to HEAD, its answer says why it is refused.
        let listing = client.list_objects_v2().bucket(bucket).prefix(&self.root).max_keys(1).send();
        let page = self.bounds.short(listing).await.map_err(told)?;
        let head = self.bounds.short(client.head_bucket().bucket(bucket).send()).await.map_err(told)?;
        let configured = client.config().region().map(ToString::to_string).unwrap_or_default();
        let region = head.bucket_region().map_or(configured, ToOwned::to_owned);
        let place = if self.settings.endpoint.is_empty() { "Amazon S3" } else { self.settings.endpoint.as_str() };
        let prefix = if self.root.is_empty() { String::new() } else { format!(" under {}", self.root) };
        let content = if page.contents().is_empty() { "nothing yet" } else { "objects" };
        Ok(format!("bucket {bucket} in {region} at {place}: lists {content}{prefix}"))
    }
}

fn moment(time: &aws_sdk_s3::primitives::DateTime) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(time.secs(), time.subsec_nanos())
}
