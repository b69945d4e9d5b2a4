//! The status endpoint as programs and administrators meet it: a running daemon,
//! asked over TCP, TLS and its local socket.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(unreachable_pub, dead_code, reason = "helpers are shared by inclusion")]

mod access;
mod cli;
use delayd_testkit::contracts;
mod events;
mod records;
mod schema;
use delayd_testkit::site;
mod slow_clients;
mod tls;

use std::time::Duration;

use reqwest::Client;
use serde_json::Value;
use site::{DatalessDaemon, text};

const DEADLINE: Duration = Duration::from_secs(60);
const OPERATOR: &str = "operators-token-of-forty-characters-or-so";
const VIEWER: &str = "viewers-token-that-is-quite-as-long-as-that";

/// A daemon that knows two tokens; `http` are more keys of `[http]`.
fn prepared(http: &str) -> DatalessDaemon {
    let tokens = format!(
        "[[http.tokens]]\nname = \"oncall\"\nrole = \"operator\"\ntoken = \"{OPERATOR}\"\n\
         [[http.tokens]]\nname = \"wallboard\"\nrole = \"viewer\"\ntoken = \"{VIEWER}\"\n"
    );
    DatalessDaemon::new(http, &tokens)
}

fn started(http: &str) -> DatalessDaemon {
    let mut daemon = prepared(http);
    daemon.start();
    daemon
}

fn client() -> Client {
    delayd_core::http_client::client_builder().no_proxy().timeout(DEADLINE).build().unwrap()
}

/// Status and body of a GET.
async fn get(url: &str) -> (u16, Value) {
    let answer = client().get(url).send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap_or(Value::Null))
}
