//! The commit that a program is built of, as a macro for the program's `main.rs`.
//!
//! A build script would do too, but Cargo recompiles a package whenever its build
//! script ran, and that would be at every commit. The macro instead names git's own files
//! in the crate that calls it: only that crate, a few lines and a link, is compiled again.
//! Whoever builds without a `.git` (a container, a source archive) sets `DELAYD_COMMIT`.

use std::path::{Path, PathBuf};
use std::process::Command;

use proc_macro::TokenStream;

/// `Option<&'static str>`: `DELAYD_COMMIT` where it is set and not empty, else the
/// commit of the clone, with `-dirty` where sources differ from it, else `None`.
#[proc_macro]
pub fn commit(_: TokenStream) -> TokenStream {
    let named = std::env::var("DELAYD_COMMIT").ok().filter(|commit| !commit.is_empty());
    let package = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| ".".to_owned());
    let found = state_of(&workspace_of(Path::new(&package)));
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
fn expansion(named: Option<&str>, found: &State) -> String {
    let watched: String =
        found.files.iter().map(|file| format!("const _: &[u8] = include_bytes!({file:?});")).collect();
    let commit = named.or(found.commit.as_deref());
    format!("{{ {watched} const _: Option<&str> = option_env!(\"DELAYD_COMMIT\"); {commit:?} }}")
}

/// What the program is made of: a change elsewhere does not make the build another one.
const SOURCES: [&str; 5] = ["src", "crates", "build.rs", "Cargo.toml", "Cargo.lock"];

/// Which commit, and what changes when it does.
#[derive(Debug, Default, PartialEq, Eq)]
struct State {
    /// The commit, with `-dirty` where sources differ from it; `None` outside of a clone.
    commit: Option<String>,
    /// Git's files that change with it.
    files: Vec<String>,
}

/// The state of the clone whose root is `root`. A folder that merely lies somewhere
/// inside of another project's clone has no commit of its own.
fn state_of(root: &Path) -> State {
    if !root.join(".git").exists() {
        return State::default();
    }
    let Some(commit) = git(root, &["rev-parse", "HEAD"]) else { return State::default() };
    let mut status = vec!["status", "--porcelain", "--untracked-files=all", "--"];
    status.extend(SOURCES);
    // Where git does not know, nobody may believe that the sources are the commit's.
    let clean = git(root, &status).is_some_and(|changes| changes.is_empty());
    let commit = if clean { commit } else { format!("{commit}-dirty") };
    State { commit: Some(commit), files: changing(root) }
}

/// HEAD and its log, the branch it names, and the packed branches: wherever the clone
/// keeps them (a worktree's HEAD is its own, its branches are the clone's).
fn changing(root: &Path) -> Vec<String> {
    let branch = git(root, &["symbolic-ref", "--quiet", "HEAD"]);
    let names = ["HEAD", "logs/HEAD", "packed-refs"].into_iter().map(str::to_owned).chain(branch);
    let paths = names.filter_map(|name| git(root, &["rev-parse", "--git-path", &name]));
    paths
        .map(|path| root.join(path))
        .filter(|path| path.is_file())
        .filter_map(|path| path.to_str().map(str::to_owned))
        .collect()
}

fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    // A hook's variables name another repository than the one at `root`.
    let mut command = Command::new("git");
    command
        .args(arguments)
        .current_dir(root)
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE");
    // Looking must not write: the build would change what it watches.
    let output = command.env("GIT_OPTIONAL_LOCKS", "0").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
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
        let found = State { commit: Some("abc".to_owned()), files: vec!["/clone/.git/HEAD".to_owned()] };
        let text = expansion(Some("def"), &found);
        assert!(text.contains("Some(\"def\")") && text.contains("include_bytes!(\"/clone/.git/HEAD\")"), "{text}");
        assert!(expansion(None, &found).contains("Some(\"abc\")"));
        assert!(expansion(None, &State::default()).ends_with("None }"));
    }

    fn run(root: &Path, arguments: &[&str]) -> String {
        let author = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"];
        let all: Vec<&str> = author.iter().chain(arguments).copied().collect();
        git(root, &all).unwrap_or_else(|| panic!("git {arguments:?} in {}", root.display()))
    }

    fn clone_with_a_commit(root: &Path) -> String {
        run(root, &["init", "--quiet"]);
        std::fs::create_dir_all(root.join("src")).unwrap();
        std::fs::write(root.join("src/lib.rs"), "//! One.\n").unwrap();
        run(root, &["add", "."]);
        run(root, &["commit", "--quiet", "-m", "one"]);
        run(root, &["rev-parse", "HEAD"])
    }

    #[test]
    fn a_clone_tells_its_commit_and_whether_sources_differ() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let commit = clone_with_a_commit(root);
        assert_eq!(state_of(root).commit.as_deref(), Some(commit.as_str()));

        std::fs::write(root.join("notes.txt"), "no source").unwrap();
        assert_eq!(state_of(root).commit.as_deref(), Some(commit.as_str()), "what is not built does not count");

        std::fs::write(root.join("src/new.rs"), "//! Two.\n").unwrap();
        assert_eq!(state_of(root).commit, Some(format!("{commit}-dirty")));
    }

    #[test]
    fn what_changes_with_a_commit_is_watched_in_a_worktree_too() {
        let dir = tempfile::tempdir().unwrap();
        let (root, tree) = (dir.path().join("clone"), dir.path().join("tree"));
        std::fs::create_dir(&root).unwrap();
        let commit = clone_with_a_commit(&root);
        run(&root, &["worktree", "add", "--quiet", "-b", "side", tree.to_str().unwrap()]);
        assert!(tree.join(".git").is_file());
        for (place, branch) in [(&root, run(&root, &["symbolic-ref", "HEAD"])), (&tree, "refs/heads/side".to_owned())] {
            let found = state_of(place);
            assert_eq!(found.commit.as_deref(), Some(commit.as_str()));
            let watched = |end: &str| found.files.iter().any(|file| file.ends_with(end));
            assert!(watched("/HEAD") && watched("logs/HEAD") && watched(&branch), "{:?}", found.files);
        }
    }

    #[test]
    fn a_folder_inside_another_clone_has_no_commit() {
        let dir = tempfile::tempdir().unwrap();
        clone_with_a_commit(dir.path());
        assert_eq!(state_of(&dir.path().join("src")), State::default());
    }
}
