//! `[notification.mail]`.

use std::net::IpAddr;
use std::path::PathBuf;

use lettre::message::Mailbox;
use serde::{Deserialize, Serialize};

use delayd_core::fault::Fault;
use delayd_core::secret::Secret;

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
        let mut faults = Vec::new();
        let mut check = |holds: bool, key: &str, found: String, expected: &str| {
            if !holds {
                faults.push(Fault { key: format!("notification.mail.{key}"), found, expected: expected.to_owned() });
            }
        };
        let is_mailbox = |text: &str| text.parse::<Mailbox>().is_ok();
        check(!self.server.is_empty(), "server", "empty".to_owned(), "the mail server's host");
        let sender = "a sender such as `delayd <delayd@example.org>`";
        check(is_mailbox(&self.from), "from", format!("`{}`", self.from), sender);
        check(!self.to.is_empty(), "to", "empty".to_owned(), "one recipient or more");
        for recipient in &self.to {
            check(is_mailbox(recipient), "to", format!("`{recipient}`"), "addresses such as ops@example.org");
        }
        check((1..=50).contains(&self.timeout_secs), "timeout_secs", self.timeout_secs.to_string(), "1 to 50 seconds");
        let logs_in = !self.username.is_empty();
        let told = if self.password.is_set() { "set" } else { "empty" };
        let both = logs_in == self.password.is_set();
        check(both, "password", told.to_owned(), "a password with every username, and none without");
        let safe = !logs_in || self.tls != MailTls::None || self.is_on_this_machine();
        check(safe, "tls", "`none`".to_owned(), "starttls or implicit: the password would go out unencrypted");
        faults
    }
}

#[cfg(test)]
mod tests {
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
