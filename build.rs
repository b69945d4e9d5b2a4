//! Lets what trains within this package's own processes (its tests, benches and examples) find libtorch where it was
//! linked from. The daemon links none; `crates/train/build.rs` does the same for the program that does.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let Ok(root) = std::env::var("LIBTORCH") else { return };
    // A canonical path: the clone's `.libtorch` is only a link into the cache.
    let lib = Path::new(&root).join("lib");
    let lib = lib.canonicalize().unwrap_or(lib);
    for kind in ["tests", "benches", "examples"] {
        // Cargo refuses this for a kind without targets, and the image is built without the tests.
        if Path::new(kind).is_dir() {
            println!("cargo:rustc-link-arg-{kind}=-Wl,-rpath,{}", lib.display());
        }
    }
}
