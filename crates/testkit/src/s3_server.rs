//! A store that speaks S3's protocol and checks signatures: s3s (protocol) and
//! s3s-fs (files), served by hyper inside the test.
//!
//! s3s-fs 0.14 differs from S3 in four ways, which [`Repaired`] makes good: a
//! folder answers as if it were an object; `If-Match` of a GET is not looked at;
//! an object and its ETag do not change at one moment, nor do two conditional
//! writes exclude each other; and a missing bucket is a missing key to a GET.
//! Everything else (signatures, XML, ranges, uploads in parts, checksums, pages)
//! is theirs. What is asked for is written down, and planned trouble is made.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use delayd_core::http_client::HttpClientSettings;
use delayd_core::secret::Secret;
use delayd_outside::cloud::s3::{S3Settings, S3Store};
use futures::TryStreamExt;
use futures::future::BoxFuture;
use hyper_util::rt::{TokioExecutor, TokioIo};
use s3s::auth::SimpleAuth;
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput, CompleteMultipartUploadOutput,
    CreateMultipartUploadInput, CreateMultipartUploadOutput, DeleteObjectInput, DeleteObjectOutput, ETagCondition,
    GetObjectInput, GetObjectOutput, HeadBucketInput, HeadBucketOutput, HeadObjectInput, HeadObjectOutput,
    ListObjectsV2Input, ListObjectsV2Output, PutObjectInput, PutObjectOutput, Range, StreamingBlob, UploadPartInput,
    UploadPartOutput,
};
use s3s::host::{S3Host, VirtualHost};
use s3s::service::S3ServiceBuilder;
use s3s::{S3, S3Error, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;
use tokio::sync::RwLock;

pub const BUCKET: &str = "flight-data";
pub const ACCESS_KEY: &str = "AKIDTEST";
pub const SECRET_KEY: &str = "a-secret-key-of-the-tests";

/// Under this name the server takes the bucket from the host.
pub const DOMAIN: &str = "s3.test";

/// What is to go wrong, operation by operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Refused for lack of a right.
    Denied,
    /// Done, and then answered by 500: the answer is lost.
    DoneButLost,
    /// Never answered.
    Hangs,
}

#[derive(Default)]
pub struct Plan {
    /// Operations that were asked for, with the range of a GET.
    pub seen: Vec<String>,
    /// Trouble by operation, and how often.
    pub trouble: BTreeMap<&'static str, (Trouble, usize)>,
    /// Done after the next GETs, one each.
    pub after_gets: Vec<BoxFuture<'static, ()>>,
    /// Whether `If-Match` and `If-None-Match` are overlooked, as some stores do.
    pub overlooks_conditions: bool,
}

/// A running server with an empty bucket; gone when it is dropped.
pub struct S3Server {
    pub address: SocketAddr,
    pub plan: Arc<Mutex<Plan>>,
    folder: tempfile::TempDir,
    serving: tokio::task::JoinHandle<()>,
}

impl S3Server {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        let plan = Arc::new(Mutex::new(Plan::default()));
        let repaired = Repaired {
            files: FileSystem::new(folder.path()).unwrap(),
            root: folder.path().canonicalize().unwrap(),
            gate: RwLock::new(()),
            plan: plan.clone(),
        };
        let mut service = S3ServiceBuilder::new(repaired);
        service.set_host(Hosts);
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = service.build();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    let http = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    // A client that hangs up is a test.
                    let _ = http.serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        Self { address, plan, folder, serving }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The bucket's folder.
    pub fn bucket(&self) -> PathBuf {
        self.folder.path().join(BUCKET)
    }

