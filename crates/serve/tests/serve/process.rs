//! The program itself: how it starts, fails, and leaves under load.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::{answer, bundle, flights};
use delayd_model::admin::{ReplicaPhase, ReplicaReport};
use serde_json::json;
use tempfile::TempDir;

struct Process {
    child: Child,
    admin: String,
}

impl Process {
    /// Starts a replica and waits until it is ready.
    async fn start(folder: &TempDir, bundle: &Path, name: &str, port: u16, linger_secs: u64) -> Self {
        let file = folder.path().join(format!("{name}.admin"));
        let child = program(bundle)
            .args(["--replica", name, "--listen", &format!("127.0.0.1:{port}")])
            .args(["--admin-port-file", file.to_str().unwrap(), "--workers", "2"])
            .args(["--drain-linger-secs", &linger_secs.to_string()])
            .spawn()
            .unwrap();
        let begun = Instant::now();
        let address = loop {
            if let Ok(address) = std::fs::read_to_string(&file) {
                break address;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{name} does not become ready");
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        Self { child, admin: format!("http://{}", address.trim()) }
    }

    fn terminate(&self) {
        let status = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    async fn exit_code(&mut self) -> i32 {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap();
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "the replica does not leave");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn report(&self, client: &reqwest::Client) -> ReplicaReport {
        let (status, body) = answer(client.get(format!("{}/admin/v1/sketch", self.admin))).await;
        assert_eq!(status, 200);
        serde_json::from_value(body).unwrap()
    }

    async fn drained_report(&self, client: &reqwest::Client) -> ReplicaReport {
        let begun = Instant::now();
        loop {
            let report = self.report(client).await;
            if report.phase == ReplicaPhase::Drained {
                return report;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "the replica does not drain");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already gone in most tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program(bundle: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_delayd-serve"));
    command.args(["--bundle", bundle.to_str().unwrap(), "--admin-listen", "127.0.0.1:0"]).stderr(Stdio::piped());
    command
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn failure(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn what_keeps_a_replica_from_starting_is_told_in_one_line() {
    let (folder, dir) = bundle(1);
    let line = |code: i32, stderr: String, words: &[&str]| {
        assert_eq!(code, 1, "{stderr}");
        assert_eq!(stderr.trim().lines().count(), 1, "{stderr}");
        words.iter().for_each(|word| assert!(stderr.contains(word), "{stderr}"));
    };
    let (code, stderr) = failure(program(&folder.path().join("nowhere")).args(["--listen", "127.0.0.1:0"]));
    line(code, stderr, &["nowhere", "manifest.json", "No such file"]);

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, stderr) = failure(program(&dir).args(["--listen", &address]));
    line(code, stderr, &[&address, "public", "in use"]);
    let (code, stderr) = failure(program(&dir).args(["--listen", "127.0.0.1:0", "--admin-listen", &address]));
    line(code, stderr, &[&address, "administrative"]);
    let (code, stderr) = failure(program(&dir).args(["--listen", "stdin"]).stdin(Stdio::null()));
    line(code, stderr, &["stdin"]);

    std::fs::write(dir.join("weights.safetensors"), "no weights").unwrap();
    let (code, stderr) = failure(program(&dir).args(["--listen", "127.0.0.1:0"]));
    line(code, stderr, &["weights.safetensors", "damaged"]);
    assert_eq!(failure(program(&dir).arg("--no-such-option")).0, 2);
}

/// Keeps sending until told to stop; every answer must be a prediction.
fn load(url: String, keep_alive: bool, stop: Arc<AtomicBool>, served: Arc<AtomicU64>) -> tokio::task::JoinHandle<()> {
    let body = json!(flights(5, 2));
    actix_web::rt::spawn(async move {
        // One connection per request where `keep_alive` is off: the harder case for the queue.
        let idle = if keep_alive { 10 } else { 0 };
        let client = crate::client_builder().pool_max_idle_per_host(idle).build().unwrap();
        while !stop.load(Ordering::SeqCst) {
            let response = client.post(&url).json(&body).send().await.unwrap_or_else(|error| panic!("{error:?}"));
            assert_eq!(response.status().as_u16(), 200);
            assert_eq!(response.bytes().await.map(|body| body.is_empty()).ok(), Some(false));
            served.fetch_add(1, Ordering::SeqCst);
        }
    })
}

#[actix_web::test]
async fn no_request_is_lost_while_one_replica_takes_over_from_another_on_the_same_port() {
    let (folder, dir) = bundle(1);
    let port = free_port();
    let mut replicas = vec![Process::start(&folder, &dir, "r0", port, 5).await];
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let url = format!("http://127.0.0.1:{port}/predict");
    let callers: Vec<_> =
        (0..12).map(|n| load(url.clone(), n % 2 == 0, Arc::clone(&stop), Arc::clone(&served))).collect();
    let client = crate::client();
    let mut rows = 0;
    for n in 1..=3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        replicas.push(Process::start(&folder, &dir, &format!("r{n}"), port, 5).await);
        let mut old = replicas.remove(0);
        old.terminate();
        let last = old.drained_report(&client).await;
        assert!(last.sketch.rows > 0);
        assert_eq!(last.in_flight, 0);
        rows += last.sketch.rows;
        assert_eq!(answer(client.post(format!("{}/admin/v1/collected", old.admin))).await.0, 200);
        assert_eq!(old.exit_code().await, 0);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.unwrap();
    }
    rows += replicas[0].report(&client).await.sketch.rows;
    assert_eq!(rows, 2 * served.load(Ordering::SeqCst), "every answered row is in the last report of its replica");
    assert!(rows > 200, "{rows}");
}

#[actix_web::test]
async fn a_replica_that_is_told_to_stop_says_so_and_goes_when_nobody_collects() {
    let (folder, dir) = bundle(1);
    let port = free_port();
    let mut replica = Process::start(&folder, &dir, "r1", port, 1).await;
    let client = crate::client();
    let sent = answer(client.post(format!("http://127.0.0.1:{port}/predict")).json(&flights(1, 9))).await;
    assert_eq!(sent.0, 200);
    replica.terminate();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(answer(client.get(format!("{}/health/ready", replica.admin))).await.0, 503);
    let begun = Instant::now();
    let report = replica.drained_report(&client).await;
    assert_eq!(report.sketch.rows, 9);
    assert_eq!(replica.exit_code().await, 0);
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert!(client.get(format!("http://127.0.0.1:{port}/health/live")).send().await.is_err());
}

#[actix_web::test]
async fn replicas_that_inherit_one_socket_share_its_queue() {
    let (folder, dir) = bundle(1);
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/predict", socket.local_addr().unwrap());
    let start = |name: &str| {
        let file = folder.path().join(name);
        let child = program(&dir)
            .args(["--listen", "stdin", "--admin-port-file", file.to_str().unwrap(), "--drain-linger-secs", "1"])
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(socket.try_clone().unwrap())))
            .spawn()
            .unwrap();
        while !file.exists() {
            std::thread::sleep(Duration::from_millis(2));
        }
        let admin = format!("http://{}", std::fs::read_to_string(file).unwrap().trim());
        Process { child, admin }
    };
    let mut first = start("a");
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> =
        (0..6).map(|n| load(url.clone(), n % 2 == 0, Arc::clone(&stop), Arc::clone(&served))).collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let _second = start("b");
    first.terminate();
    assert_eq!(first.exit_code().await, 0);
    tokio::time::sleep(Duration::from_millis(200)).await;
    stop.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.unwrap();
    }
    assert!(served.load(Ordering::SeqCst) > 50);
}
