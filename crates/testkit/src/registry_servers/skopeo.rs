//! skopeo, which knows nothing of delayd, as the judge of what is in a registry.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{PASSWORD, USER};

/// How skopeo gets in.
#[derive(Debug, Clone)]
pub enum Entry {
    Open,
    /// With the password, trusting this authority.
    Login(PathBuf),
    /// With the password, without TLS.
    PlainLogin,
    /// With ECR's login, without TLS.
    Ecr(String),
}

impl Entry {
    fn arguments(&self, side: &str) -> Vec<String> {
        let login = format!("--{side}creds={USER}:{PASSWORD}");
        let plain = format!("--{side}tls-verify=false");
        match self {
            Self::Open => vec![plain],
            Self::Login(ca) => vec![login, format!("--{side}cert-dir={}", ca.parent().unwrap().display())],
            Self::PlainLogin => vec![plain, login],
            Self::Ecr(login) => vec![plain, format!("--{side}creds={login}")],
        }
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What skopeo says of an image.
pub fn inspect(reference: &str, entry: &Entry) -> serde_json::Value {
    let mut command = Command::new("skopeo");
    command.args(["inspect", "--raw"]).args(entry.arguments("")).arg(format!("docker://{reference}"));
    serde_json::from_str(&run(&mut command)).unwrap()
}

/// Pulls an image into a layout folder.
pub fn pull(reference: &str, entry: &Entry, layout: &Path) {
    let mut command = Command::new("skopeo");
    command.args(["--insecure-policy", "copy", "--quiet", "--preserve-digests"]).args(entry.arguments("src-"));
    run(command.arg(format!("docker://{reference}")).arg(format!("oci:{}:pulled", layout.display())));
}

/// Pushes a layout's image.
pub fn push(layout: &Path, tag: &str, reference: &str, entry: &Entry) {
    let mut command = Command::new("skopeo");
    command.args(["--insecure-policy", "copy", "--quiet", "--preserve-digests"]).args(entry.arguments("dest-"));
    run(command.arg(format!("oci:{}:{tag}", layout.display())).arg(format!("docker://{reference}")));
}
