//! Makes the built binaries find libtorch where it was linked from, and know the versions of what they compute with.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-changed=../../Cargo.lock");
    println!("cargo:rustc-env=DELAYD_TCH_VERSION={}", locked_version("tch").unwrap_or_else(|| "unknown".to_owned()));
    let Ok(root) = std::env::var("LIBTORCH") else { return };
    if let Some(version) = libtorch_version(Path::new(&root)) {
        println!("cargo:rustc-env=DELAYD_LIBTORCH_VERSION={version}");
    }
    // A canonical path: the clone's `.libtorch` is only a link into the cache.
    let lib = Path::new(&root).join("lib");
    let lib = lib.canonicalize().unwrap_or(lib);
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib/delayd");
}

/// The version of a package that is built with, as `Cargo.lock` has it.
fn locked_version(package: &str) -> Option<String> {
    let lock = std::fs::read_to_string("../../Cargo.lock").ok()?;
    let mut lines = lock.lines().skip_while(|line| *line != format!("name = \"{package}\""));
    lines.nth(1)?.strip_prefix("version = ").map(|version| version.trim_matches('"').to_owned())
}

/// The version that libtorch's own headers tell, from lines like `#define TORCH_VERSION_MAJOR 2`.
fn libtorch_version(root: &Path) -> Option<String> {
    let headers = ["include/torch/headeronly/version.h", "include/torch/csrc/api/include/torch/version.h"];
    headers.into_iter().find_map(|header| {
        let text = std::fs::read_to_string(root.join(header)).ok()?;
        let part = |name: &str| {
            let start = format!("#define TORCH_VERSION_{name} ");
            text.lines().find_map(|line| line.strip_prefix(&start)).map(|number| number.trim().to_owned())
        };
        Some(format!("{}.{}.{}", part("MAJOR")?, part("MINOR")?, part("PATCH")?))
    })
}
