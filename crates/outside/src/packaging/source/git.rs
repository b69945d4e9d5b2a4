//! The repository: a bare mirror that keeps what was fetched, and a clean tree of
//! one commit.
//!
//! git is the program of that name. It sees neither the user's nor the system's
//! configuration, nor that of a repository above its folder, asks nobody, and gets a token only through a variable of its own
//! environment, for the repository's host alone. Submodules and git-lfs are not
//! followed.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::builds::BuildControl;
use super::process::{BuildLog, Ended, Program, run};
use super::settings::SourceSettings;
use super::{io_error, remove_folder, run_error, stopped};
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ids::Digest;

/// A fetch that moves less than a byte a second for so many seconds is ended.
const STALLED_SECS: u32 = 60;
/// The greatest depth that git knows (git-fetch, `--depth`): all of the history.
const ALL_OF_IT: &str = "2147483647";
/// Names shown in the error about an unknown revision.
const SHOWN_NAMES: usize = 12;
/// Lines of git's that go into an error.
const SHOWN_LINES: usize = 4;
/// Of the daemon's environment, git needs no more than these.
const PASSED_VARIABLES: [&str; 14] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "SSH_AUTH_SOCK",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
];

/// The configured repository and its cache in `<state>/sources`.
pub(super) struct Repository<'a> {
    settings: &'a SourceSettings,
    control: &'a BuildControl,
    mark: &'a str,
    sources: PathBuf,
    mirror: PathBuf,
    tree: PathBuf,
}

/// What git said, and whether it succeeded.
struct Said {
    success: bool,
    lines: Vec<String>,
}

impl<'a> Repository<'a> {
    pub(super) fn at(sources: &Path, settings: &'a SourceSettings, control: &'a BuildControl, mark: &'a str) -> Self {
        let name = Digest::of(settings.repository.as_bytes()).short().to_owned();
        let (mirror, tree) = (sources.join(format!("{name}.git")), sources.join(format!("{name}.tree")));
        Self { settings, control, mark, sources: sources.to_owned(), mirror, tree }
    }

