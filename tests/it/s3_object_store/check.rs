//! The configuration, and `delayd check`.

use std::path::Path;

use delayd::config::Settings;
use delayd::open;
use delayd_core::error::ErrorKind;

use delayd_testkit::s3_server::{ACCESS_KEY, BUCKET, DOMAIN, S3Server, SECRET_KEY};

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
async fn check_tells_a_bucket_that_is_there_with_credentials_of_the_environment_or_of_a_profile() {
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
async fn check_tells_why_a_bucket_cannot_be_used() {
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
async fn the_daemon_opens_a_store_that_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "{}\naccess_key_id = \"id\"\nsecret_access_key = \"env:DELAYD_NO_SUCH\"",
        section("http://127.0.0.1:1")
    );
    let settings = Settings::load(Some(&config(folder.path(), &text))).unwrap();
    let store = open::object_store(&settings).unwrap();
    let error = store.list("").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.to_string().contains("DELAYD_NO_SUCH"), "{error}");
}

#[test]
fn faults_of_the_section_are_told_only_where_it_is_chosen() {
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
