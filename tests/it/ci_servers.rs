//! Repositories behind servers that are away, refuse, break off, or want a secret.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use delayd_testkit::ci;
use delayd_testkit::contracts;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ci::ServerProcess;
use ci::{ServiceRepository, files_with, makes_a_binary, script_settings};
use contracts::flaky_proxy::{FlakyProxy, Mood, TlsFront};
use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::ids::CycleId;
use delayd_core::secret::Secret;
use delayd_outside::packaging::SourceSettings;
use delayd_outside::packaging::source::{BuildControl, FinishedBuild, SourceBuilder};
use tempfile::TempDir;

const TOKEN: &str = "tok3n-that-nobody-may-see";

/// A folder with a repository `service` in it.
struct Place {
    folder: TempDir,
    repository: ServiceRepository,
    commit: String,
}

impl Place {
    fn new() -> Self {
        let folder = ci::private_folder();
        // Many bytes that cannot be compressed away, so that a connection can be cut in the middle.
        let noise: String = (0..40_000_u32).map(|n| format!("# {}\n", n.wrapping_mul(2_654_435_761))).collect();
        let script = format!("{}exit\n{noise}", makes_a_binary("one"));
        let (repository, commit) = ServiceRepository::script(&folder.path().join("root/service"), &script);
        Self { folder, repository, commit }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    async fn build(&self, settings: &SourceSettings) -> Result<FinishedBuild, PortError> {
        assert_eq!(settings.faults(), Vec::<String>::new());
        let builder = SourceBuilder::new(settings, true, &self.state());
        tokio::task::spawn_blocking(move || builder.build(CycleId(1), &BuildControl::default(), &|_| ())).await.unwrap()
    }

    async fn failure(&self, settings: &SourceSettings) -> (ErrorKind, String) {
        let error = self.build(settings).await.unwrap_err();
        (error.kind(), chain(&error))
    }
}

#[tokio::test]
async fn a_git_server_that_is_away_or_breaks_off_is_an_outage_and_its_return_ends_it() {
    let place = Place::new();
    let server = ServerProcess::git_daemon(&place.root());
    let proxy = FlakyProxy::before(server.address).await;
    let settings = script_settings(&format!("git://{}/service", proxy.address()));
    for mood in [Mood::Down, Mood::CutAfter(0), Mood::CutAfter(500), Mood::CutAfter(60_000)] {
        proxy.set(mood);
        let (kind, text) = place.failure(&settings).await;
        assert_eq!(kind, ErrorKind::Unavailable, "{mood:?}: {text}");
        assert!(text.contains("fetching main of git://"), "{mood:?}: {text}");
    }
    proxy.set(Mood::Slow(Duration::from_millis(300)));
    assert_eq!(place.build(&settings).await.unwrap().commit, place.commit);
    // The branch moves while the server is away: nothing old is taken for new.
    proxy.set(Mood::Down);
    place.repository.write("build.sh", &makes_a_binary("two"));
    let moved = place.repository.commit("second");
    assert_eq!(place.failure(&settings).await.0, ErrorKind::Unavailable);
    // A commit that was fetched and built needs no server.
    let pinned = SourceSettings { revision: place.commit.clone(), ..settings.clone() };
    assert!(place.build(&pinned).await.unwrap().reused);
    proxy.set(Mood::Pass);
    assert_eq!(place.build(&settings).await.unwrap().commit, moved);
}

#[tokio::test]
async fn a_server_that_stopped_refuses_the_connection_and_that_is_an_outage_too() {
    let place = Place::new();
    let server = ServerProcess::git_daemon(&place.root());
    let settings = script_settings(&format!("git://{}/service", server.address));
    drop(server);
    let (kind, text) = place.failure(&settings).await;
    assert_eq!(kind, ErrorKind::Unavailable, "{text}");
    assert!(text.contains("refused"), "{text}");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_at_the_deadline() {
    let place = Place::new();
    let server = ServerProcess::git_daemon(&place.root());
    let proxy = FlakyProxy::before(server.address).await;
    proxy.set(Mood::Slow(Duration::from_secs(600)));
    let settings =
        SourceSettings { fetch_timeout_secs: 2, ..script_settings(&format!("git://{}/service", proxy.address())) };
    let (kind, text) = place.failure(&settings).await;
    assert_eq!(kind, ErrorKind::Timeout, "{text}");
    assert!(text.contains("2 s"), "{text}");
}

#[tokio::test]
async fn a_web_servers_refusals_say_whether_to_try_again() {
    let place = Place::new();
    let proxy = FlakyProxy::before(ci::http(&place.root(), None)).await;
    let settings = script_settings(&format!("{}/service", proxy.url()));
    for (status, kind) in [
        (401, ErrorKind::Denied),
        (403, ErrorKind::Denied),
        (404, ErrorKind::NotFound),
        (429, ErrorKind::Unavailable),
        (500, ErrorKind::Unavailable),
        (503, ErrorKind::Unavailable),
    ] {
        proxy.set(Mood::Refuse(status));
        let (found, text) = place.failure(&settings).await;
        assert_eq!(found, kind, "{status}: {text}");
    }
    proxy.set(Mood::CutAfter(10_000));
    assert_eq!(place.failure(&settings).await.0, ErrorKind::Unavailable);
    proxy.set(Mood::Pass);
    assert_eq!(place.build(&settings).await.unwrap().commit, place.commit);
}

/// Whether `secret` is in any process' command line; counts the git processes it saw.
fn watch_command_lines(secret: &str, seen: &AtomicUsize, until: &AtomicBool) -> Vec<String> {
    let mut found = Vec::new();
    while !until.load(Ordering::SeqCst) {
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains("git-remote-https") || line.contains("git remote-https") {
                seen.fetch_add(1, Ordering::SeqCst);
            }
            if line.contains(secret) {
                found.push(line);
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    found
}

#[tokio::test]
async fn a_token_opens_an_https_repository_and_is_seen_nowhere() {
    let place = Place::new();
    let server = ci::http(&place.root(), Some(("robot", TOKEN)));
    let front = TlsFront::before(server).await;
    let settings = SourceSettings {
        username: "robot".to_owned(),
        token: Secret::new(TOKEN),
        ca_path: front.ca_path.clone(),
        // The script asks for whatever it might find.
        pass_environment: vec!["DELAYD_GIT_TOKEN".to_owned()],
        ..script_settings(&format!("https://localhost:{}/service", front.address.port()))
    };
    place.repository.write("build.sh", &format!("env\n{}", makes_a_binary("one")));
    let commit = place.repository.commit("shows its environment");
    let (seen, until) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let watcher = {
        let (seen, until) = (seen.clone(), until.clone());
        std::thread::spawn(move || watch_command_lines(TOKEN, &seen, &until))
    };
    let built = place.build(&settings).await;
    // Long enough for the watcher to have seen a git process, so that it can find something.
    while seen.load(Ordering::SeqCst) == 0 {
        std::fs::remove_dir_all(place.state()).unwrap();
        place.build(&settings).await.unwrap();
    }
    until.store(true, Ordering::SeqCst);
    assert_eq!(watcher.join().unwrap(), Vec::<String>::new());
    assert_eq!(built.unwrap().commit, commit);
    assert_eq!(files_with(&place.state(), TOKEN), Vec::<PathBuf>::new());
    assert!(!format!("{settings:?}").contains(TOKEN));
    assert!(!toml::to_string(&settings).unwrap().contains(TOKEN));

    // A wrong token, and none, are refusals; neither shows what was tried.
    for token in ["wr0ng-token-in-use", ""] {
        let wrong = SourceSettings { token: Secret::new(token), ..settings.clone() };
        let (kind, text) = place.failure(&wrong).await;
        assert_eq!(kind, ErrorKind::Denied, "{text}");
        assert!(text.contains("token") && !text.contains("wr0ng"), "{text}");
    }
    // A token that cannot be read is told by its place.
    let lost = SourceSettings { token: Secret::new("file:/nowhere/token"), ..settings.clone() };
    let (kind, text) = place.failure(&lost).await;
    assert_eq!(kind, ErrorKind::Denied, "{text}");
    assert!(text.contains("/nowhere/token"), "{text}");
    // A server that nobody vouches for gets no token at all.
    let untrusted = SourceSettings { ca_path: PathBuf::new(), ..settings };
    let (kind, text) = place.failure(&untrusted).await;
    assert_eq!(kind, ErrorKind::Unavailable, "{text}");
    assert!(text.contains("certificate") && text.contains("packaging.source.ca_path"), "{text}");
    assert_eq!(files_with(&place.state(), TOKEN), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_key_opens_a_repository_by_ssh_and_an_unknown_host_is_not_trusted() {
    const TEST: &str = "a_key_opens_a_repository_by_ssh_and_an_unknown_host_is_not_trusted";
    if !Path::new("/usr/sbin/sshd").exists() {
        eprintln!("SKIPPED: {TEST}: sshd is not installed; `apt-get install openssh-server` brings it");
        return;
    }
    let place = Place::new();
    let keys = place.folder.path().join("it's ssh");
    std::fs::create_dir_all(&keys).unwrap();
    let server = ServerProcess::sshd(&keys);
    let user = std::process::Command::new("id").arg("-un").output().unwrap().stdout;
    let user = String::from_utf8(user).unwrap().trim().to_owned();
    let path = place.root().join("service").display().to_string();
    let settings = SourceSettings {
        ssh_key_path: server.key.clone(),
        ssh_known_hosts_path: server.known_hosts.clone(),
        ..script_settings(&format!("ssh://{user}@{}{path}", server.process.address))
    };
    assert_eq!(place.build(&settings).await.unwrap().commit, place.commit);

    let other_key = SourceSettings { ssh_key_path: server.other_key.clone(), ..settings.clone() };
    let (kind, text) = place.failure(&other_key).await;
    assert_eq!(kind, ErrorKind::Denied, "{text}");
    assert!(text.contains("packaging.source.ssh_key_path"), "{text}");

    let nobody = keys.join("no_known_hosts");
    std::fs::write(&nobody, "").unwrap();
    let unknown_host = SourceSettings { ssh_known_hosts_path: nobody, ..settings.clone() };
    let (kind, text) = place.failure(&unknown_host).await;
    assert_eq!(kind, ErrorKind::Denied, "{text}");
    assert!(text.contains("ssh_known_hosts_path"), "{text}");

    drop(server);
    let (kind, text) = place.failure(&settings).await;
    assert_eq!(kind, ErrorKind::Unavailable, "{text}");
}
