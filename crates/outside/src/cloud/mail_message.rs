//! A notice as a mail: plain text and HTML, and headers by which it is recognised.

use lettre::Message;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};

use crate::templates::{TemplateName, Templates};
use delayd_core::ports::{Notice, Severity};

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
