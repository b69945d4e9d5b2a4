//! The contract of `Cluster`, and a replica that does what a test says.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use delayd_core::error::PortError;
use delayd_core::ports::{Cluster, Release, Replica, ReplicaState};

/// What the suite needs of an adapter's surroundings.
pub struct Releases {
    /// Two releases that work, with two replicas each.
    pub good: [Release; 2],
    /// One that never becomes ready.
    pub broken: Release,
    /// How long the broken one is given.
    pub broken_deadline: Duration,
}

/// One request of the load, sent again and again; it must be answered with 200.
#[derive(Debug, Clone)]
pub struct LoadRequest {
    pub path: String,
    /// A `POST` of this JSON, or a `GET`.
    pub json: Option<serde_json::Value>,
}

pub async fn keeps_the_whole_contract(cluster: &dyn Cluster, releases: &Releases) {
    an_empty_cluster_has_nothing(cluster).await;
    a_broken_first_release_is_refused_and_leaves_nothing(cluster, releases).await;
    a_release_is_applied_and_applying_it_again_changes_nothing(cluster, &releases.good[0]).await;
    a_release_can_be_scaled(cluster, &releases.good[0]).await;
    a_broken_release_is_refused_and_the_old_one_serves_on(cluster, releases).await;
    the_next_release_replaces_every_replica(cluster, releases).await;
    reconciling_what_is_well_changes_nothing(cluster).await;
    tearing_down_stops_everything_and_may_be_repeated(cluster).await;
}

/// Far more than any cluster needs.
const DEADLINE: Duration = Duration::from_secs(120);

pub async fn apply(cluster: &dyn Cluster, release: &Release) -> Result<(), PortError> {
    cluster.apply(release, DEADLINE, &|_| ()).await
}

/// The replicas that answer, by name.
pub async fn ready(cluster: &dyn Cluster) -> Vec<Replica> {
    let mut replicas = cluster.replicas().await.unwrap();
    replicas.retain(|replica| replica.state == ReplicaState::Ready);
    replicas.sort_by(|a, b| a.name.cmp(&b.name));
    replicas
}

fn names(replicas: &[Replica]) -> Vec<&str> {
    replicas.iter().map(|replica| replica.name.as_str()).collect()
}

async fn an_empty_cluster_has_nothing(cluster: &dyn Cluster) {
    assert_eq!(cluster.current().await.unwrap(), None);
    assert!(cluster.replicas().await.unwrap().is_empty());
    cluster.reconcile().await.unwrap();
    cluster.tear_down().await.unwrap();
}

async fn a_broken_first_release_is_refused_and_leaves_nothing(cluster: &dyn Cluster, releases: &Releases) {
    let error = cluster.apply(&releases.broken, releases.broken_deadline, &|_| ()).await.unwrap_err();
    assert!(error.to_string().contains(&releases.broken.model.to_string()), "{error}");
    assert_eq!(cluster.current().await.unwrap(), None);
    assert!(ready(cluster).await.is_empty());
}

async fn a_release_is_applied_and_applying_it_again_changes_nothing(cluster: &dyn Cluster, release: &Release) {
    let told = Mutex::new(Vec::new());
    cluster.apply(release, DEADLINE, &|progress| told.lock().unwrap().push(progress)).await.unwrap();
    let last = told.lock().unwrap().last().cloned().unwrap();
    assert_eq!((last.updated, last.wanted), (release.replicas, release.replicas));
    assert_eq!(cluster.current().await.unwrap().as_ref(), Some(release));
    let before = ready(cluster).await;
    assert_eq!(before.len(), release.replicas as usize);
    for replica in &before {
        assert_eq!((replica.model, replica.deployment), (release.model, release.deployment));
        assert!(replica.admin_url.starts_with("http"), "{replica:?}");
        assert_eq!((replica.restarts, &replica.reason), (0, &None));
    }
    apply(cluster, release).await.unwrap();
    assert_eq!(names(&ready(cluster).await), names(&before));
}

