//! `[notification.mail]`, and a session with the mail server that it names, up to the login, with what its failures mean.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lettre::message::Mailbox;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use serde::{Deserialize, Serialize};

use crate::cloud::Faults;
use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::fault::Fault;
use delayd_core::ports::Undelivered;
use delayd_core::secret::Secret;

/// The longest part of a server's answer that goes into an error, in characters.
const EXCERPT_CHARS: usize = 300;

/// How long the steps of a session may take together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    begun: std::time::Instant,
    limit: Duration,
}

impl Deadline {
    pub(super) fn of(limit: Duration) -> Self {
        Self { begun: std::time::Instant::now(), limit }
    }

    pub(super) fn left(&self) -> Duration {
        self.limit.saturating_sub(self.begun.elapsed())
    }

    /// One step, given what time is left.
    pub(super) async fn keep<T>(
        &self,
        step: &'static str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, SessionError> {
        match tokio::time::timeout(self.left(), work).await {
            Ok(answer) => answer.map_err(|source| SessionError::Smtp { step, source }),
            Err(_) => Err(SessionError::TooSlow { step, limit: self.limit }),
        }
    }
}

/// Why a session failed.
#[derive(Debug)]
pub(super) enum SessionError {
    /// The server said so, or the connection failed.
    Smtp { step: &'static str, source: Error },
    /// It did not finish in time.
    TooSlow { step: &'static str, limit: Duration },
    /// The server lacks what the configuration asks for.
    Unfit(&'static str),
    /// The password is nowhere.
    Password(PortError),
}

impl SessionError {
    /// What it means for the notice. Nothing of the login is ever in it.
    pub(super) fn undelivered(self, action: &str, settings: &MailSettings) -> Undelivered {
        match self {
            Self::Smtp { step, source } => {
                let (kind, channel_away) = meaning(step, &source);
                let said = without_login(&chain(&source), settings);
                let said: String = said.chars().take(EXCERPT_CHARS).collect();
                let text = format!("{step}: {said}{}", advice(step, kind, &said));
                Undelivered::from(PortError::new(kind, action, text)).with_channel_away(channel_away)
            }
            Self::TooSlow { step, limit } => {
                let message = format!("{step}: not done within {} s", limit.as_secs_f32());
                PortError::new(ErrorKind::Timeout, action, message).into()
            }
            Self::Unfit(message) => {
                Undelivered::from(PortError::new(ErrorKind::Denied, action, message)).with_channel_away(true)
            }
            Self::Password(error) => Undelivered::from(error).with_channel_away(true),
        }
    }
}

/// The kind of a failure, and whether it concerns the channel as a whole: an
/// answer while sending is about this mail, unless it says that the service
/// closes (421, RFC 5321, 3.8).
fn meaning(step: &str, error: &Error) -> (ErrorKind, bool) {
    let Some(status) = error.status() else {
        let kind = if error.is_timeout() { ErrorKind::Timeout } else { ErrorKind::Unavailable };
        // The client's own objections (no common login mechanism, no SMTPUTF8) are no outage.
        return if error.is_client() { (ErrorKind::Denied, step != "sending") } else { (kind, true) };
    };
    let status = u16::from(status);
    let kind = match status {
        530 | 534 | 535 | 538 => ErrorKind::Denied,
        452 | 552 => ErrorKind::Exhausted,
        400..=499 => ErrorKind::Unavailable,
        500..=599 if step == "sending" => ErrorKind::Invalid,
        _ => ErrorKind::Denied,
    };
    (kind, step != "sending" || matches!(status, 421 | 530))
}

fn advice(step: &str, kind: ErrorKind, said: &str) -> &'static str {
    if said.contains("certificate") {
        "; the server's certificate is not trusted for this name: notification.mail.ca_path names its authority"
    } else if step == "login" && kind == ErrorKind::Denied {
        "; check notification.mail.username and password"
    } else {
        ""
    }
}

/// A server's words without the login, should it repeat it: the password, and the
/// forms in which AUTH PLAIN and LOGIN send it (RFC 4616).
fn without_login(text: &str, settings: &MailSettings) -> String {
    let Ok(password) = settings.password.reveal("hiding the password") else { return text.to_owned() };
    if password.is_empty() {
        return text.to_owned();
    }
    let plain = STANDARD.encode(format!("\0{}\0{password}", settings.username));
    let login = STANDARD.encode(&password);
    [plain, login, password].iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***"))
}

/// The client's side of TLS: the system's authorities, and one of our own.
pub(super) fn tls_parameters(server: &str, ca_path: &Path) -> Result<TlsParameters, PortError> {
    let action = "setting up mail";
    let mut builder = TlsParameters::builder(server.to_owned());
    if !ca_path.as_os_str().is_empty() {
        let path = ca_path.display();
        let pem = std::fs::read(ca_path).map_err(|error| PortError::io(format!("{action}: CA file {path}"), error))?;
        let invalid = |message: String| PortError::new(ErrorKind::Invalid, action, message);
        if !String::from_utf8_lossy(&pem).contains("BEGIN CERTIFICATE") {
            return Err(invalid(format!("CA file {path} holds no certificate; expected certificates in PEM")));
        }
        let certificate = Certificate::from_pem(&pem)
            .map_err(|error| invalid(format!("CA file {path} is malformed ({})", chain(&error))))?;
        builder = builder.add_root_certificate(certificate);
    }
    builder.build().map_err(|error| PortError::new(ErrorKind::Invalid, action, chain(&error)))
}

/// Connects, says EHLO, encrypts and logs in, as configured.
pub(super) async fn connect(
    settings: &MailSettings,
    hello: &ClientId,
    tls: Option<&TlsParameters>,
    deadline: Deadline,
) -> Result<AsyncSmtpConnection, SessionError> {
    let implicit = tls.filter(|_| settings.tls == MailTls::Implicit).cloned();
    let address = (settings.server.as_str(), settings.port());
    let opened = AsyncSmtpConnection::connect_tokio1(address, None, hello, implicit, None);
    let mut connection = deadline.keep("connecting", opened).await?;
    if let Some(tls) = tls.filter(|_| settings.tls == MailTls::Starttls) {
        if !connection.can_starttls() {
            return Err(SessionError::Unfit(
                "the server does not offer STARTTLS, and nothing is sent unencrypted; notification.mail.tls says how \
                 it is to be encrypted",
            ));
        }
        deadline.keep("STARTTLS", connection.starttls(tls.clone(), hello)).await?;
    }
    if !settings.username.is_empty() {
        let password = settings.password.reveal("logging in to the mail server").map_err(SessionError::Password)?;
        let credentials = Credentials::new(settings.username.clone(), password);
        let mechanisms = [Mechanism::Plain, Mechanism::Login];
        deadline.keep("login", connection.auth(&mechanisms, &credentials)).await?;
    }
    Ok(connection)
}

/// How the connection to the mail server is encrypted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MailTls {
    /// Not at all: for a relay on this machine.
    None,
    /// By STARTTLS, without which nothing is sent.
    #[default]
    Starttls,
    /// From the first byte.
    Implicit,
}

/// `[notification.mail]`: mail by SMTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MailSettings {
    /// The mail server's host; also the name its certificate must have.
    pub server: String,
    /// Its port; 0 for the usual one: 587 with STARTTLS, 465 with implicit TLS, 25 without.
    pub port: u16,
    /// How the connection is encrypted.
    pub tls: MailTls,
    /// PEM file of a certificate authority to trust besides the system's; none when empty.
    pub ca_path: PathBuf,
    /// Whom to log in as; no login when empty.
    pub username: String,
    /// The password.
    pub password: Secret,
    /// The sender: `delayd <delayd@example.org>`.
    pub from: String,
    /// The recipients; each gets a mail of its own.
    pub to: Vec<String>,
    /// What every subject begins with.
    pub subject_prefix: String,
    /// The name given with EHLO; this machine's when empty.
    pub ehlo_name: String,
    /// Seconds for connecting and logging in, and again for sending.
    pub timeout_secs: u64,
    /// Mails per minute to one recipient, critical ones not bound; 0 for no bound.
    pub messages_per_minute: u32,
}