    /// Settings of a store at `endpoint`, with short pauses and small parts.
    pub fn settings_at(endpoint: &str) -> S3Settings {
        S3Settings {
            bucket: BUCKET.to_owned(),
            region: "us-east-1".to_owned(),
            endpoint: endpoint.to_owned(),
            path_style: true,
            access_key_id: Secret::new(ACCESS_KEY),
            secret_access_key: Secret::new(SECRET_KEY),
            attempts: 4,
            retry_pause_ms: 5,
            longest_retry_pause_ms: 20,
            part_bytes: 5 << 20,
            multipart_threshold_bytes: 5 << 20,
            http: HttpClientSettings {
                connect_timeout_secs: 2,
                read_timeout_secs: 10,
                ..HttpClientSettings::default()
            },
            ..S3Settings::default()
        }
    }

    pub fn settings(&self) -> S3Settings {
        Self::settings_at(&self.url())
    }

    pub fn store(&self) -> S3Store {
        S3Store::new(self.settings())
    }

    /// Plans trouble for the next `times` calls of an operation.
    pub fn trouble(&self, operation: &'static str, trouble: Trouble, times: usize) {
        self.plan.lock().unwrap().trouble.insert(operation, (trouble, times));
    }

    /// What was asked for since the last call.
    pub fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.plan.lock().unwrap().seen)
    }

    /// Waits until an operation was asked for.
    pub async fn has_seen(&self, operation: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.plan.lock().unwrap().seen.iter().any(|seen| seen.starts_with(operation)) {
            assert!(Instant::now() < deadline, "{operation} was not asked for");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Whether any part of an upload lies about.
    pub fn has_leftovers(&self) -> bool {
        let names = std::fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.into_iter().any(|name| name.to_string_lossy().starts_with(".upload"))
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Hosts under [`DOMAIN`] name the bucket, all others leave that to the path.
struct Hosts;

impl S3Host for Hosts {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let bucket = host.strip_suffix(DOMAIN).and_then(|rest| rest.strip_suffix('.'));
        let virtual_host = VirtualHost::new(host);
        Ok(match bucket {
            Some(bucket) => virtual_host.with_bucket(bucket),
            None => virtual_host,
        })
    }
}

/// s3s-fs with what it lacks.
struct Repaired {
    files: FileSystem,
    root: PathBuf,
    /// Held by whoever changes objects, so that a reader never sees half a change.
    gate: RwLock<()>,
    plan: Arc<Mutex<Plan>>,
}

impl Repaired {
    /// Writes the operation down and makes the trouble that comes before it.
    async fn begin(&self, operation: &'static str, detail: &str) -> S3Result<Option<Trouble>> {
        let trouble = {
            let mut plan = self.plan.lock().unwrap();
            plan.seen.push(format!("{operation}{detail}"));
            match plan.trouble.get_mut(operation) {
                Some((trouble, left)) if *left > 0 => {
                    *left -= 1;
                    Some(*trouble)
                }
                _ => None,
            }
        };
        match trouble {
            Some(Trouble::Denied) => Err(s3_error!(AccessDenied, "Access Denied")),
            Some(Trouble::Hangs) => std::future::pending().await,
            other => Ok(other),
        }
    }

    fn path(&self, bucket: &str, key: &str) -> PathBuf {
        self.root.join(bucket).join(key)
    }

    fn check_object(&self, bucket: &str, key: &str) -> S3Result<()> {
        if !self.root.join(bucket).is_dir() {
            return Err(s3_error!(NoSuchBucket));
        }
        if self.path(bucket, key).is_file() { Ok(()) } else { Err(s3_error!(NoSuchKey)) }
    }

    fn overlooks_conditions(&self) -> bool {
        self.plan.lock().unwrap().overlooks_conditions
    }

    /// Removes the folders that a removed object leaves empty.
    fn sweep(&self, bucket: &str, key: &str) {
        let bucket = self.root.join(bucket);
        let mut folder = bucket.join(key);
        while folder.pop() && folder != bucket && std::fs::remove_dir(&folder).is_ok() {}
    }
}

fn lost<T>(answer: S3Result<S3Response<T>>, trouble: Option<Trouble>) -> S3Result<S3Response<T>> {
    match (&answer, trouble) {
        (Ok(_), Some(Trouble::DoneButLost)) => Err(s3_error!(InternalError, "We encountered an internal error.")),
        _ => answer,
    }
}

/// Reads a body before anything is changed: a stalled sender holds up nobody.
async fn whole(body: &mut Option<StreamingBlob>) -> S3Result<()> {
    if let Some(stream) = body.take() {
        let parts: Vec<Bytes> = stream
            .try_collect()
            .await
            .map_err(|error| S3Error::with_source(s3s::S3ErrorCode::IncompleteBody, error))?;
        *body = Some(StreamingBlob::wrap(futures::stream::iter(parts.into_iter().map(Ok::<_, std::io::Error>))));
    }
    Ok(())
}

fn text_of(range: Option<Range>) -> String {
    match range {
        Some(Range::Int { first, last }) => format!(" {first}-{}", last.map_or(String::new(), |last| last.to_string())),
        Some(Range::Suffix { length }) => format!(" -{length}"),
        None => String::new(),
    }
}

#[async_trait::async_trait]
impl S3 for Repaired {
    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.begin("HeadBucket", "").await?;
        self.files.head_bucket(req).await
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        self.begin("ListObjects", "").await?;
        let _gate = self.gate.read().await;
        self.files.list_objects_v2(req).await
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        self.begin("GetObject", &text_of(req.input.range)).await?;
        let answer = {
            let _gate = self.gate.read().await;
            self.check_object(&req.input.bucket, &req.input.key)?;
            let answer = self.files.get_object(req.clone()).await?;
            if let Some(ETagCondition::ETag(wanted)) = &req.input.if_match
                && !self.overlooks_conditions()
                && !answer.output.e_tag.as_ref().is_some_and(|found| found.strong_cmp(wanted))
            {
                return Err(s3_error!(PreconditionFailed, "At least one of the pre-conditions did not hold"));
            }
            answer
        };
        let next = { self.plan.lock().unwrap().after_gets.pop() };
        if let Some(next) = next {
            next.await;
        }
        Ok(answer)
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        self.begin("HeadObject", "").await?;
        let _gate = self.gate.read().await;
        self.check_object(&req.input.bucket, &req.input.key)?;
        self.files.head_object(req).await
    }

    async fn put_object(&self, mut req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let trouble = self.begin("PutObject", "").await?;
        whole(&mut req.input.body).await?;
        if self.overlooks_conditions() {
            req.input.if_none_match = None;
        }
        let _gate = self.gate.write().await;
        lost(self.files.put_object(req).await, trouble)
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.begin("DeleteObject", "").await?;
        let _gate = self.gate.write().await;
        let (bucket, key) = (req.input.bucket.clone(), req.input.key.clone());
        if !self.path(&bucket, &key).is_file() {
            return Ok(S3Response::new(DeleteObjectOutput::default()));
        }
        let answer = self.files.delete_object(req).await;
        self.sweep(&bucket, &key);
        answer
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.begin("CreateMultipartUpload", "").await?;
        self.files.create_multipart_upload(req).await
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let trouble = self.begin("UploadPart", &format!(" {}", req.input.part_number)).await?;
        lost(self.files.upload_part(req).await, trouble)
    }

    async fn complete_multipart_upload(
        &self,
        mut req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let trouble = self.begin("CompleteMultipartUpload", "").await?;
        if self.overlooks_conditions() {
            req.input.if_none_match = None;
        }
        if !Path::new(&self.root).join(format!(".upload-{}.json", req.input.upload_id)).is_file() {
            return Err(s3_error!(NoSuchUpload));
        }
        let _gate = self.gate.write().await;
        lost(self.files.complete_multipart_upload(req).await, trouble)
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.begin("AbortMultipartUpload", "").await?;
        self.files.abort_multipart_upload(req).await
    }
}
