//! The daemon's image of this build, in the registry that the test cluster pulls from.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use crate::programs::training_program;

/// Builds the image and pushes it, once for all tests of a build. `None` after saying
/// what is missing.
pub fn pushed(test: &str, registry: &str, service: &Path) -> Option<String> {
    if Command::new("skopeo").arg("--version").output().is_err() {
        eprintln!("SKIPPED: {test}: there is no skopeo; Debian's package skopeo has it");
        return None;
    }
    let delayd = crate::programs::delayd();
    let train = training_program().map_err(|missing| eprintln!("SKIPPED: {test}: {missing}")).ok()?;
    let stamp = [delayd, train.as_path()].map(|program| {
        let build = fs::metadata(program).unwrap();
        format!("{}-{:?}", build.len(), build.modified().unwrap())
    });
    let stamp = stamp.join("-");
    let folder = crate::programs::temporary_folder("daemon-image");
    fs::create_dir_all(&folder).unwrap();
    // Tests run side by side, each in a process of its own.
    let lock = File::options().create(true).truncate(false).write(true).open(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    let (layout, of_build) = (folder.join("layout"), folder.join("build"));
    let kept = fs::read_to_string(&of_build).unwrap_or_default();
    let kept = kept.strip_prefix(&format!("{stamp} ")).map(str::to_owned);
    let digest = kept.unwrap_or_else(|| {
        let script = crate::programs::root().join("scripts/images/daemon");
        let digest = run(Command::new(script).arg(&layout).arg(delayd).arg(service).arg(&train));
        fs::write(&of_build, format!("{stamp} {digest}")).unwrap();
        digest
    });
    // A registry that was emptied since gets it again; layers that are there are not sent.
    let reference = format!("{registry}/delayd-test/delayd");
    let mut push = Command::new("skopeo");
    push.args(["copy", "--quiet", "--dest-tls-verify=false"]);
    run(push.arg(format!("oci:{}", layout.display())).arg(format!("docker://{reference}:test")));
    Some(format!("{reference}@{digest}"))
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
