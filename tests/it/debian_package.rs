//! The Debian package of this build, on a Debian of its own with a real systemd: see
//! `scripts/test/debian_package`, which says each thing that it finds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use delayd_testkit::site;

use std::path::Path;
use std::process::Command;

use site::needs;

/// What the script ends with where it cannot run.
const SKIPPED: i32 = 77;

#[test]
fn the_package_installs_serves_is_watched_over_upgraded_and_purged_under_systemd() {
    let test = "the_package_installs_serves_is_watched_over_upgraded_and_purged_under_systemd";
    let Some(needs) = needs(test) else { return };
    for (command, package) in [
        ("dpkg-deb", "dpkg"),
        ("chrpath", "chrpath"),
        ("systemd-nspawn", "systemd-container"),
        ("mmdebstrap", "mmdebstrap"),
    ] {
        if Command::new(command).arg("--version").output().is_err() {
            eprintln!("SKIPPED: {test}: there is no {command}; Debian's package {package} has it");
            return;
        }
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: {test}: only root can start a system of its own");
        return;
    }
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let folder = tempfile::tempdir().unwrap();
    let mut build = Command::new(scripts.join("package/debian"));
    build.arg(folder.path()).arg(env!("CARGO_BIN_EXE_delayd")).arg(&needs.service).arg(&needs.trainer);
    build.env("DELAYD_DEB_FAST", "1");
    let built = build.output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let package = String::from_utf8(built.stdout).unwrap();
    let mut run = Command::new(scripts.join("test/debian_package"));
    let output = run.arg(package.trim()).env("DELAYD_DATA", &needs.data).output().unwrap();
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    eprintln!("{told}");
    if output.status.code() == Some(SKIPPED) {
        eprintln!("{told}");
        return;
    }
    assert!(output.status.success(), "{told}");
}
