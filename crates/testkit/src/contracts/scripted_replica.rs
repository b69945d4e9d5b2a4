//! A stand-in for `delayd-serve` that misbehaves as its bundle says: the test
//! executable itself, started again by a small shell script. It has the service's
//! command line, ports and way of stopping, and answers every request with 200, until
//! [`silence`] makes it answer no client any more.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

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