    /// The commit that the configured revision stands for now, fetched. A whole
    /// commit id that is there already needs no network. A mirror that is damaged,
    /// or was left locked by a git that was killed, is thrown away and fetched again.
    pub(super) fn fetch(&self, log: &mut BuildLog) -> Result<String, PortError> {
        match self.fetch_into_mirror(log) {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.forget(&error)?;
                self.fetch_into_mirror(log)
            }
            fetched => fetched,
        }
    }

    /// Throws the mirror away: everything in it can be fetched again.
    pub(super) fn forget(&self, why: &PortError) -> Result<(), PortError> {
        tracing::warn!(
            error = delayd_core::error::chain(why),
            "the mirror of the service's repository is fetched again"
        );
        remove_folder(&self.mirror)
    }

    fn fetch_into_mirror(&self, log: &mut BuildLog) -> Result<String, PortError> {
        self.prepare(log)?;
        let revision = self.settings.revision.as_str();
        let whole = is_commit_id(revision);
        if whole && let Some(commit) = self.commit_of(revision, log)? {
            return Ok(commit);
        }
        let said = self.git(&["fetch", "--depth", "1", "--no-tags", "--", &self.settings.repository, revision], log)?;
        if said.success {
            let message = "the fetch succeeded and brought no commit".to_owned();
            let none = || PortError::new(ErrorKind::Corrupt, self.action(), message);
            return self.commit_of("FETCH_HEAD", log)?.ok_or_else(none);
        }
        if !is_unknown(&said.lines) {
            return Err(self.failed(&said));
        }
        // An abbreviated commit id, or a server that hands out branches and tags only.
        if revision.len() >= 7 && revision.bytes().all(|b| b.is_ascii_hexdigit()) {
            let everything = ["+refs/heads/*:refs/remote/heads/*", "+refs/tags/*:refs/remote/tags/*"];
            let [heads, tags] = everything;
            let fetch = ["fetch", "--depth", ALL_OF_IT, "--no-tags", "--", &self.settings.repository, heads, tags];
            let said = self.git(&fetch, log)?;
            if !said.success {
                return Err(self.failed(&said));
            }
            if let Some(commit) = self.commit_of(revision, log)? {
                return Ok(commit);
            }
        }
        Err(self.unknown(log))
    }

    /// A tree of `commit` in which nothing else lies, and its folder.
    pub(super) fn check_out(&self, commit: &str, log: &mut BuildLog) -> Result<PathBuf, PortError> {
        remove_folder(&self.tree)?;
        let tree = self.tree.to_string_lossy().into_owned();
        self.must(&["worktree", "prune"], log)?;
        self.must(&["worktree", "add", "--force", "--detach", &tree, commit], log)?;
        let said = self.run(&["-C", &tree, "status", "--porcelain", "--untracked-files=all", "--ignored"], log)?;
        let found = self.commit_in(&["-C", &tree, "rev-parse", "HEAD"], log)?;
        // Modified files are none here: a file whose line ends were never normalised looks like one.
        let foreign: Vec<&str> =
            said.lines.iter().map(String::as_str).filter(|line| line.starts_with(['?', '!'])).collect();
        if said.success && foreign.is_empty() && found.as_deref() == Some(commit) {
            return Ok(self.tree.clone());
        }
        let message = format!(
            "the tree is not what the commit says ({}); remove {} and let the cycle start again",
            foreign.join(", "),
            self.sources.display()
        );
        Err(PortError::new(ErrorKind::Corrupt, format!("checking out {commit}"), message))
    }

    /// When the commit was made, in seconds since 1970, for `SOURCE_DATE_EPOCH`.
    pub(super) fn committed_at(&self, commit: &str, log: &mut BuildLog) -> Result<Option<String>, PortError> {
        let said = self.git(&["show", "--no-patch", "--format=%ct", commit], log)?;
        Ok(said.lines.into_iter().find(|line| !line.is_empty() && line.bytes().all(|b| b.is_ascii_digit())))
    }

    /// Whether the repository can be reached and knows the revision. Writes
    /// nothing but git's settings.
    pub(super) fn probe(&self, log: &mut BuildLog) -> Result<String, PortError> {
        self.write_configuration()?;
        let revision = self.settings.revision.as_str();
        let said = self.run(&["ls-remote", "--", &self.settings.repository], log)?;
        if !said.success {
            return Err(self.failed(&said));
        }
        let names = [format!("refs/tags/{revision}"), format!("refs/heads/{revision}"), revision.to_owned()];
        let refs: Vec<(&str, &str)> = said.lines.iter().filter_map(|line| line.split_once('\t')).collect();
        let found = names.iter().find_map(|name| refs.iter().find(|(_, known)| known == name));
        let repository = &self.settings.repository;
        match found {
            Some((commit, _)) => Ok(format!("{repository} at {revision} ({commit:.12})")),
            None if revision.len() >= 7 && revision.bytes().all(|b| b.is_ascii_hexdigit()) => {
                Ok(format!("{repository} answers; commit {revision} is resolved at build time"))
            }
            None => Err(self.unknown(log)),
        }
    }

    fn prepare(&self, log: &mut BuildLog) -> Result<(), PortError> {
        fs::create_dir_all(&self.sources).map_err(io_error("creating", &self.sources))?;
        self.write_configuration()?;
        if self.mirror.join("HEAD").is_file() {
            return Ok(());
        }
        remove_folder(&self.mirror)?;
        let mirror = self.mirror.to_string_lossy().into_owned();
        let said = self.run(&["init", "--quiet", "--bare", "--", &mirror], log)?;
        if said.success { Ok(()) } else { Err(self.failed(&said)) }
    }

    fn configuration(&self) -> PathBuf {
        self.sources.join("gitconfig")
    }

    /// git's only configuration. It names the token's variable, never the token.
    fn write_configuration(&self) -> Result<(), PortError> {
        let mut text = String::from(
            "# Written by delayd at every build.\n[gc]\n\tautoDetach = false\n[maintenance]\n\tautoDetach = false\n\
             [core]\n\thooksPath = /dev/null\n[advice]\n\tdetachedHead = false\n",
        );
        if let Some(folder) = self.settings.local_folder() {
            for folder in [folder.to_owned(), format!("{}/.git", folder.trim_end_matches('/'))] {
                text.push_str(&format!("[safe]\n\tdirectory = {}\n", quoted(&folder)));
            }
        }
        if let Some(origin) = self.settings.origin().filter(|_| self.settings.token.is_set()) {
            let helper = "!f() { if [ \"$1\" = get ]; then printf 'username=%s\\npassword=%s\\n' \
                          \"$DELAYD_GIT_USERNAME\" \"$DELAYD_GIT_TOKEN\"; fi; }; f";
            text.push_str(&format!("[credential {}]\n\thelper = {}\n", quoted(&origin), quoted(helper)));
        }
        let path = self.configuration();
        fs::create_dir_all(&self.sources)
            .and_then(|()| delayd_core::atomic_file::write_atomically(&path, text.as_bytes()))
            .map_err(io_error("writing", &path))
    }

    fn environment(&self) -> Result<Vec<(String, OsString)>, PortError> {
        let passed = PASSED_VARIABLES.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var_os(name)?)));
        let mut environment: Vec<(String, OsString)> = passed.collect();
        let mut set = |name: &str, value: OsString| environment.push((name.to_owned(), value));
        set("LC_ALL", "C".into());
        set("GIT_CONFIG_NOSYSTEM", "1".into());
        set("GIT_CONFIG_GLOBAL", self.configuration().into_os_string());
        // Otherwise a `.git` in any folder above, such as /tmp, would be read too.
        set("GIT_CEILING_DIRECTORIES", self.sources.parent().unwrap_or(&self.sources).into());
        set("GIT_TERMINAL_PROMPT", "0".into());
        set("GIT_ALLOW_PROTOCOL", "https:http:ssh:git:file".into());
        set("GIT_HTTP_LOW_SPEED_LIMIT", "1".into());
        set("GIT_HTTP_LOW_SPEED_TIME", STALLED_SECS.to_string().into());
        if !self.settings.ca_path.as_os_str().is_empty() {
            set("GIT_SSL_CAINFO", self.settings.ca_path.clone().into_os_string());
        }
        set("GIT_SSH_COMMAND", self.ssh_command().into());
        if self.settings.token.is_set() {
            set("DELAYD_GIT_USERNAME", self.settings.username.clone().into());
            set("DELAYD_GIT_TOKEN", self.settings.token.reveal("reading packaging.source.token")?.into());
        }
        Ok(environment)
    }

    /// Asks nothing, and trusts only hosts that are known.
    fn ssh_command(&self) -> String {
        let mut command = String::from("ssh -o BatchMode=yes -o StrictHostKeyChecking=yes -o ConnectTimeout=30");
        let shell = |word: &str| format!("'{}'", word.replace('\'', "'\\''"));
        // ssh itself reads `%` as the beginning of a token (ssh_config, "TOKENS").
        let path = |path: &Path| path.to_string_lossy().replace('%', "%%");
        let (key, known) = (&self.settings.ssh_key_path, &self.settings.ssh_known_hosts_path);
        if !key.as_os_str().is_empty() {
            command.push_str(&format!(" -o IdentitiesOnly=yes -i {}", shell(&path(key))));
        }
        if !known.as_os_str().is_empty() {
            // This one is a list, and each of its words may be quoted.
            let option = format!("UserKnownHostsFile={}", quoted(&path(known)));
            command.push_str(&format!(" -o {}", shell(&option)));
        }
        command
    }

    fn git(&self, arguments: &[&str], log: &mut BuildLog) -> Result<Said, PortError> {
        let mirror = self.mirror.to_string_lossy().into_owned();
        let all: Vec<&str> = ["--git-dir", &mirror].into_iter().chain(arguments.iter().copied()).collect();
        self.run(&all, log)
    }

    fn must(&self, arguments: &[&str], log: &mut BuildLog) -> Result<(), PortError> {
        let said = self.git(arguments, log)?;
        if said.success { Ok(()) } else { Err(self.failed(&said)) }
    }

    fn run(&self, arguments: &[&str], log: &mut BuildLog) -> Result<Said, PortError> {
        let path = log.path().to_owned();
        log.line(&format!("$ git {}", arguments.join(" "))).map_err(io_error("writing", &path))?;
        let program = Program {
            command: std::iter::once("git").chain(arguments.iter().copied()).map(str::to_owned).collect(),
            dir: self.sources.clone(),
            environment: self.environment()?,
            timeout: Duration::from_secs(self.settings.fetch_timeout_secs),
            mark: self.mark.to_owned(),
        };
        let mut lines = Vec::new();
        let ended = run(&program, self.control, &mut |line| {
            lines.push(line.to_owned());
            log.line(line)
        });
        match ended.map_err(run_error("git", &path))? {
            Ended::Exited(status) => Ok(Said { success: status.success(), lines }),
            Ended::Stopped => Err(stopped()),
            Ended::TimedOut => Err(PortError::new(
                ErrorKind::Timeout,
                self.action(),
                format!("git did not finish within {} s", self.settings.fetch_timeout_secs),
            )),
        }
    }

    /// The commit behind a name in the mirror, tags followed.
    fn commit_of(&self, name: &str, log: &mut BuildLog) -> Result<Option<String>, PortError> {
        let mirror = self.mirror.to_string_lossy().into_owned();
        let peeled = format!("{name}^{{commit}}");
        self.commit_in(&["--git-dir", &mirror, "rev-parse", "--verify", "--quiet", &peeled], log)
    }

    fn commit_in(&self, arguments: &[&str], log: &mut BuildLog) -> Result<Option<String>, PortError> {
        let said = self.run(arguments, log)?;
        Ok(said.lines.into_iter().find(|line| said.success && is_commit_id(line)))
    }

    fn action(&self) -> String {
        format!("fetching {} of {}", self.settings.revision, self.settings.repository)
    }

    fn failed(&self, said: &Said) -> PortError {
        let (kind, advice) = reason(&said.lines);
        let lines: Vec<&str> = said.lines.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect();
        let told = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("; ");
        let message = if advice.is_empty() { told } else { format!("{told}. {advice}") };
        PortError::new(kind, self.action(), message)
    }

    /// The error about an unknown revision tells which are known.
    fn unknown(&self, log: &mut BuildLog) -> PortError {
        let said = match self.run(&["ls-remote", "--heads", "--tags", "--", &self.settings.repository], log) {
            Ok(said) => said,
            Err(error) => return error,
        };
        if !said.success {
            return self.failed(&said);
        }
        let names: Vec<&str> = said
            .lines
            .iter()
            .filter_map(|line| line.split_once('\t')?.1.strip_prefix("refs/"))
            .filter_map(|name| name.strip_prefix("heads/").or_else(|| name.strip_prefix("tags/")))
            .filter(|name| !name.ends_with("^{}"))
            .collect();
        let more = if names.len() > SHOWN_NAMES { ", …" } else { "" };
        let shown = names.iter().take(SHOWN_NAMES).copied().collect::<Vec<_>>().join(", ");
        let message = format!(
            "there is no commit, tag or branch `{}`; the repository has: {shown}{more}. packaging.source.revision names it",
            self.settings.revision
        );
        PortError::new(ErrorKind::NotFound, self.action(), message)
    }
}

