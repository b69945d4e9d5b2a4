//! Alerts, notifiers and captured logs for the tests.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use delayd_core::http_client::HttpClientSettings;
use delayd_core::ids::AlertId;
use delayd_core::ports::{Alert, ChannelKind, Endpoint, Notice, NoticeKind, Severity};
use delayd_core::secret::Secret;
use delayd_outside::cloud::{MailNotifier, MailSettings, SlackNotifier, SlackSettings};
use delayd_outside::templates::Templates;

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

/// Everything that this process logs from now on, at the finest level. A subscriber
/// of one thread would miss what another thread's test has met first.
#[derive(Clone, Default)]
pub struct CapturedLog(Arc<Mutex<Vec<u8>>>);

impl CapturedLog {
    pub fn begin() -> Self {
        let captured = Self::default();
        let writer = captured.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
        captured
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for CapturedLog {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
