//! ECR's API: moto's server behind a front that joins it with docker-registry.
//!
//! moto keeps no registry of its own, so the front does what belongs to both: a
//! tag that is deleted by the API goes from docker-registry, and logins expire
//! when the test wants (moto's expired in 2015).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use delayd_core::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};

use super::Server;
use super::http::{Reply, Request, serve};

/// moto's account, and the password that it hands out for it.
pub const LOGIN: &str = "AWS:123456789012-auth-token";

/// moto's program, where `scripts/setup/python_tools` made it.
pub fn moto() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    let program = cache.join("delayd/moto/bin/moto_server");
    program.is_file().then_some(program)
}

#[derive(Debug)]
pub struct EcrApi {
    _moto: Server,
    /// Where the front listens.
    pub address: SocketAddr,
    pub state: Arc<Mutex<State>>,
}

#[derive(Debug)]
pub struct State {
    /// Seconds that a login holds.
    pub login_secs: i64,
    /// The password in the next logins, where it is not moto's.
    pub password: Option<String>,
    /// Operations called, one by one.
    pub called: Vec<String>,
}

impl EcrApi {
    /// `storage` is docker-registry's.
    pub async fn start(moto: PathBuf, storage: PathBuf) -> Self {
        let server = tokio::task::spawn_blocking(move || {
            Server::start("moto_server", Duration::from_secs(120), |port| {
                let mut command = Command::new(&moto);
                command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
                command
            })
        });
        let server = server.await.unwrap();
        let state = Arc::new(Mutex::new(State { login_secs: 12 * 3600, password: None, called: Vec::new() }));
        let front = Arc::new(Front {
            moto: server.address,
            storage,
            state: state.clone(),
            http: delayd_core::http_client::client_builder().no_proxy().build().unwrap(),
        });
        let address = serve(move |request| {
            let front = front.clone();
            async move { front.answer(request).await }
        })
        .await;
        Self { _moto: server, address, state }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How often an operation was called since the last look at the calls.
    pub fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().called)
    }

    /// Calls an operation as an administrator would.
    pub async fn call(&self, operation: &str, body: Value) -> Value {
        let http = delayd_core::http_client::client_builder().no_proxy().build().unwrap();
        let authorization = "AWS4-HMAC-SHA256 Credential=AKID/20260101/eu-central-1/ecr/aws4_request, \
                             SignedHeaders=host, Signature=0";
        let response = http
            .post(self.url())
            .header("x-amz-target", format!("AmazonEC2ContainerRegistry_V20150921.{operation}"))
            .header("content-type", "application/x-amz-json-1.1")
            .header("authorization", authorization)
            .body(body.to_string())
            .send()
            .await
            .unwrap();
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
    }
}

struct Front {
    moto: SocketAddr,
    storage: PathBuf,
    state: Arc<Mutex<State>>,
    http: reqwest::Client,
}

impl Front {
    async fn answer(&self, request: Request) -> Reply {
        let operation = request.head.header("x-amz-target").and_then(|target| target.split('.').nth(1)).unwrap_or("");
        self.state.lock().unwrap().called.push(operation.to_owned());
        match operation {
            "BatchDeleteImage" => self.delete_tags(&request).await,
            "GetAuthorizationToken" => self.login(&request).await,
            _ => self.pass(&request).await,
        }
    }

    async fn pass(&self, request: &Request) -> Reply {
        let mut call = self.http.post(format!("http://{}/", self.moto)).body(request.body.clone());
        for (name, value) in &request.head.headers {
            if name.starts_with("x-amz-") || name == "authorization" || name == "content-type" {
                call = call.header(name, value);
            }
        }
        let response = call.send().await.unwrap();
        let reply = Reply::new(response.status().as_u16()).header("content-type", "application/x-amz-json-1.1");
        let error = response.headers().get("x-amzn-errortype").and_then(|value| Some(value.to_str().ok()?.to_owned()));
        let reply = reply.body(response.bytes().await.unwrap());
        match error {
            Some(error) => reply.header("x-amzn-errortype", error),
            None => reply,
        }
    }

    async fn login(&self, request: &Request) -> Reply {
        use base64::Engine as _;
        let reply = self.pass(request).await;
        let mut answer: Value = serde_json::from_slice(&reply.body).unwrap();
        let state = self.state.lock().unwrap();
        let granted = &mut answer["authorizationData"][0];
        granted["expiresAt"] = json!(SystemClock.now().timestamp() + state.login_secs);
        if let Some(password) = &state.password {
            let login = base64::engine::general_purpose::STANDARD.encode(format!("AWS:{password}"));
            granted["authorizationToken"] = json!(login);
        }
        Reply { body: answer.to_string().into_bytes(), ..reply }
    }

    /// What moto answers for a repository that it does not know; the rest as ECR does.
    async fn delete_tags(&self, request: &Request) -> Reply {
        let asked: Value = serde_json::from_slice(&request.body).unwrap();
        let repository = asked["repositoryName"].as_str().unwrap();
        let reply = self.pass(request).await;
        if reply.status != 200 {
            return reply;
        }
        let (mut gone, mut failures) = (Vec::new(), Vec::new());
        for image in asked["imageIds"].as_array().unwrap() {
            let tag = image["imageTag"].as_str().unwrap();
            let folder = self.storage.join("repositories").join(repository).join("_manifests/tags").join(tag);
            if std::fs::remove_dir_all(folder).is_ok() {
                gone.push(image.clone());
            } else {
                let reason = "Requested image not found";
                failures.push(json!({"imageId": image, "failureCode": "ImageNotFound", "failureReason": reason}));
            }
        }
        let body = json!({"imageIds": gone, "failures": failures});
        Reply { body: body.to_string().into_bytes(), ..reply }
    }
}
