//! The commit that a program is built of, as a macro for the program's `main.rs`.
//!
//! A build script would do too, but Cargo compiles a package anew whenever its build
//! script ran, and that would be at every commit. The macro instead names git's own files
//! in the crate that calls it: only that crate, a few lines and a link, is compiled again.
//! Whoever builds without a `.git` (a container, a source archive) sets `DELAYD_COMMIT`.

mod git;

use std::path::Path;

use proc_macro::TokenStream;

/// `Option<&'static str>`: `DELAYD_COMMIT` where it is set and not empty, else the
/// commit of the clone, with `-dirty` where sources differ from it, else `None`.
#[proc_macro]
pub fn commit(_: TokenStream) -> TokenStream {
    let named = std::env::var("DELAYD_COMMIT").ok().filter(|commit| !commit.is_empty());
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| ".".to_owned());
    let found = git::state_of(Path::new(&root));
    expansion(named.as_deref(), &found).parse().unwrap_or_default()
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
    fn the_environment_is_believed_before_the_clone() {
        let found = git::State { commit: Some("abc".to_owned()), files: vec!["/clone/.git/HEAD".to_owned()] };
        let text = expansion(Some("def"), &found);
        assert!(text.contains("Some(\"def\")") && text.contains("include_bytes!(\"/clone/.git/HEAD\")"), "{text}");
        assert!(expansion(None, &found).contains("Some(\"abc\")"));
        assert!(expansion(None, &git::State::default()).ends_with("None }"));
    }
}