async fn a_release_can_be_scaled(cluster: &dyn Cluster, release: &Release) {
    let before = ready(cluster).await;
    let larger = Release { replicas: release.replicas + 1, ..release.clone() };
    apply(cluster, &larger).await.unwrap();
    let after = ready(cluster).await;
    assert_eq!(after.len(), before.len() + 1);
    assert!(before.iter().all(|replica| names(&after).contains(&replica.name.as_str())));
    apply(cluster, release).await.unwrap();
    assert_eq!(ready(cluster).await.len(), before.len());
    assert_eq!(cluster.current().await.unwrap().as_ref(), Some(release));
}

async fn a_broken_release_is_refused_and_the_old_one_serves_on(cluster: &dyn Cluster, releases: &Releases) {
    let before = ready(cluster).await;
    let error = cluster.apply(&releases.broken, releases.broken_deadline, &|_| ()).await.unwrap_err();
    assert!(error.to_string().contains(&releases.broken.model.to_string()), "{error}");
    assert_eq!(names(&ready(cluster).await), names(&before), "the old replicas serve on, untouched");
    assert_eq!(cluster.current().await.unwrap().as_ref(), Some(&releases.good[0]));
}

async fn the_next_release_replaces_every_replica(cluster: &dyn Cluster, releases: &Releases) {
    let before = ready(cluster).await;
    apply(cluster, &releases.good[1]).await.unwrap();
    let after = ready(cluster).await;
    assert_eq!(after.len(), releases.good[1].replicas as usize);
    assert!(after.iter().all(|replica| replica.model == releases.good[1].model));
    assert!(names(&after).iter().all(|name| !names(&before).contains(name)), "names are never used again");
    assert_eq!(cluster.current().await.unwrap().as_ref(), Some(&releases.good[1]));
}

async fn reconciling_what_is_well_changes_nothing(cluster: &dyn Cluster) {
    let before = ready(cluster).await;
    cluster.reconcile().await.unwrap();
    assert_eq!(names(&ready(cluster).await), names(&before));
}

async fn tearing_down_stops_everything_and_may_be_repeated(cluster: &dyn Cluster) {
    for _ in 0..2 {
        cluster.tear_down().await.unwrap();
        assert_eq!(cluster.current().await.unwrap(), None);
        assert!(cluster.replicas().await.unwrap().is_empty());
    }
}

/// Rolls to and fro while clients with and without keep-alive send requests.
/// Answers how many were answered; not one may fail.
pub async fn rolls_without_losing_a_request(cluster: &dyn Cluster, releases: &Releases, request: &LoadRequest) -> u64 {
    apply(cluster, &releases.good[0]).await.unwrap();
    let url = format!("{}{}", cluster.service_url(), request.path);
    let (stop, answered, failures) = (AtomicBool::new(false), AtomicU64::new(0), Mutex::new(Vec::new()));
    let client = |keep_alive: bool| {
        let idle = if keep_alive { usize::MAX } else { 0 };
        let client = delayd_core::http_client::client_builder().no_proxy().pool_max_idle_per_host(idle);
        let client = client.timeout(Duration::from_secs(10)).build().unwrap();
        let (stop, answered, failures, url) = (&stop, &answered, &failures, &url);
        async move {
            while !stop.load(Ordering::SeqCst) {
                let call = match &request.json {
                    Some(json) => client.post(url).json(json),
                    None => client.get(url),
                };
                match call.send().await {
                    Ok(answer) if answer.status() == 200 => {
                        answered.fetch_add(1, Ordering::SeqCst);
                        answer.bytes().await.unwrap();
                    }
                    Ok(answer) => failures.lock().unwrap().push(format!("{}", answer.status())),
                    Err(error) => failures.lock().unwrap().push(delayd_core::error::chain(&error)),
                }
            }
        }
    };
    let clients = futures::future::join_all((0..8).map(|number| client(number % 2 == 0)));
    let rollouts = async {
        for round in 1..=4 {
            apply(cluster, &releases.good[round % 2]).await.unwrap();
        }
        stop.store(true, Ordering::SeqCst);
    };
    futures::join!(clients, rollouts);
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} requests failed: {:?}", failures.len(), &failures[..failures.len().min(5)]);
    cluster.tear_down().await.unwrap();
    answered.into_inner()
}