impl Default for MailSettings {
    fn default() -> Self {
        Self {
            server: String::new(),
            port: 0,
            tls: MailTls::default(),
            ca_path: PathBuf::new(),
            username: String::new(),
            password: Secret::default(),
            from: String::new(),
            to: Vec::new(),
            subject_prefix: "[delayd] ".to_owned(),
            ehlo_name: String::new(),
            timeout_secs: 20,
            messages_per_minute: 10,
        }
    }
}

impl MailSettings {
    /// The port in force.
    #[must_use]
    pub fn port(&self) -> u16 {
        match (self.port, self.tls) {
            (0, MailTls::None) => 25,
            (0, MailTls::Starttls) => 587,
            (0, MailTls::Implicit) => 465,
            (port, _) => port,
        }
    }

    fn is_on_this_machine(&self) -> bool {
        self.server == "localhost" || self.server.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// Everything that cannot be.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults::of("notification.mail");
        let is_mailbox = |text: &str| text.parse::<Mailbox>().is_ok();
        faults.check(!self.server.is_empty(), "server", "", "the mail server's host");
        let sender = "a sender such as `delayd <delayd@example.org>`";
        faults.check(is_mailbox(&self.from), "from", &self.from, sender);
        faults.check(!self.to.is_empty(), "to", "", "one recipient or more");
        for recipient in &self.to {
            faults.check(is_mailbox(recipient), "to", recipient, "addresses such as ops@example.org");
        }
        faults.check((1..=50).contains(&self.timeout_secs), "timeout_secs", self.timeout_secs, "1 to 50 seconds");
        let logs_in = !self.username.is_empty();
        let found = if self.password.is_set() { "set" } else { "" };
        let both = logs_in == self.password.is_set();
        faults.check(both, "password", found, "a password with every username, and none without");
        let safe = !logs_in || self.tls != MailTls::None || self.is_on_this_machine();
        faults.check(safe, "tls", "none", "starttls or implicit: the password would go out unencrypted");
        faults.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use delayd_core::secret::Secret;

    #[test]
    fn a_server_that_repeats_the_login_does_not_give_it_away() {
        let settings =
            MailSettings { username: "delayd".into(), password: Secret::new("s3cret"), ..MailSettings::default() };
        let plain = STANDARD.encode("\0delayd\0s3cret");
        let said = format!("501 what is AUTH PLAIN {plain}, {}, s3cret?", STANDARD.encode("s3cret"));
        assert_eq!(without_login(&said, &settings), "501 what is AUTH PLAIN ***, ***, ***?");
        assert_eq!(without_login("535 no", &MailSettings::default()), "535 no");
    }

    #[test]
    fn a_ca_file_must_hold_a_certificate() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = tls_parameters("smtp.example.org", file.path()).err().unwrap().to_string();
        assert!(error.contains("PEM") && error.contains(&file.path().display().to_string()), "{error}");
        let missing = tls_parameters("smtp.example.org", Path::new("/nowhere/ca.pem")).err().unwrap();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }
}

