//! `[packaging.source]`: where the inference service in the image comes from.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use delayd_core::secret::Secret;

/// Longer builds than this are refused: the coordinator gives a step up after seven hours.
const LONGEST_BUILD_SECS: u64 = 6 * 3600;
const LONGEST_FETCH_SECS: u64 = 3600;
/// A log must at least hold the error.
const SMALLEST_LOG_BYTES: u64 = 64 * 1024;
const LARGEST_LOG_BYTES: u64 = 1 << 30;

/// Where the service comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// The executable at hand, `packaging.service_binary`.
    #[default]
    BuiltIn,
    /// A git repository: cloned at a revision, and built.
    Git,
}

/// `[packaging.source]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SourceSettings {
    /// Where the service comes from.
    pub kind: SourceKind,
    /// git: URL (`https`, `ssh`, `git`, `file`), `user@host:path`, or a folder.
    pub repository: String,
    /// git: commit, tag or branch.
    pub revision: String,
    /// The folder of the repository that the command runs in; its root when empty.
    pub subdirectory: String,
    /// The program that builds the service, and its arguments; no shell. `{target}`
    /// is the machine's target triple as `rustc` names it.
    pub build_command: Vec<String>,
    /// What it builds. `{target_dir}` is the cached target folder, `{target}` the
    /// target triple; a relative path begins in the folder that the command runs in.
    pub binary: String,
    /// Seconds that the build may take.
    pub timeout_secs: u64,
    /// Seconds that a fetch may take.
    pub fetch_timeout_secs: u64,
    /// How much the build gives way to others, from 0 to 19 (`nice`).
    pub niceness: u8,
    /// Finished builds and logs that are kept.
    pub keep_builds: u32,
    /// Bytes of a build's log that are kept, besides its last lines.
    pub maximum_log_bytes: u64,
    /// Variables that the build gets.
    pub environment: BTreeMap<String, String>,
    /// Names of the daemon's own variables that the build gets too.
    pub pass_environment: Vec<String>,
    /// git by https: a token.
    pub token: Secret,
    /// git by https: the user's name that goes with the token.
    pub username: String,
    /// git by ssh: file of the private key; the agent's when empty.
    pub ssh_key_path: PathBuf,
    /// git by ssh: file of the known hosts; the user's when empty.
    pub ssh_known_hosts_path: PathBuf,
    /// git by https: PEM file of a certificate authority that is trusted instead of the system's; none when empty.
    pub ca_path: PathBuf,
}

impl Default for SourceSettings {
    fn default() -> Self {
        let words = ["cargo", "build", "--locked", "--profile", "image", "--target", "{target}", "-p", "delayd-serve"];
        let static_linking = ("RUSTFLAGS".to_owned(), "-C target-feature=+crt-static".to_owned());
        Self {
            kind: SourceKind::default(),
            repository: String::new(),
            revision: "main".to_owned(),
            subdirectory: String::new(),
            build_command: words.map(str::to_owned).to_vec(),
            binary: "{target_dir}/{target}/image/delayd-serve".to_owned(),
            timeout_secs: 1800,
            fetch_timeout_secs: 600,
            niceness: 10,
            keep_builds: 5,
            maximum_log_bytes: 16 * 1024 * 1024,
            environment: BTreeMap::from([static_linking]),
            pass_environment: Vec::new(),
            token: Secret::default(),
            username: "x-access-token".to_owned(),
            ssh_key_path: PathBuf::new(),
            ssh_known_hosts_path: PathBuf::new(),
            ca_path: PathBuf::new(),
        }
    }
}

impl SourceSettings {
    /// Every value that cannot be. Those of the built-in service need no check.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        if self.kind == SourceKind::BuiltIn {
            return Vec::new();
        }
        let mut faults = Vec::new();
        let mut check = |holds: bool, text: String| {
            if !holds {
                faults.push(text);
            }
        };
        faults_of_address(self, &mut check);
        check(
            is_revision(&self.revision),
            format!("revision: a commit, tag or branch such as main or v1.2.0; found `{}`", self.revision),
        );
        let inside = Path::new(&self.subdirectory).components().all(|part| matches!(part, Component::Normal(_)));
        check(inside, format!("subdirectory: a folder inside the repository; found `{}`", self.subdirectory));
        let program = self.build_command.first().is_some_and(|program| !program.is_empty());
        check(program, "build_command: a program and its arguments, such as [\"cargo\", \"build\"]".to_owned());
        check(!self.binary.is_empty(), "binary: the path of what the command builds; found nothing".to_owned());
        check(
            (1..=LONGEST_BUILD_SECS).contains(&self.timeout_secs),
            format!("timeout_secs: 1 to {LONGEST_BUILD_SECS} seconds; found {}", self.timeout_secs),
        );
        check(
            (1..=LONGEST_FETCH_SECS).contains(&self.fetch_timeout_secs),
            format!("fetch_timeout_secs: 1 to {LONGEST_FETCH_SECS} seconds; found {}", self.fetch_timeout_secs),
        );
        check(self.niceness <= 19, format!("niceness: 0 to 19; found {}", self.niceness));
        check(self.keep_builds >= 1, "keep_builds: 1 or more; found 0".to_owned());
        check(
            (SMALLEST_LOG_BYTES..=LARGEST_LOG_BYTES).contains(&self.maximum_log_bytes),
            format!(
                "maximum_log_bytes: {SMALLEST_LOG_BYTES} to {LARGEST_LOG_BYTES} bytes; found {}",
                self.maximum_log_bytes
            ),
        );
        for name in self.environment.keys().chain(&self.pass_environment) {
            check(is_variable(name), format!("environment, pass_environment: names of variables; found `{name}`"));
        }
        faults
    }

    /// Scheme, host and port of an `https` or `http` repository.
    pub(super) fn origin(&self) -> Option<String> {
        let (scheme, rest) = self.repository.split_once("://")?;
        matches!(scheme, "https" | "http").then(|| format!("{scheme}://{}", rest.split('/').next().unwrap_or_default()))
    }

    /// The repository's folder, where it lies on this machine.
    pub(super) fn local_folder(&self) -> Option<&str> {
        let path = self.repository.strip_prefix("file://").unwrap_or(&self.repository);
        path.starts_with('/').then_some(path)
    }
}

