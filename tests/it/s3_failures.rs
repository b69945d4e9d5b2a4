//! A store that is down, slow, refusing, cut off, not what it says it is, and back.

use bytes::Bytes;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use delayd::config::ObjectStoreSettings;
use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::ports::ObjectStore;
use delayd_core::secret::Secret;
use delayd_outside::cloud::s3::{S3Settings, S3Store};
use delayd_testkit::contracts::flaky_proxy::{FlakyProxy, Mood, TlsFront};
use delayd_testkit::s3_server::{S3Server, Trouble};
use delayd_testkit::tools::assert_error;

use crate::s3_contract::noise;

const MIB: usize = 1 << 20;

/// A store behind a proxy, with two objects in it that were put past the proxy.
async fn behind_a_proxy() -> (S3Server, FlakyProxy, S3Settings) {
    let server = S3Server::start().await;
    let store = server.store();
    store.put("small", noise(1000, 1)).await.unwrap();
    store.put("large", noise(17 * MIB, 2)).await.unwrap();
    server.seen();
    let proxy = FlakyProxy::before(server.address).await;
    let settings = S3Server::settings_at(&proxy.url());
    (server, proxy, settings)
}

/// Every operation, each by a store of its own so that no connection is left from before.
async fn errors_of_all(settings: &S3Settings) -> Vec<PortError> {
    let store = || S3Store::new(settings.clone());
    vec![
        store().list("").await.unwrap_err(),
        store().get("small").await.unwrap_err(),
        store().get("large").await.unwrap_err(),
        store().put("new", noise(1000, 3)).await.unwrap_err(),
        store().put("new", noise(12 * MIB, 3)).await.unwrap_err(),
        store().probe().await.unwrap_err(),
    ]
}