#[cfg(test)]
mod mail_settings_tests {
    use super::*;

    fn good() -> MailSettings {
        MailSettings {
            server: "smtp.example.org".into(),
            from: "delayd <delayd@example.org>".into(),
            to: vec!["ops@example.org".into()],
            username: "delayd".into(),
            password: Secret::new("s3cret"),
            ..MailSettings::default()
        }
    }

    #[test]
    fn every_wrong_value_is_told_and_the_password_never() {
        assert!(good().faults().is_empty());
        type Spoil = fn(&mut MailSettings);
        let table: [(&str, Spoil); 7] = [
            ("server", |mail| mail.server.clear()),
            ("from", |mail| mail.from = "nobody".into()),
            ("to", |mail| mail.to.clear()),
            ("to", |mail| mail.to.push("ops@".into())),
            ("timeout_secs", |mail| mail.timeout_secs = 0),
            ("password", |mail| mail.username.clear()),
            ("tls", |mail| mail.tls = MailTls::None),
        ];
        for (key, spoil) in table {
            let mut mail = good();
            spoil(&mut mail);
            let told: Vec<String> = mail.faults().iter().map(ToString::to_string).collect();
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(told[0].starts_with(&format!("notification.mail.{key} is ")) && !told[0].contains("s3cret"));
        }
        let relay = MailSettings { server: "127.0.0.1".into(), tls: MailTls::None, ..good() };
        assert!(relay.faults().is_empty(), "a password may go to this machine");
    }

    #[test]
    fn the_usual_port_follows_from_the_encryption() {
        let of = |tls, port| MailSettings { tls, port, ..MailSettings::default() }.port();
        assert_eq!([of(MailTls::None, 0), of(MailTls::Starttls, 0), of(MailTls::Implicit, 0)], [25, 587, 465]);
        assert_eq!(of(MailTls::Implicit, 2525), 2525);
    }
}
