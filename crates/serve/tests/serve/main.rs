//! What a caller, the daemon and the system see of a replica.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test fails by panicking")]
#![allow(dead_code, unreachable_pub, reason = "modules of one binary")]

mod http;
mod process;
mod slow_clients;

use std::path::PathBuf;

use clap::Parser;
use delayd_model::testing::{tiny_bundle, tiny_rows};
use delayd_serve::{Options, Service};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;

/// A bundle on disk.
pub fn bundle(seed: u64) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().join("bundle");
    tiny_bundle(seed).write_to(&dir).unwrap();
    (folder, dir)
}

pub fn options(bundle: &std::path::Path, more: &[&str]) -> Options {
    let common = [
        "delayd-serve",
        "--bundle",
        bundle.to_str().unwrap(),
        "--model-version",
        "model_v1",
        "--replica",
        "replica-1",
        "--workers",
        "2",
    ];
    let listen = if more.contains(&"--listen") { &[][..] } else { &["--listen", "127.0.0.1:0"][..] };
    Options::try_parse_from(common.iter().chain(listen).chain(more)).unwrap()
}

/// A running replica; it is told to stop by [`Running::stop`].
pub struct Running {
    pub public: String,
    pub admin: String,
    pub client: reqwest::Client,
    stop: Option<oneshot::Sender<()>>,
    ended: tokio::task::JoinHandle<()>,
    _folder: TempDir,
}

impl Running {
    pub async fn with(more: &[&str]) -> Self {
        let (folder, dir) = bundle(1);
        let service = delayd_serve::start(options(&dir, more)).await.unwrap();
        Self::of(service, folder)
    }

    pub fn of(service: Service, folder: TempDir) -> Self {
        let (public, admin) = (service.public_addr(), service.admin_addr());
        let (stop, told) = oneshot::channel::<()>();
        let ended = actix_web::rt::spawn(async move {
            service.run_until(async { told.await.unwrap() }).await.unwrap();
        });
        Self {
            public: format!("http://{public}"),
            admin: format!("http://{admin}"),
            client: client(),
            stop: Some(stop),
            ended,
            _folder: folder,
        }
    }

    pub fn tell_to_stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    pub async fn ended(self) {
        self.ended.await.unwrap();
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        let base = if path.starts_with("/admin") { &self.admin } else { &self.public };
        answer(self.client.get(format!("{base}{path}"))).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        answer(self.client.post(format!("{}{path}", self.public)).json(body)).await
    }

    pub async fn text(&self, path: &str) -> String {
        self.client.get(format!("{}{path}", self.public)).send().await.unwrap().text().await.unwrap()
    }
}

pub async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// Synthetic flights as a caller sends them.
pub fn flights(seed: u64, count: usize) -> Vec<Value> {
    let flight = |row: &delayd_features::FlightRow| {
        let context = delayd_features::NumericInput::ALL.iter().filter(|input| input.is_context());
        let number = |value: f32| if value.is_finite() { json!(value) } else { Value::Null };
        let context: serde_json::Map<String, Value> =
            context.map(|input| (input.name().to_owned(), number(row.get(*input)))).collect();
        json!({
            "carrier": row.carrier, "flight_number": row.flight_number, "origin": row.origin, "dest": row.dest,
            "scheduled_departure": row.scheduled_departure, "scheduled_arrival": row.scheduled_arrival,
            "context": context,
        })
    };
    tiny_rows(seed, count).iter().map(flight).collect()
}

/// Clients of the whole workspace know TLS, and want to be told whose.
pub fn client_builder() -> reqwest::ClientBuilder {
    // Err means that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
}

pub fn client() -> reqwest::Client {
    client_builder().build().unwrap()
}