fn faults_of_address(settings: &SourceSettings, check: &mut impl FnMut(bool, String)) {
    let repository = settings.repository.as_str();
    let (scheme, rest) = repository.split_once("://").unwrap_or(("", repository));
    let authority = rest.split('/').next().unwrap_or_default();
    let known = match scheme {
        "https" | "http" | "ssh" | "git" => !authority.is_empty(),
        "file" => rest.starts_with('/'),
        // `user@host:path`, or a folder.
        "" => rest.starts_with('/') || rest.split_once(':').is_some_and(|(host, _)| !host.contains('/')),
        _ => false,
    };
    let printable = !repository.starts_with('-') && repository.chars().all(|c| !c.is_control() && c != ' ');
    if !known || !printable {
        // What was found may hold a password, and is not shown.
        let expected = "repository: a URL (https, ssh, git, file), user@host:path, or an absolute folder";
        check(false, expected.to_owned());
    }
    let web = matches!(scheme, "https" | "http");
    check(
        !(web && authority.contains('@')),
        "repository: a URL without user and password; they belong into username and token".to_owned(),
    );
    check(
        !authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':')),
        "repository: a URL without a password".to_owned(),
    );
    check(!web || !repository.contains(['?', '#']), "repository: a URL without `?` and `#`".to_owned());
    check(
        !settings.token.is_set() || scheme == "https",
        "token: only with an https repository; anything else would show it to the network".to_owned(),
    );
}

/// git's own rules (git-check-ref-format), and nothing that looks like an option or a range.
fn is_revision(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | '-' | '+' | '@');
    !text.is_empty()
        && text.len() <= 200
        && text.chars().all(plain)
        && !text.starts_with(['-', '/', '.'])
        && !text.ends_with(['/', '.'])
        && !text.contains("..")
        && !text.contains("//")
        && text != "@"
}

fn is_variable(name: &str) -> bool {
    let mut characters = name.chars();
    characters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && characters.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(repository: &str) -> SourceSettings {
        SourceSettings { kind: SourceKind::Git, repository: repository.to_owned(), ..SourceSettings::default() }
    }

    #[test]
    fn addresses_that_git_knows_are_taken() {
        for repository in [
            "https://git.example.com/team/delayd.git",
            "ssh://git@git.example.com/team/delayd.git",
            "git@git.example.com:team/delayd.git",
            "git://git.example.com/delayd",
            "file:///srv/git/delayd.git",
            "/srv/git/delayd.git",
        ] {
            assert_eq!(git(repository).faults(), Vec::<String>::new(), "{repository}");
        }
    }

    #[test]
    fn addresses_that_are_none_or_hold_a_password_are_refused_without_being_shown() {
        for repository in [
            "",
            "delayd",
            "ext::sh -c evil",
            "--upload-pack=evil",
            "ftp://example.com/x",
            "https://ann:s3cret@example.com/x",
            "ssh://ann:s3cret@example.com/x",
            "https://example.com/x?token=s3cret",
            "file://relative",
        ] {
            let faults = git(repository).faults();
            assert!(!faults.is_empty(), "{repository}");
            assert!(!faults.join("\n").contains("s3cret"), "{faults:?}");
        }
    }

    #[test]
    fn every_wrong_value_is_told_and_none_of_the_built_in_service() {
        let wrong = SourceSettings {
            revision: "--output=x".to_owned(),
            subdirectory: "../up".to_owned(),
            build_command: Vec::new(),
            binary: String::new(),
            timeout_secs: 0,
            fetch_timeout_secs: 0,
            niceness: 20,
            keep_builds: 0,
            maximum_log_bytes: 1,
            pass_environment: vec!["A=B".to_owned()],
            token: Secret::new("s3cret"),
            ..git("git://example.com/x")
        };
        assert_eq!(wrong.faults().len(), 11, "{:#?}", wrong.faults());
        assert!(SourceSettings { kind: SourceKind::BuiltIn, ..wrong }.faults().is_empty());
    }

    #[test]
    fn revisions_are_names_and_nothing_else() {
        for (revision, valid) in [
            ("main", true),
            ("v1.2.0", true),
            ("feature/new-encoder", true),
            ("0123456789abcdef0123456789abcdef01234567", true),
            ("main..other", false),
            ("-x", false),
            ("", false),
            ("a b", false),
            ("HEAD^{/fix}", false),
        ] {
            assert_eq!(is_revision(revision), valid, "{revision}");
        }
    }
}
