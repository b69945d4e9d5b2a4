//! Tells alerts to the log, for a daemon that has nobody else to tell. The
//! ledger keeps them too; this adapter stores nothing.

use async_trait::async_trait;

use delayd_core::error::PortError;
use delayd_core::ports::{Alert, ChannelKind, Endpoint, Notice, Notifier, Severity, Undelivered};

/// One log event per alert, at the level of its severity.
#[derive(Debug, Default, Clone, Copy)]
pub struct LogNotifier;

fn tell(alert: &Alert) {
    macro_rules! tell {
        ($level:ident) => {
            tracing::$level!(
                alert.id = %alert.id,
                alert.at = %alert.at.to_rfc3339(),
                alert.severity = %alert.severity,
                alert.dedup_key = %alert.dedup_key,
                alert.body = %alert.body,
                "{}", alert.title
            )
        };
    }
    match alert.severity {
        Severity::Info => tell!(info),
        Severity::Warning => tell!(warn),
        Severity::Critical => tell!(error),
    }
}

#[async_trait]
impl Notifier for LogNotifier {
    fn endpoints(&self) -> Vec<Endpoint> {
        vec![Endpoint::of(ChannelKind::Log)]
    }

    async fn deliver(&self, _: &Endpoint, notice: &Notice) -> Result<(), Undelivered> {
        notice.alerts.iter().for_each(tell);
        Ok(())
    }

    async fn probe(&self) -> Result<String, PortError> {
        Ok("alerts go to the log".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;
    use delayd_core::ids::AlertId;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_critical_alert_is_one_error_event_with_its_fields() {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let guard = tracing::subscriber::set_default(subscriber);
        let alert = Alert {
            id: AlertId(4),
            at: chrono::DateTime::UNIX_EPOCH,
            severity: Severity::Critical,
            dedup_key: "cycle_3/rollback".into(),
            title: "rollback failed".into(),
            body: "no replica is ready".into(),
        };
        LogNotifier.deliver(&Endpoint::of(ChannelKind::Log), &Notice::single(alert)).await.unwrap();
        drop(guard);
        let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        for part in ["ERROR", "rollback failed", "alert_4", "cycle_3/rollback", "no replica is ready"] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }
}