#[tokio::test]
async fn a_store_that_is_down_is_unavailable_and_works_again_when_it_is_back() {
    let (_server, proxy, settings) = behind_a_proxy().await;
    proxy.set(Mood::Down);
    for error in errors_of_all(&settings).await {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
    let store = S3Store::new(settings);
    assert_eq!(store.get("small").await.unwrap_err().kind(), ErrorKind::Unavailable);
    proxy.set(Mood::Pass);
    assert_eq!(store.get("small").await.unwrap(), noise(1000, 1));
    assert_eq!(store.list("").await.unwrap().len(), 2);
}

#[tokio::test]
async fn every_refusal_has_its_kind_and_its_status_is_reported() {
    let (_server, proxy, settings) = behind_a_proxy().await;
    for (status, kind, tries_more) in [
        (401, ErrorKind::Denied, false),
        (403, ErrorKind::Denied, false),
        (404, ErrorKind::NotFound, false),
        (409, ErrorKind::Conflict, true),
        (412, ErrorKind::Conflict, false),
        (429, ErrorKind::Unavailable, true),
        (500, ErrorKind::Unavailable, true),
        (501, ErrorKind::Invalid, false),
        (503, ErrorKind::Unavailable, true),
        (507, ErrorKind::Exhausted, false),
    ] {
        proxy.set(Mood::Refuse(status));
        let store = S3Store::new(settings.clone());
        for error in [store.get("small").await.unwrap_err(), store.put("new", noise(10, 3)).await.unwrap_err()] {
            assert_eq!(error.kind(), kind, "{status}: {error}");
            assert!(error.to_string().contains(&status.to_string()), "{error}");
            assert_eq!(error.to_string().contains("tried 4 times"), tries_more, "{status}: {error}");
        }
    }
}

#[tokio::test]
async fn removing_is_not_a_success_when_the_store_refuses() {
    let (server, proxy, settings) = behind_a_proxy().await;
    for (status, kind) in [(403, ErrorKind::Denied), (503, ErrorKind::Unavailable)] {
        proxy.set(Mood::Refuse(status));
        let error = S3Store::new(settings.clone()).delete("small").await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
    assert!(server.bucket().join("small").is_file());
}

#[tokio::test]
async fn short_outages_are_waited_out() {
    let (_server, proxy, settings) = behind_a_proxy().await;
    for mood in [Mood::Down, Mood::Refuse(503), Mood::Refuse(429), Mood::CutAfter(0), Mood::CutAfter(150)] {
        let store = S3Store::new(settings.clone());
        proxy.set_for(mood, 2);
        assert_eq!(store.get("small").await.unwrap(), noise(1000, 1), "{mood:?}");
        let store = S3Store::new(settings.clone());
        proxy.set_for(mood, 2);
        store.put("new", noise(12 * MIB, 4)).await.unwrap();
        let store = S3Store::new(settings.clone());
        proxy.set_for(mood, 2);
        assert_eq!(store.list("").await.unwrap().len(), 3, "{mood:?}");
    }
}

#[tokio::test]
async fn an_object_interrupted_in_mid_transfer_is_fetched_again_part_by_part() {
    let (_server, proxy, settings) = behind_a_proxy().await;
    for cut in [MIB, 4 * MIB, 5 * MIB] {
        proxy.set_for(Mood::CutAfter(cut), 3);
        let fetched = S3Store::new(settings.clone()).get("large").await.unwrap();
        assert_eq!(fetched, noise(17 * MIB, 2), "cut after {cut}");
    }
    proxy.set(Mood::CutAfter(MIB));
    let store = S3Store::new(settings);
    let error = store.get("large").await.unwrap_err();
    assert_error(&error, ErrorKind::Unavailable, &["broke off", "tried 4 times"]);
    proxy.set(Mood::Pass);
    assert_eq!(store.get("large").await.unwrap(), noise(17 * MIB, 2));
}

#[tokio::test]
async fn an_upload_interrupted_in_the_middle_leaves_no_object_and_goes_through_when_the_store_is_back() {
    let (server, proxy, settings) = behind_a_proxy().await;
    let store = S3Store::new(settings);
    // The upload is begun on a connection that stands; its parts want more of them.
    store.list("").await.unwrap();
    proxy.set(Mood::CutAfter(0));
    let error = store.put("new", noise(17 * MIB, 5)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(!server.bucket().join("new").exists());
    proxy.set(Mood::Pass);
    store.put("new", noise(17 * MIB, 5)).await.unwrap();
    assert_eq!(store.get("new").await.unwrap(), noise(17 * MIB, 5));
}

#[tokio::test]
async fn a_slow_store_is_a_timeout_and_a_patient_client_waits_for_it() {
    let (_server, proxy, mut settings) = behind_a_proxy().await;
    proxy.set(Mood::Slow(Duration::from_secs(2)));
    settings.attempts = 2;
    settings.http.read_timeout_secs = 1;
    let error = S3Store::new(settings.clone()).get("small").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    settings.attempt_timeout_secs = 1;
    let error = S3Store::new(settings.clone()).put("new", noise(1000, 6)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    settings.attempt_timeout_secs = 60;
    settings.http.read_timeout_secs = 60;
    assert_eq!(S3Store::new(settings).get("small").await.unwrap(), noise(1000, 1));
}

#[tokio::test]
async fn a_certificate_nobody_vouches_for_is_reported_and_not_tried_again() {
    let server = S3Server::start().await;
    let tls = TlsFront::before(server.address).await;
    let proxy = FlakyProxy::before(tls.address).await;
    let settings = S3Server::settings_at(&format!("https://localhost:{}", proxy.address().port()));
    let error = S3Store::new(settings.clone()).get("small").await.unwrap_err();
    assert_error(&error, ErrorKind::Unavailable, &["certificate", "ca_path"]);
    assert_eq!(proxy.connections(), 1);
    let mut trusting = settings;
    trusting.http.ca_path = tls.ca_path.clone();
    S3Store::new(trusting).put("small", Bytes::from_static(b"x")).await.unwrap();
}

#[tokio::test]
async fn a_certificate_for_another_name_is_reported() {
    let server = S3Server::start().await;
    let tls = TlsFront::before(server.address).await;
    // 127.0.0.2 reaches the same listener and is not in its certificate.
    let listener = std::net::TcpListener::bind("127.0.0.2:0");
    let Ok(listener) = listener else {
        eprintln!("SKIPPED: a_certificate_for_another_name_is_reported: this system has no 127.0.0.2");
        return;
    };
    let listener = tokio::net::TcpListener::from_std({
        listener.set_nonblocking(true).unwrap();
        listener
    })
    .unwrap();
    let address = listener.local_addr().unwrap();
    let front = tls.address;
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = tokio::net::TcpStream::connect(front).await.unwrap();
            tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    let mut settings = S3Server::settings_at(&format!("https://{address}"));
    settings.http.ca_path = tls.ca_path.clone();
    let error = S3Store::new(settings).list("").await.unwrap_err();
    assert_error(&error, ErrorKind::Unavailable, &["certificate"]);
}

// ----------------------------------------------------------------
// Writes that are repeated, and writers at the same moment.

#[tokio::test]
async fn of_two_writers_of_a_large_object_one_is_read_whole_and_nothing_is_left() {
    let server = S3Server::start().await;
    let (one, two) = (server.store(), server.store());
    let (mine, theirs) = (noise(12 * MIB, 1), noise(12 * MIB, 2));
    let (first, second) = tokio::join!(one.put("large", mine.clone()), two.put("large", theirs.clone()));
    first.unwrap();
    second.unwrap();
    let found = one.get("large").await.unwrap();
    assert!(found == mine || found == theirs, "a mixture of both");
    assert!(!server.has_leftovers());
}

#[tokio::test]
async fn a_put_whose_last_answer_was_lost_succeeds() {
    for (operation, length) in [("PutObject", 1000), ("CompleteMultipartUpload", 12 * MIB)] {
        let server = S3Server::start().await;
        let store = server.store();
        server.trouble(operation, Trouble::DoneButLost, 1);
        store.put("once", noise(length, 5)).await.unwrap();
        assert_eq!(store.get("once").await.unwrap(), noise(length, 5));
        assert!(!server.has_leftovers(), "{operation}");
    }
}

// ----------------------------------------------------------------
// What never appears anywhere.

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
