//! Debian's Exim as a mail server of the test's own: own configuration, spool and
//! ports, STARTTLS and implicit TLS, a login, delivery into a maildir. Flags, which
//! are files, make it misbehave.

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use delayd_core::http_client::HttpClientSettings;
use delayd_core::ids::AlertId;
use delayd_core::ports::{Alert, ChannelKind, Endpoint, Notice, NoticeKind, Severity};
use delayd_core::secret::Secret;
use delayd_outside::cloud::{MailNotifier, MailSettings, MailTls, SlackNotifier, SlackSettings};
use delayd_outside::templates::Templates;
use delayd_testkit::contracts::flaky_proxy::TestCertificates;
use delayd_testkit::tools::free_address;
use serde::Deserialize;

pub const USER: &str = "delayd";
pub const PASSWORD: &str = "s3cret-pa55";
const DEADLINE: Duration = Duration::from_secs(20);

/// What it does while the flag stands.
#[derive(Debug, Clone, Copy)]
pub enum Flag {
    /// `grey@` is told to come back later.
    Greylisting,
    /// Everybody is told so, once the mail was sent.
    DeferData,
    /// No login is needed.
    Open,
    /// No encryption is offered.
    Plain,
    /// Every connection is told to come back later.
    Busy,
}

impl Flag {
    fn file(self) -> &'static str {
        match self {
            Self::Greylisting => "greylisting",
            Self::DeferData => "defer_data",
            Self::Open => "open",
            Self::Plain => "plain",
            Self::Busy => "busy",
        }
    }
}

pub struct Exim {
    folder: tempfile::TempDir,
    program: PathBuf,
    child: Option<Child>,
    pub smtp: SocketAddr,
    smtps: SocketAddr,
}

