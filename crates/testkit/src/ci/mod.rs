//! A service's repository, made by the test with the real git; servers that hand
//! it out; and what is left of processes. Each test file uses its own part.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

pub mod docker;
pub mod git_server;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use delayd_outside::packaging::{SourceKind, SourceSettings};

/// How long anything here may take before a test gives up.
pub const SOON: Duration = Duration::from_secs(60);

/// Whether a program is there; says loudly when it is not.
pub fn has(test: &str, program: &str, package: &str) -> bool {
    let there = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !there {
        eprintln!("SKIPPED: {test}: {program} is not installed; `apt-get install {package}` brings it");
    }
    there
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// A folder below none that anybody may write to: in others nothing is built from source.
pub fn private_folder() -> tempfile::TempDir {
    tempfile::tempdir_in(crate::programs::temporary_folder("private")).unwrap()
}

/// A repository whose service is a tiny cargo workspace, or a script.
pub struct ServiceRepository {
    pub dir: PathBuf,
}

const MANIFEST: &str = r#"[workspace]
members = ["serve"]
resolver = "3"

[profile.image]
inherits = "release"
opt-level = 0
"#;

const SERVE_MANIFEST: &str = r#"[package]
name = "delayd-serve"
version = "0.1.0"
edition = "2024"
"#;

const LOCK: &str = r#"version = 4

[[package]]
name = "delayd-serve"
version = "0.1.0"
"#;

impl ServiceRepository {
    /// An empty repository with the branch `main`.
    fn empty(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let repository = Self { dir: dir.to_owned() };
        repository.git(&["init", "--quiet", "--initial-branch", "main", "."]);
        repository
    }

    /// A cargo workspace without dependencies, so that it builds without a network.
    pub fn cargo(dir: &Path, says: &str) -> (Self, String) {
        let repository = Self::empty(dir);
        repository.write("Cargo.toml", MANIFEST);
        repository.write("Cargo.lock", LOCK);
        repository.write("serve/Cargo.toml", SERVE_MANIFEST);
        let commit = repository.says(says);
        (repository, commit)
    }

    /// Another version of the cargo workspace.
    pub fn says(&self, what: &str) -> String {
        self.write("serve/src/main.rs", &format!("fn main() {{\n    println!({what:?});\n}}\n"));
        self.commit(what)
    }

    /// A repository that is built by `build.sh`, which is quicker than a compiler.
    pub fn script(dir: &Path, script: &str) -> (Self, String) {
        let repository = Self::empty(dir);
        repository.write("build.sh", script);
        let commit = repository.commit("first");
        (repository, commit)
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn commit(&self, message: &str) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", message]);
        self.git(&["rev-parse", "HEAD"])
    }

    pub fn git(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("git");
        command.args(arguments).current_dir(&self.dir).env("GIT_CONFIG_NOSYSTEM", "1");
        command.env("GIT_CONFIG_GLOBAL", "/dev/null");
        for role in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{role}_NAME"), "Ann").env(format!("GIT_{role}_EMAIL"), "ann@example.com");
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub fn url(&self) -> String {
        format!("file://{}", self.dir.display())
    }
}

/// Settings that build `repository` with cargo, the one that built this test.
pub fn cargo_settings(repository: &str) -> SourceSettings {
    let folder = Path::new(env!("CARGO")).parent().unwrap().display().to_string();
    let path = format!("{folder}:{}", std::env::var("PATH").unwrap());
    let mut settings =
        SourceSettings { kind: SourceKind::Git, repository: repository.to_owned(), ..SourceSettings::default() };
    settings.environment.insert("PATH".to_owned(), path);
    settings
}

/// Settings that build `repository` by its script into `serve`.
pub fn script_settings(repository: &str) -> SourceSettings {
    SourceSettings {
        kind: SourceKind::Git,
        repository: repository.to_owned(),
        build_command: ["sh", "build.sh"].map(str::to_owned).to_vec(),
        binary: "serve".to_owned(),
        ..SourceSettings::default()
    }
}

/// A script's line that makes a static executable, or what passes for one here,
/// with `content` in it.
pub fn makes_a_binary(content: &str) -> String {
    // The header of a static amd64 executable without program headers (ELF-64 object file format).
    let mut header = [0_u8; 64];
    header[..6].copy_from_slice(b"\x7fELF\x02\x01");
    header[16] = 2;
    header[18] = 62;
    header[54] = 56;
    let octal: String = header.iter().map(|byte| format!("\\{byte:03o}")).collect();
    format!("printf '{octal}{content}' > serve\n")
}

/// Whether the process is there and no zombie.
pub fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Waits until `look` answers something.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < SOON, "waited {SOON:?} in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Every file under `folder` that holds `text`; all of them for an empty one.
pub fn files_with(folder: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(bytes) = std::fs::read(&path)
                && (text.is_empty() || bytes.windows(text.len()).any(|part| part == text.as_bytes()))
            {
                found.push(path);
            }
        }
    }
    found
}
