//! A second server, written by others in another language: moto's. It checks no
//! signature, and answers ranges, conditions and uploads in parts in its own way.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use delayd_core::error::ErrorKind;
use delayd_core::ports::ObjectStore;
use delayd_outside::cloud::s3::S3Store;

use crate::s3_object_store::noise;
use delayd_testkit::s3_server::{BUCKET, S3Server};

const MIB: usize = 1 << 20;

/// moto's server; it dies with this value.
struct Moto {
    _process: tokio::process::Child,
    url: String,
    _folder: tempfile::TempDir,
}

fn program() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    let mut programs: Vec<PathBuf> = std::fs::read_dir(cache.join("delayd"))
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("moto-")))
        .map(|home| home.join("bin/moto_server"))
        .filter(|program| program.is_file())
        .collect();
    programs.sort();
    programs.pop()
}

impl Moto {
    async fn start(test: &str) -> Option<Self> {
        let Some(program) = program() else {
            eprintln!("SKIPPED: {test}: moto's server is not installed; scripts/setup/python_tools installs it");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = tokio::process::Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let moto = Self { _process: process, url: format!("http://127.0.0.1:{port}"), _folder: folder };
        let deadline = Instant::now() + Duration::from_secs(60);
        let client = delayd_core::http_client::client_builder().build().unwrap();
        // An unsigned request of an administrator's kind makes the bucket.
        while !client.put(format!("{}/{BUCKET}", moto.url)).send().await.is_ok_and(|made| made.status().is_success()) {
            assert!(Instant::now() < deadline, "moto does not start");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Some(moto)
    }

    fn store(&self) -> S3Store {
        S3Store::new(S3Server::settings_at(&self.url))
    }
}

#[tokio::test]
async fn another_server_keeps_what_is_written_to_it() {
    let Some(moto) = Moto::start("another_server_keeps_what_is_written_to_it").await else { return };
    let store = moto.store();
    assert!(store.probe().await.unwrap().contains(BUCKET));
    for (key, length) in [("empty", 0), ("flights/1.csv", 1000), ("with space/ümlaut=1.csv", 10), ("large", 17 * MIB)]
    {
        store.put(key, noise(length, 1)).await.unwrap();
        assert_eq!(store.get(key).await.unwrap(), noise(length, 1), "{key}");
    }
    let keys: Vec<String> = store.list("").await.unwrap().into_iter().map(|object| object.key).collect();
    assert_eq!(keys, ["empty", "flights/1.csv", "large", "with space/ümlaut=1.csv"]);
    assert_eq!(store.get("missing").await.unwrap_err().kind(), ErrorKind::NotFound);
    store.delete("large").await.unwrap();
    store.delete("large").await.unwrap();
    assert_eq!(store.list("").await.unwrap().len(), 3);
}

#[tokio::test]
async fn another_server_replaces_an_object_whichever_store_wrote_it() {
    let Some(moto) = Moto::start("another_server_replaces_an_object_whichever_store_wrote_it").await else { return };
    let (one, two) = (moto.store(), moto.store());
    for (key, length) in [("small", 1000), ("large", 12 * MIB)] {
        one.put(key, noise(length, 2)).await.unwrap();
        two.put(key, noise(length, 3)).await.unwrap();
        assert_eq!(one.get(key).await.unwrap(), noise(length, 3));
    }
}