impl Exim {
    /// Starts it, or says what is missing.
    pub fn start(test: &str) -> Option<Self> {
        let found = ["/usr/sbin/exim4", "/usr/sbin/exim"].into_iter().map(PathBuf::from).find(|path| path.is_file());
        let Some(program) = found else {
            eprintln!("SKIPPED: {test}: exim4; `apt-get install exim4-daemon-light` gets it");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        for name in ["", "spool", "log", "mail", "flags"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            // Exim works as a user of its own.
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        }
        let certificates = TestCertificates::new();
        for (name, pem) in [
            ("ca.pem", &certificates.ca_pem),
            ("cert.pem", &certificates.server_pem),
            ("key.pem", &certificates.server_key_pem),
        ] {
            std::fs::write(folder.path().join(name), pem).unwrap();
        }
        let somewhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut exim = Self { folder, program, child: None, smtp: somewhere, smtps: somewhere };
        // Another process may take a port between its choice and its use.
        for _ in 0..5 {
            if exim.try_start() {
                return Some(exim);
            }
        }
        panic!("exim does not start: {}", exim.log());
    }

    fn try_start(&mut self) -> bool {
        (self.smtp, self.smtps) = (free_address(), free_address());
        self.restart()
    }

    /// Starts it again where it was.
    pub fn restart(&mut self) -> bool {
        self.stop();
        let config = self.folder.path().join("exim.conf");
        std::fs::write(&config, configuration(self.folder.path(), self.smtp.port(), self.smtps.port())).unwrap();
        let output = std::fs::File::create(self.folder.path().join("output")).unwrap();
        let child = Command::new(&self.program)
            .arg("-C")
            .arg(&config)
            .arg("-bdf")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let begun = Instant::now();
        while begun.elapsed() < DEADLINE {
            if self.child.as_mut().unwrap().try_wait().unwrap().is_some() {
                return false;
            }
            if std::net::TcpStream::connect(self.smtp).is_ok() && std::net::TcpStream::connect(self.smtps).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // With it go the processes that serve its connections. It may have ended by itself already.
            let group = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
            drop(child.wait());
        }
    }

    pub fn ca_path(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    pub fn set(&self, flag: Flag, on: bool) {
        let path = self.folder.path().join("flags").join(flag.file());
        if on { std::fs::write(path, "").unwrap() } else { std::fs::remove_file(path).unwrap() }
    }

    /// Settings that work.
    pub fn settings(&self) -> MailSettings {
        MailSettings {
            server: self.smtp.ip().to_string(),
            port: self.smtp.port(),
            tls: MailTls::Starttls,
            ca_path: self.ca_path(),
            username: USER.into(),
            password: Secret::new(PASSWORD),
            from: "delayd <delayd@example.org>".into(),
            to: vec!["ops@example.org".into()],
            ehlo_name: "delayd.example.org".into(),
            timeout_secs: 10,
            ..MailSettings::default()
        }
    }

    /// The same with TLS from the first byte.
    pub fn implicit(&self) -> MailSettings {
        MailSettings { tls: MailTls::Implicit, port: self.smtps.port(), ..self.settings() }
    }

    /// The same by way of a proxy.
    pub fn settings_by(&self, proxy: SocketAddr) -> MailSettings {
        MailSettings { port: proxy.port(), ..self.settings() }
    }

    /// No encryption and no login, by way of a proxy, for tests that look into what is said.
    pub fn open_by(&self, proxy: SocketAddr) -> MailSettings {
        self.set(Flag::Open, true);
        let (username, password) = (String::new(), Secret::default());
        MailSettings { tls: MailTls::None, username, password, ..self.settings_by(proxy) }
    }

    /// The mails in a recipient's mailbox, as they were written.
    pub fn raw_mails(&self, local_part: &str) -> Vec<Vec<u8>> {
        let folder = self.folder.path().join("mail").join(local_part).join("new");
        let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.into_iter().map(|path| std::fs::read(path).unwrap()).collect()
    }

    /// Waits for so many mails; then there must not be more.
    pub fn mails(&self, local_part: &str, count: usize) -> Vec<Mail> {
        let begun = Instant::now();
        while self.raw_mails(local_part).len() < count {
            assert!(begun.elapsed() < DEADLINE, "{local_part} has no {count} mails: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        let mails = self.raw_mails(local_part);
        assert_eq!(mails.len(), count, "{}", self.log());
        mails.iter().map(|raw| Mail::read(raw)).collect()
    }

    /// How often the log says something.
    pub fn logged(&self, what: &str) -> usize {
        self.log().matches(what).count()
    }

    pub fn log(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        format!("{}{}{}", read("output"), read("log/mainlog"), read("log/paniclog"))
    }
}

impl Drop for Exim {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Root gives way to Exim's own user; anybody else stays who they are.
fn user_and_group() -> (String, String) {
    let id = |arguments: &[&str]| {
        let output = Command::new("id").args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let user = if id(&["-u"]) == "0" { "Debian-exim".to_owned() } else { id(&["-un"]) };
    let group = id(&["-gn", &user]);
    (user, group)
}

fn configuration(folder: &Path, smtp: u16, smtps: u16) -> String {
    let (user, group) = user_and_group();
    let folder = folder.display();
    let flag = |flag: Flag| format!("exists{{{folder}/flags/{}}}", flag.file());
    let (greylisting, defer_data, open, plain, busy) =
        (flag(Flag::Greylisting), flag(Flag::DeferData), flag(Flag::Open), flag(Flag::Plain), flag(Flag::Busy));
    format!(
        r"
exim_user = {user}
exim_group = {group}
spool_directory = {folder}/spool
log_file_path = {folder}/log/%slog
log_selector = +smtp_connection +smtp_mailauth
pid_file_path = {folder}/exim.pid
primary_hostname = mail.example.org
domainlist local = example.org
daemon_smtp_ports = {smtp} : {smtps}
tls_on_connect_ports = {smtps}
local_interfaces = 127.0.0.1
tls_advertise_hosts = ${{if {plain}{{}}{{*}}}}
tls_certificate = {folder}/cert.pem
tls_privatekey = {folder}/key.pem
auth_advertise_hosts = ${{if eq{{$tls_in_cipher}}{{}}{{}}{{*}}}}
acl_smtp_connect = acl_connect
acl_smtp_rcpt = acl_rcpt
acl_smtp_data = acl_data
host_lookup =
rfc1413_hosts =
smtp_accept_max = 100
smtp_accept_queue = 0
smtp_accept_queue_per_connection = 0

begin acl
acl_connect:
  defer condition = ${{if {busy}}}
        message = too busy, come back later
  accept
acl_rcpt:
  deny  !authenticated = *
        condition = ${{if !{open}}}
        message = 5.7.1 log in first
  deny  local_parts = nobody
        message = 5.1.1 no such user here
  defer local_parts = grey
        condition = ${{if {greylisting}}}
        message = 4.7.1 greylisted, come back later
  accept domains = +local
  deny  message = 5.7.1 no relay
acl_data:
  defer condition = ${{if {defer_data}}}
        message = 4.3.0 not now
  accept

begin routers
local:
  driver = accept
  domains = +local
  local_parts = ops : boss : grey
  transport = maildir

begin transports
maildir:
  driver = appendfile
  directory = {folder}/mail/$local_part_data
  maildir_format
  create_directory
  user = {user}

begin retry
* * F,1h,1m

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_condition = ${{if and{{{{eq{{$auth2}}{{{USER}}}}}{{eq{{$auth3}}{{{PASSWORD}}}}}}}}}
  server_set_id = $auth2
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = Username: : Password:
  server_condition = ${{if and{{{{eq{{$auth1}}{{{USER}}}}}{{eq{{$auth2}}{{{PASSWORD}}}}}}}}}
  server_set_id = $auth1
"
    )
}

// ----------------------------------------------------------------
// Reads mails by somebody else's eyes: Python's `email` package.

const READER: &str = r"
import email, email.policy, json, sys
message = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.default)
parts = [[part.get_content_type(), part.get_content()] for part in message.walk() if not part.is_multipart()]
headers = {name.lower(): str(value) for name, value in message.items()}
json.dump({'headers': headers, 'parts': parts, 'type': message.get_content_type()}, sys.stdout)
";

/// A mail as a reader shows it.
#[derive(Debug, Clone, Deserialize)]
pub struct Mail {
    headers: std::collections::BTreeMap<String, String>,
    /// Content type and decoded text.
    pub parts: Vec<(String, String)>,
    #[serde(rename = "type")]
    pub kind: String,
}

impl Mail {
    pub fn read(raw: &[u8]) -> Self {
        let mut python =
            Command::new("python3").args(["-c", READER]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        python.stdin.take().unwrap().write_all(raw).unwrap();
        let output = python.wait_with_output().unwrap();
        assert!(output.status.success());
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(&name.to_lowercase()).map_or("", String::as_str)
    }
}

// ----------------------------------------------------------------
// Alerts, notifiers and captured logs for the tests.

pub fn alert(id: u64, title: &str, body: &str) -> Alert {
    Alert {
        id: AlertId(id),
        at: "2013-07-01T12:00:00Z".parse().unwrap(),
        severity: Severity::Warning,
        dedup_key: format!("drift/model_v{id}"),
        title: title.to_owned(),
        body: body.to_owned(),
    }
}

pub fn notice(title: &str, body: &str) -> Notice {
    Notice::single(alert(4, title, body))
}

pub fn group() -> Notice {
    Notice { kind: NoticeKind::Group, alerts: vec![alert(4, "one", "first"), alert(5, "two", "second")] }
}

pub fn templates() -> Arc<Templates> {
    Arc::new(Templates::load(Path::new(""), "https://delayd.example.org"))
}

pub fn slack_endpoint() -> Endpoint {
    Endpoint::of(ChannelKind::Slack)
}

pub fn mail_to(address: &str) -> Endpoint {
    Endpoint::at(ChannelKind::Mail, address)
}

/// A client of a webhook, which waits a second for an answer.
pub fn slack_at(url: &str, ca_path: &Path) -> SlackNotifier {
    let http = HttpClientSettings { connect_timeout_secs: 2, read_timeout_secs: 1, ca_path: ca_path.to_owned() };
    let settings = SlackSettings { webhook_url: Secret::new(url), http, ..SlackSettings::default() };
    assert!(settings.faults().is_empty());
    SlackNotifier::new(&settings, templates()).unwrap()
}

pub fn mail_by(settings: &MailSettings) -> MailNotifier {
    assert!(settings.faults().is_empty(), "{:?}", settings.faults());
    MailNotifier::new(settings, templates()).unwrap()
}