/// What a bundle folder tells its replica to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    Good,
    /// Says why on standard error and exits with code 3.
    CrashAtStart,
    /// Never writes its port file.
    NeverReady,
    /// Accepts on, whatever it is told.
    IgnoresSigterm,
}

const ARGUMENTS: &str = "SCRIPTED_REPLICA_ARGUMENTS";

/// A bundle folder with a behaviour.
pub fn write_bundle(dir: &Path, behaviour: Behaviour) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("behaviour"), format!("{behaviour:?}")).unwrap();
}

/// The executable to start instead of `delayd-serve`; `test` is the name of the
/// ignored test in the calling file that calls [`run_if_started_as_replica`].
pub fn write_executable(folder: &Path, test: &str) -> PathBuf {
    let path = folder.join("scripted-serve");
    let executable = std::env::current_exe().unwrap();
    let script = format!(
        "#!/bin/sh\n{ARGUMENTS}=\"$*\" exec '{}' --ignored --exact {test} --nocapture --test-threads=1 \"$@\" 2>&1\n",
        executable.display()
    )
    // The test harness knows nothing of the service's options; they travel in the environment,
    // and the port file's path stays visible as an argument, as it is with the real service.
    .replace(" \"$@\"", " --skip \"${12}\"");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Becomes the replica, if this process was started as one.
pub fn run_if_started_as_replica() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else { return };
    let words: Vec<&str> = arguments.split(' ').collect();
    let value = |option: &str| words[words.iter().position(|word| *word == option).unwrap() + 1];
    let behaviour = std::fs::read_to_string(Path::new(value("--bundle")).join("behaviour")).unwrap();
    match behaviour.as_str() {
        "CrashAtStart" => {
            eprintln!("golden row 3 scored 0.4, expected 0.2");
            std::process::exit(3);
        }
        "NeverReady" => std::thread::sleep(Duration::from_secs(600)),
        behaviour => {
            let silenced = silence_file(Path::new(value("--bundle")), value("--replica"));
            let name = value("--replica").to_owned();
            let public = Public { name, silenced };
            serve(value("--listen"), value("--admin-port-file"), public, behaviour == "IgnoresSigterm");
        }
    }
}

/// From now on a replica accepts its clients' connections and answers none; its
/// administrative port answers.
pub fn silence(bundle: &Path, replica: &str) {
    std::fs::write(silence_file(bundle, replica), "").unwrap();
}

fn silence_file(bundle: &Path, replica: &str) -> PathBuf {
    bundle.join(format!("silent-{replica}"))
}

/// How the public port answers.
struct Public {
    name: String,
    silenced: PathBuf,
}

fn serve(listen: &str, port_file: &str, public: Public, ignores_sigterm: bool) {
    let address: std::net::SocketAddr = listen.parse().unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(128).unwrap();
    let admin = TcpListener::bind("127.0.0.1:0").unwrap();
    let staged = format!("{port_file}.staged");
    std::fs::write(&staged, admin.local_addr().unwrap().to_string()).unwrap();
    std::fs::rename(staged, port_file).unwrap();
    let listener: TcpListener = socket.into();
    std::thread::spawn(move || {
        let body = format!("{{\"replica\":\"{}\"}}", public.name);
        let mut unanswered = Vec::new();
        for stream in listener.incoming().flatten() {
            if public.silenced.exists() {
                unanswered.push(stream);
            } else {
                answer(stream, &body);
            }
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    std::thread::spawn(move || {
        for stream in admin.incoming().flatten() {
            answer(stream, "ok");
        }
    });
    runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        loop {
            terminate.recv().await;
            if !ignores_sigterm {
                std::process::exit(0);
            }
        }
    });
}

fn answer(mut stream: TcpStream, body: &str) {
    let mut request = [0_u8; 4096];
    if stream.read(&mut request).is_ok_and(|read| read > 0) {
        let length = body.len();
        let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
        let _ = stream.write_all(text.as_bytes());
    }
}
