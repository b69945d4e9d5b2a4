//! Mail by SMTP (RFC 5321): STARTTLS (RFC 3207), implicit TLS (RFC 8314), or no
//! encryption for a relay on this machine; login by AUTH PLAIN or LOGIN.
//!
//! Each recipient is delivered to in a transaction of its own, so that one who is
//! refused or greylisted costs the others nothing and nobody gets a mail twice.
//! The header names all of them. It reads no mail, follows no bounces, and never
//! falls back to a connection that is less safe than the configured one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lettre::Message;
use lettre::address::Envelope;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::client::{AsyncSmtpConnection, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use tokio::sync::Mutex;

use super::mail_session::{Deadline, SessionError, connect, tls_parameters};
pub use super::mail_session::{MailSettings, MailTls};
use crate::templates::{TemplateName, Templates};
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ports::{ChannelKind, Endpoint, Notice, Notifier, Severity, Undelivered};

/// A connection that was not used for this long is not used again: servers drop
/// idle clients after minutes (RFC 5321, 4.5.3.2.7).
const MAX_IDLE: Duration = Duration::from_secs(60);

/// Sends mail through one server.
pub struct MailNotifier {
    settings: MailSettings,
    headers: MailHeaders,
    recipients: Vec<Mailbox>,
    hello: ClientId,
    tls: Option<TlsParameters>,
    templates: Arc<Templates>,
    /// The connection of the last delivery, for the next one.
    parked: Mutex<Option<Parked>>,
}

struct Parked {
    connection: AsyncSmtpConnection,
    since: std::time::Instant,
}

impl std::fmt::Debug for MailNotifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MailNotifier").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl MailNotifier {
    /// A notifier; nothing is connected yet.
    pub fn new(settings: &MailSettings, templates: Arc<Templates>) -> Result<Self, PortError> {
        let action = "setting up mail";
        let mailbox = |text: &str| {
            text.parse::<Mailbox>().map_err(|error| {
                PortError::new(ErrorKind::Invalid, action, format!("`{text}` is not an address: {error}"))
            })
        };
        let recipients = settings.to.iter().map(|text| mailbox(text)).collect::<Result<Vec<_>, _>>()?;
        let from = mailbox(&settings.from)?;
        let hello = match settings.ehlo_name.as_str() {
            "" => ClientId::default(),
            name => ClientId::Domain(name.to_owned()),
        };
        let headers = MailHeaders { from, to: recipients.clone(), subject_prefix: settings.subject_prefix.clone() };
        let tls = match settings.tls {
            MailTls::None => None,
            MailTls::Starttls | MailTls::Implicit => Some(tls_parameters(&settings.server, &settings.ca_path)?),
        };
        let parked = Mutex::default();
        Ok(Self { settings: settings.clone(), headers, recipients, hello, tls, templates, parked })
    }

    fn deadline(&self) -> Deadline {
        Deadline::of(Duration::from_secs(self.settings.timeout_secs))
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, SessionError> {
        connect(&self.settings, &self.hello, self.tls.as_ref(), self.deadline()).await
    }

    /// The parked connection if it still answers, or a new one.
    async fn connection(&self, parked: &mut Option<Parked>) -> Result<AsyncSmtpConnection, SessionError> {
        if let Some(Parked { mut connection, since }) = parked.take() {
            let fresh = since.elapsed() < MAX_IDLE && !connection.has_broken();
            if fresh && tokio::time::timeout(self.deadline().left(), connection.test_connected()).await == Ok(true) {
                return Ok(connection);
            }
            hang_up(connection).await;
        }
        self.connect().await
    }

    fn action(&self, what: &str) -> String {
        format!("{what} by {}:{}", self.settings.server, self.settings.port())
    }
}

/// Ends a connection politely, but does not wait long for the other side.
async fn hang_up(mut connection: AsyncSmtpConnection) {
    // It ends either way; there is nothing to be done about a server that says no goodbye.
    let _ = tokio::time::timeout(Duration::from_secs(2), connection.abort()).await;
}

#[async_trait]
impl Notifier for MailNotifier {
    fn endpoints(&self) -> Vec<Endpoint> {
        let addresses = self.recipients.iter().map(|recipient| recipient.email.to_string());
        addresses.map(|address| Endpoint::at(ChannelKind::Mail, address)).collect()
    }

    async fn deliver(&self, endpoint: &Endpoint, notice: &Notice) -> Result<(), Undelivered> {
        let action = self.action(&format!("mail to {}", endpoint.address));
        let invalid = |message: String| PortError::new(ErrorKind::Invalid, action.clone(), message);
        let recipient = endpoint.address.parse().map_err(|error| invalid(format!("no address: {error}")))?;
        let message = mail(&self.headers, &self.templates, notice).map_err(invalid)?;
        let envelope = Envelope::new(Some(self.headers.from.email.clone()), vec![recipient])
            .map_err(|error| invalid(error.to_string()))?;
        let mut parked = self.parked.lock().await;
        let mut connection =
            self.connection(&mut parked).await.map_err(|error| error.undelivered(&action, &self.settings))?;
        let deadline = self.deadline();
        match deadline.keep("sending", connection.send(&envelope, &message.formatted())).await {
            Ok(_) => {
                *parked = Some(Parked { connection, since: std::time::Instant::now() });
                Ok(())
            }
            Err(error) => {
                hang_up(connection).await;
                Err(error.undelivered(&action, &self.settings))
            }
        }
    }

    /// Connects, says EHLO, encrypts, logs in, NOOP, QUIT: no mail is started.
    async fn probe(&self) -> Result<String, PortError> {
        let action = self.action("asking for mail");
        let failed = |error: SessionError| error.undelivered(&action, &self.settings).into_error();
        let mut connection = self.connect().await.map_err(failed)?;
        let deadline = self.deadline();
        let noop = deadline.keep("NOOP", connection.command(lettre::transport::smtp::commands::Noop)).await;
        let encrypted = if connection.is_encrypted() { "encrypted" } else { "not encrypted" };
        hang_up(connection).await;
        noop.map_err(failed)?;
        let user = match self.settings.username.as_str() {
            "" => "without login".to_owned(),
            user => format!("logged in as {user}"),
        };
        let address = format!("{}:{}", self.settings.server, self.settings.port());
        Ok(format!("{address}, {encrypted}, {user}, to {}", self.settings.to.join(", ")))
    }
}

/// What every mail has in common.
#[derive(Debug, Clone)]
pub(super) struct MailHeaders {
    pub(super) from: Mailbox,
    pub(super) to: Vec<Mailbox>,
    pub(super) subject_prefix: String,
}

/// The mail of a notice. Its Message-ID follows from the alerts alone, its date is
/// the newest alert's: repeated after a crash it is the same mail, and mail
/// programs show it once.
pub(super) fn mail(headers: &MailHeaders, templates: &Templates, notice: &Notice) -> Result<Message, String> {
    let subject = one_line(&templates.render(TemplateName::MailSubject, notice, &headers.subject_prefix));
    let text = templates.render(TemplateName::MailText, notice, &headers.subject_prefix);
    let html = templates.render(TemplateName::MailHtml, notice, &headers.subject_prefix);
    let mut builder = Message::builder()
        .from(headers.from.clone())
        .subject(subject)
        .message_id(Some(format!("<delayd.{}@{}>", notice.identity(), headers.from.email.domain())))
        .date(notice.at().into());
    for recipient in &headers.to {
        builder = builder.to(recipient.clone());
    }
    let alerts: Vec<String> = notice.alerts.iter().map(|alert| alert.id.to_string()).collect();
    // RFC 3834: no holiday notes in answer to this.
    let mut marks = vec![
        ("Auto-Submitted", "auto-generated".to_owned()),
        ("X-Delayd-Alerts", alerts.join(", ")),
        ("X-Delayd-Severity", notice.severity().to_string()),
    ];
    if notice.severity() == Severity::Critical {
        marks.push(("Importance", "high".to_owned()));
    }
    for (name, value) in marks {
        builder = builder.raw_header(HeaderValue::new(HeaderName::new_from_ascii_str(name), value));
    }
    builder.multipart(MultiPart::alternative_plain_html(text, html)).map_err(|error| error.to_string())
}

/// A header's value is one line.
fn one_line(text: &str) -> String {
    text.split(|c: char| c.is_control()).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use delayd_core::ids::AlertId;
    use delayd_core::ports::Alert;

    fn notice(title: &str) -> Notice {
        Notice::single(Alert {
            id: AlertId(4),
            at: "2013-07-01T12:00:00Z".parse().unwrap(),
            severity: Severity::Critical,
            dedup_key: "cycle/cycle_3".into(),
            title: title.into(),
            body: "Zürich is late.".into(),
        })
    }

    fn formatted(notice: &Notice) -> String {
        let headers = MailHeaders {
            from: "delayd <delayd@example.org>".parse().unwrap(),
            to: vec!["ops@example.org".parse().unwrap(), "boss <boss@example.org>".parse().unwrap()],
            subject_prefix: "[delayd] ".into(),
        };
        String::from_utf8(mail(&headers, &Templates::built_in(), notice).unwrap().formatted()).unwrap()
    }

    #[test]
    fn a_mail_is_recognised_by_its_headers() {
        let text = formatted(&notice("cycle_3 is stuck"));
        for line in [
            "From: delayd <delayd@example.org>\r\n",
            "To: ops@example.org, boss <boss@example.org>\r\n",
            "Subject: [delayd] [critical] cycle_3 is stuck\r\n",
            "Date: Mon, 01 Jul 2013 12:00:00 +0000\r\n",
            "Auto-Submitted: auto-generated\r\n",
            "X-Delayd-Alerts: alert_4\r\n",
            "Importance: high\r\n",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        let id = |text: &str| text.lines().find(|line| line.starts_with("Message-ID: ")).unwrap().to_owned();
        assert_eq!(id(&text), id(&formatted(&notice("told otherwise"))), "the same alert is the same mail");
        assert!(text.is_ascii(), "any server takes it");
    }

    #[test]
    fn a_title_cannot_add_headers() {
        let text = formatted(&notice("late\r\nBcc: everybody@example.org\r\n\r\nhello"));
        let text = text.split("\r\n\r\n").next().unwrap();
        assert!(!text.lines().any(|line| line.starts_with("Bcc:")), "{text}");
        assert!(text.contains("Subject: [delayd] [critical] late Bcc: everybody@example.org hello"), "{text}");
    }
}
