//! The S3 object store against a server that speaks the protocol and checks
//! signatures (see `delayd_testkit::s3_server`), and against moto's where
//! that is installed.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use delayd::config::Settings;
use delayd::open;
use delayd_core::error::ErrorKind;
use delayd_core::ports::ObjectStore;
use delayd_core::secret::Secret;
use delayd_data::contract::Contract;
use delayd_data::dataset::{self, DatasetWindow};
use delayd_data::formats::parquet;
use delayd_outside::cloud::s3::{S3Settings, S3Store};
use delayd_testkit::contracts::flaky_proxy::TlsFront;
use delayd_testkit::contracts::object_store::keeps_the_whole_contract;
use delayd_testkit::data_support::{Pass, flight, judge, utc};
use delayd_testkit::s3_server::{ACCESS_KEY, BUCKET, DOMAIN, S3Server, SECRET_KEY};
use delayd_testkit::tools::assert_error;

/// Bytes that are not alike anywhere, so that parts in the wrong order are noticed.
pub fn noise(length: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // xorshift64 (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

// ----------------------------------------------------------------
// The contract of the port, path style and through TLS; listings; the probe.

#[tokio::test]
async fn the_s3_store_keeps_the_contract() {
    let server = S3Server::start().await;
    keeps_the_whole_contract(&server.store()).await;
}

#[tokio::test]
async fn the_s3_store_keeps_the_contract_under_a_prefix_and_through_tls_with_an_authority_of_its_own() {
    let server = S3Server::start().await;
    let tls = TlsFront::before(server.address).await;
    let mut settings = S3Server::settings_at(&format!("https://localhost:{}", tls.address.port()));
    settings.prefix = "delayd/main".to_owned();
    settings.http.ca_path = tls.ca_path.clone();
    keeps_the_whole_contract(&S3Store::new(settings)).await;
}

#[tokio::test]
async fn stores_under_different_prefixes_do_not_see_each_other() {
    let server = S3Server::start().await;
    let under = |prefix: &str| S3Store::new(S3Settings { prefix: prefix.to_owned(), ..server.settings() });
    let (one, two) = (under("one"), under("one-more/"));
    one.put("a", Bytes::from_static(b"1")).await.unwrap();
    two.put("a", Bytes::from_static(b"2")).await.unwrap();
    assert_eq!((one.list("").await.unwrap().len(), two.list("").await.unwrap().len()), (1, 1));
    two.delete("a").await.unwrap();
    assert_eq!(one.get("a").await.unwrap(), "1");
    assert_eq!(std::fs::read(server.bucket().join("one/a")).unwrap(), b"1");
}

#[tokio::test]
async fn a_listing_goes_over_pages_and_shows_no_key_that_is_none() {
    let server = S3Server::start().await;
    let folder = server.bucket().join("flights");
    std::fs::create_dir(&folder).unwrap();
    for number in 0..2300 {
        std::fs::write(folder.join(format!("{number:04}.csv")), "x").unwrap();
    }
    std::fs::write(folder.join("not\\a key"), "x").unwrap();
    let listed = server.store().list("flights/").await.unwrap();
    let keys: Vec<&str> = listed.iter().map(|object| object.key.as_str()).collect();
    let expected: Vec<String> = (0..2300).map(|number| format!("flights/{number:04}.csv")).collect();
    assert_eq!(keys, expected);
    assert_eq!(server.seen(), ["ListObjects"; 3]);
}

#[tokio::test]
async fn the_probe_reports_bucket_region_and_endpoint_and_changes_nothing() {
    let server = S3Server::start().await;
    let told = server.store().probe().await.unwrap();
    assert!(told.contains(BUCKET) && told.contains("us-east-1") && told.contains(&server.url()), "{told}");
    assert_eq!(server.seen(), ["ListObjects", "HeadBucket"]);
    assert!(server.store().list("").await.unwrap().is_empty());
}

#[tokio::test]
async fn the_probe_distinguishes_a_refused_key_a_missing_bucket_and_an_unavailable_store() {
    let server = S3Server::start().await;
    let probe = async |settings: S3Settings| S3Store::new(settings).probe().await.unwrap_err();
    let error = probe(S3Settings { secret_access_key: Secret::new("wrong"), ..server.settings() }).await;
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    let error = probe(S3Settings { bucket: "elsewhere".to_owned(), ..server.settings() }).await;
    assert_error(&error, ErrorKind::NotFound, &["elsewhere", "NoSuchBucket"]);
    let error = probe(S3Server::settings_at("http://127.0.0.1:1")).await;
    assert_error(&error, ErrorKind::Unavailable, &["refused"]);
}

#[tokio::test]
async fn a_wrong_secret_key_is_refused_everywhere_and_not_tried_again() {
    let server = S3Server::start().await;
    let store = S3Store::new(S3Settings { secret_access_key: Secret::new("wrong"), ..server.settings() });
    let errors = [
        store.list("").await.unwrap_err(),
        store.get("a").await.unwrap_err(),
        store.put("a", Bytes::from_static(b"x")).await.unwrap_err(),
        store.delete("a").await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(!error.to_string().contains("tried"), "{error}");
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_missing_bucket_is_not_a_missing_object() {
    let server = S3Server::start().await;
    let store = S3Store::new(S3Settings { bucket: "elsewhere".to_owned(), ..server.settings() });
    let error = store.get("a").await.unwrap_err();
    assert!(error.to_string().contains("create it"), "{error}");
    assert!(store.list("").await.is_err());
}

// ----------------------------------------------------------------
// The configuration, and `delayd check`.

fn config(folder: &Path, section: &str) -> std::path::PathBuf {
    let path = folder.join("delayd.toml");
    let state = folder.join("state");
    let text = format!(
        "[daemon]\nstate_dir = {state:?}\n[object_store]\nkind = \"s3\"\n[object_store.s3]\n{section}\n[object_store.s3.http]\nconnect_timeout_secs = 2\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

fn section(endpoint: &str) -> String {
    format!(
        "bucket = {BUCKET:?}\nregion = \"us-east-1\"\nendpoint = {endpoint:?}\npath_style = true\nretry_pause_ms = 5"
    )
}

/// What `delayd check` says of the object store, with nothing of AWS in its environment but `variables`.
async fn told(folder: &Path, section: &str, variables: &[(&str, &str)]) -> (bool, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_delayd"));
    command.arg("check").arg("--json").arg("--config").arg(config(folder, section));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", folder);
    command.env("AWS_EC2_METADATA_DISABLED", "true").envs(variables.iter().copied());
    let output = command.output().await.unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    let start = text.find('[').unwrap_or_else(|| panic!("{text}"));
    let findings: serde_json::Value =
        serde_json::Deserializer::from_str(&text[start..]).into_iter().next().unwrap().unwrap();
    let found = findings.as_array().unwrap().iter().find(|finding| finding["what"] == "object store").unwrap();
    (found["fine"].as_bool().unwrap(), found["detail"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn check_reports_a_bucket_that_is_there_with_credentials_of_the_environment_or_of_a_profile() {
    let server = S3Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let keys = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)];
    let (fine, detail) = told(folder.path(), &section(&server.url()), &keys).await;
    assert!(fine && detail.contains(BUCKET) && detail.contains("us-east-1"), "{detail}");

    let file = folder.path().join("credentials");
    let profile = format!("[flights]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n");
    std::fs::write(&file, profile).unwrap();
    let variables = [("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap())];
    let named = format!("{}\nprofile = \"flights\"", section(&server.url()));
    let (fine, detail) = told(folder.path(), &named, &variables).await;
    assert!(fine, "{detail}");
}

#[tokio::test]
async fn a_bucket_in_the_host_name_is_reached_through_the_environments_proxy() {
    let server = S3Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let section = section(&format!("http://{DOMAIN}")).replace("path_style = true", "path_style = false");
    let proxy = server.url();
    let variables =
        [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY), ("HTTP_PROXY", proxy.as_str())];
    let (fine, detail) = told(folder.path(), &section, &variables).await;
    assert!(fine && detail.contains(BUCKET), "{detail}");
}

#[tokio::test]
async fn check_reports_why_a_bucket_cannot_be_used() {
    let server = S3Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (fine, detail) = told(folder.path(), &section(&server.url()), &[]).await;
    assert!(!fine && detail.contains("no credentials"), "{detail}");
    let keys = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", "wrong")];
    let (fine, detail) = told(folder.path(), &section(&server.url()), &keys).await;
    assert!(!fine && detail.contains("SignatureDoesNotMatch"), "{detail}");
    let (fine, detail) = told(folder.path(), &section("http://127.0.0.1:1"), &keys).await;
    assert!(!fine && detail.contains("refused"), "{detail}");
    let nowhere = section(&server.url()).replace("region = \"us-east-1\"", "region = \"\"");
    let (fine, detail) = told(folder.path(), &nowhere, &keys).await;
    assert!(!fine && detail.contains("AWS_REGION"), "{detail}");
}

#[tokio::test]
async fn the_daemon_opens_a_store_that_is_unavailable() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "{}\naccess_key_id = \"id\"\nsecret_access_key = \"env:DELAYD_NO_SUCH\"",
        section("http://127.0.0.1:1")
    );
    let settings = Settings::load(Some(&config(folder.path(), &text))).unwrap();
    let store = open::object_store(&settings).unwrap();
    let error = store.list("").await.unwrap_err();
    assert_error(&error, ErrorKind::Denied, &["DELAYD_NO_SUCH"]);
}

#[test]
fn faults_of_the_section_are_reported_only_where_it_is_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = "part_bytes = 1\nendpoint = \"https://user:s3cret@minio\"";
    let path = config(folder.path(), wrong);
    let error = Settings::load(Some(&path)).unwrap_err().to_string();
    assert!(error.contains("bucket") && error.contains("part_bytes") && error.contains("endpoint"), "{error}");
    assert!(!error.contains("s3cret"), "{error}");
    let text = std::fs::read_to_string(&path).unwrap().replace("kind = \"s3\"", "kind = \"folder\"");
    std::fs::write(&path, text).unwrap();
    Settings::load(Some(&path)).unwrap();
}

// ----------------------------------------------------------------
// Flight logs and datasets in a bucket.

const LOG: &str = "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,origin,dest,air_time,distance,hour,minute,time_hour
2013,7,1,917,915,2,1130,1119,11,UA,1545,N14228,EWR,IAH,227,1400,9,15,2013-07-01T13:00:00Z
2013,7,1,1017,1015,2,1230,1219,11,UA,1546,N14228,EWR,IAH,227,1400,10,15,2013-07-01T14:00:00Z
";

fn day(day: u32, flights: u32) -> Vec<u8> {
    let rows: Vec<_> =
        (1..=flights).map(|number| flight(number, "LAX", &format!("2013-07-{day:02}T12:00:00Z"), 5, 3)).collect();
    parquet::write_flights(&rows, None).unwrap()
}

#[tokio::test]
async fn flight_logs_of_every_form_are_taken_in_from_a_bucket_and_become_a_dataset_in_it() {
    let server = S3Server::start().await;
    let store: Arc<dyn ObjectStore> = Arc::new(server.store());
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(LOG.replace("2013,7,1,", "2013,7,2,").replace("2013-07-01", "2013-07-02").as_bytes()).unwrap();
    store.put("flights/1.csv", LOG.into()).await.unwrap();
    store.put("flights/2.csv.gz", gz.finish().unwrap().into()).await.unwrap();
    store.put("flights/3.parquet", day(3, 30).into()).await.unwrap();
    store.put("other/4.csv", LOG.into()).await.unwrap();

    let now = "2013-08-01T00:00:00Z";
    let pass = Pass::over(&store, &BTreeMap::new(), judge(), now).await;
    assert_eq!((pass.accepted(), pass.objects.len()), (34, 3), "{:#?}", pass.objects);
    let again = Pass::over(&store, &pass.seen(&BTreeMap::new()), judge(), now).await;
    assert_eq!((again.accepted(), again.objects.len()), (0, 0));

    let window = DatasetWindow {
        from: utc("2013-07-01T00:00:00Z"),
        until: utc("2013-07-04T00:00:00Z"),
        as_of: utc("2013-07-05T00:00:00Z"),
        policy: "fresh 7 days".into(),
    };
    let contract = Contract::built_in().unwrap();
    let built = dataset::build_dataset(store.as_ref(), pass.parts(), Vec::new(), &window, &contract).await.unwrap();
    assert_eq!(built.manifest.rows, 34);
    let version = dataset::store_dataset(store.as_ref(), &built.manifest).await.unwrap();
    assert_eq!(dataset::load_manifest(store.as_ref(), &version).await.unwrap(), built.manifest);
    assert!(dataset::verify_dataset(store.as_ref(), &version).await.unwrap().is_intact());
    assert_eq!(dataset::rebuild_dataset(store.as_ref(), &version, &judge()).await.unwrap(), 34);
}

// ----------------------------------------------------------------
// A second server, written by others in another language: moto's. It checks no
// signature, and answers ranges, conditions and uploads in parts in its own way.

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
        let port = delayd_testkit::tools::free_port();
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