/// A value as git's configuration files quote it (git-config, "Syntax").
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// SHA-1 or SHA-256, in full.
fn is_commit_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether the other side answered that it has no such thing.
fn is_unknown(lines: &[String]) -> bool {
    let said = lines.join("\n");
    ["couldn't find remote ref", "not our ref", "unadvertised object", "no such remote ref"]
        .iter()
        .any(|words| said.contains(words))
}

/// What git's words stand for. git has one exit status for all of them; the words
/// are those of git 2.30 to 2.50 under `LC_ALL=C`.
fn reason(lines: &[String]) -> (ErrorKind, &'static str) {
    let said = lines.join("\n").to_lowercase();
    let says = |words: &[&str]| words.iter().any(|words| said.contains(words));
    if says(&["no space left on device", "disk quota exceeded"]) {
        return (ErrorKind::Exhausted, "Make room for <state>/sources");
    }
    let locked = said.lines().any(|line| line.contains(".lock'") && line.contains("file exists"));
    if locked || says(&["object file", "bad object", "bad tree", "corrupt", "unable to read tree", "invalid reference"])
    {
        return (ErrorKind::Corrupt, "Remove <state>/sources when no build runs");
    }
    if says(&["ssl certificate", "server certificate", "certificate verif", "ssl peer certificate", "ssl: "]) {
        return (
            ErrorKind::Unavailable,
            "The server's certificate is not trusted; packaging.source.ca_path names another authority",
        );
    }
    if says(&["host key verification failed", "no matching host key", "host key is known"]) {
        return (
            ErrorKind::Denied,
            "Put the server's key into the file that packaging.source.ssh_known_hosts_path names",
        );
    }
    if says(&[
        "authentication failed",
        "could not read username",
        "could not read password",
        "permission denied",
        "access denied",
        "returned error: 401",
        "returned error: 403",
        "not authorized",
        "too many authentication failures",
    ]) {
        return (
            ErrorKind::Denied,
            "Check packaging.source.repository, and the rights of its token or packaging.source.ssh_key_path",
        );
    }
    if says(&[
        "repository not found",
        "does not appear to be a git repository",
        "returned error: 404",
        "does not exist",
    ]) || said.lines().any(|line| line.contains("repository '") && line.ends_with("not found"))
    {
        return (ErrorKind::NotFound, "Check packaging.source.repository");
    }
    (ErrorKind::Unavailable, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_says_decides_whether_to_try_again() {
        for (said, kind) in [
            ("fatal: unable to access 'https://x/': Could not resolve host: x", ErrorKind::Unavailable),
            ("fatal: unable to connect to 127.0.0.1:\nerrno=Connection refused", ErrorKind::Unavailable),
            ("fatal: the remote end hung up unexpectedly", ErrorKind::Unavailable),
            ("fatal: unable to access 'https://x/': The requested URL returned error: 503", ErrorKind::Unavailable),
            ("fatal: unable to access 'https://x/': SSL certificate problem: self-signed", ErrorKind::Unavailable),
            ("remote: x\nfatal: Authentication failed for 'https://x/'", ErrorKind::Denied),
            ("fatal: could not read Username for 'https://x': terminal prompts disabled", ErrorKind::Denied),
            ("git@x: Permission denied (publickey).\nfatal: Could not read from remote repository.", ErrorKind::Denied),
            ("Host key verification failed.\nfatal: Could not read from remote repository.", ErrorKind::Denied),
            ("fatal: repository 'https://x/y/' not found", ErrorKind::NotFound),
            ("fatal: '/nowhere' does not appear to be a git repository", ErrorKind::NotFound),
            ("fatal: sha1 file write error: No space left on device", ErrorKind::Exhausted),
            ("fatal: Unable to create '/s/x.git/shallow.lock': File exists.", ErrorKind::Corrupt),
            ("error: object file objects/01/23 is empty", ErrorKind::Corrupt),
        ] {
            let lines: Vec<String> = said.lines().map(str::to_owned).collect();
            assert_eq!(reason(&lines).0, kind, "{said}");
        }
    }

    #[test]
    fn values_are_quoted_as_git_reads_them() {
        assert_eq!(quoted(r#"a "b" \ c"#), r#""a \"b\" \\ c""#);
    }
}
