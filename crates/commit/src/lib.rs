//! The commit that a program is built of, as a macro for the program's `main.rs`.
//!
//! A build script would do too, but Cargo compiles a package anew whenever its build
//! script ran, and that would be at every commit. The macro instead names git's own files
//! in the crate that calls it: only that crate, a few lines and a link, is compiled again.
//! Whoever builds without a `.git` (a container, a source archive) sets `DELAYD_COMMIT`.

mod git;

use std::path::{Path, PathBuf};

use proc_macro::TokenStream;

/// `Option<&'static str>`: `DELAYD_COMMIT` where it is set and not empty, else the
/// commit of the clone, with `-dirty` where sources differ from it, else `None`.
#[proc_macro]
pub fn commit(_: TokenStream) -> TokenStream {
    let named = std::env::var("DELAYD_COMMIT").ok().filter(|commit| !commit.is_empty());
    let package = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| ".".to_owned());
    let found = git::state_of(&workspace_of(Path::new(&package)));
    expansion(named.as_deref(), &found).parse().unwrap_or_default()
}

/// The folder of the workspace that a package belongs to: the clone's `.git` lies there, not beside each package.
fn workspace_of(package: &Path) -> PathBuf {
    let is_workspace = |folder: &&Path| {
        let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
        manifest.lines().any(|line| line.trim_end() == "[workspace]")
    };
    package.ancestors().find(is_workspace).unwrap_or(package).to_owned()
}

/// The files are named, so that the compiler notes that the crate depends on them.
fn expansion(named: Option<&str>, found: &git::State) -> String {
    let watched: String =
        found.files.iter().map(|file| format!("const _: &[u8] = include_bytes!({file:?});")).collect();
    let commit = named.or(found.commit.as_deref());
    format!("{{ {watched} const _: Option<&str> = option_env!(\"DELAYD_COMMIT\"); {commit:?} }}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_belongs_to_the_nearest_workspace_above_it() {
        let dir = tempfile::tempdir().unwrap();
        let (root, package) = (dir.path().join("clone"), dir.path().join("clone/crates/train"));
        std::fs::create_dir_all(&package).unwrap();
        std::fs::write(package.join("Cargo.toml"), "[package]\nname = \"train\"\n").unwrap();
        assert_eq!(workspace_of(&package), package, "without a workspace it stands alone");
        std::fs::write(root.join("Cargo.toml"), "[workspace]\nmembers = [\"crates/*\"]\n").unwrap();
        assert_eq!(workspace_of(&package), root);
        assert_eq!(workspace_of(&root), root);
    }

    #[test]
    fn the_environment_is_believed_before_the_clone() {
        let found = git::State { commit: Some("abc".to_owned()), files: vec!["/clone/.git/HEAD".to_owned()] };
        let text = expansion(Some("def"), &found);
        assert!(text.contains("Some(\"def\")") && text.contains("include_bytes!(\"/clone/.git/HEAD\")"), "{text}");
        assert!(expansion(None, &found).contains("Some(\"abc\")"));
        assert!(expansion(None, &git::State::default()).ends_with("None }"));
    }
}
