//! What never appears anywhere.

use std::io::Write;
use std::sync::{Arc, Mutex};

use delayd::config::ObjectStoreSettings;
use delayd_core::error::chain;
use delayd_core::ports::ObjectStore;
use delayd_core::secret::Secret;
use delayd_outside::cloud::s3::{S3Settings, S3Store};

use crate::s3_object_store::noise;
use delayd_testkit::contracts::flaky_proxy::{FlakyProxy, Mood};
use delayd_testkit::s3_server::S3Server;

const SECRET: &str = "s3cret-access-key-of-this-test";
const TOKEN: &str = "s3cret-session-token-of-this-test";

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_secret_is_in_an_error_a_debug_output_or_a_log() {
    let log = Log::default();
    let writer = log.clone();
    // The server in this process writes down whole requests, which is its own affair.
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new("trace,s3s=off,s3s_fs=off"))
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let server = S3Server::start().await;
    let proxy = FlakyProxy::before(server.address).await;
    let settings = S3Settings {
        secret_access_key: Secret::new(SECRET),
        session_token: Secret::new(TOKEN),
        ..S3Server::settings_at(&proxy.url())
    };
    let store = S3Store::new(settings.clone());
    let mut texts = Vec::new();
    for mood in [Mood::Pass, Mood::Down, Mood::Refuse(403), Mood::Refuse(500), Mood::CutAfter(10)] {
        proxy.set(mood);
        texts.push(chain(&store.get("a").await.unwrap_err()));
        texts.push(chain(&S3Store::new(settings.clone()).put("a", noise(6 << 20, 1)).await.unwrap_err()));
        texts.push(format!("{:?}", store.probe().await.unwrap_err()));
    }
    texts.push(format!("{store:?} {settings:?}"));
    let section = ObjectStoreSettings { s3: settings, ..ObjectStoreSettings::default() };
    texts.push(toml::to_string(&section).unwrap());
    let logged = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(logged.contains("trying again"), "nothing was logged: {logged}");
    texts.push(logged);
    for text in texts {
        assert!(!text.contains(SECRET) && !text.contains(TOKEN), "{text}");
    }
}
