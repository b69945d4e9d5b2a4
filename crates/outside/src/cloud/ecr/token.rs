//! ECR's logins: a password that holds for twelve hours, had by an AWS key.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use aws_sdk_ecr::Client;
use aws_sdk_ecr::types::AuthorizationData;
use chrono::{DateTime, Utc};
use tokio::sync::Mutex;
use tracing::instrument::WithSubscriber as _;
use tracing::subscriber::NoSubscriber;

use crate::cloud::aws::port_error;
use crate::cloud::registry::login::{Login, LoginSource};
use delayd_core::clock::{Clock as _, SystemClock};
use delayd_core::error::{ErrorKind, PortError};

/// A login is replaced this long before it expires: longer than any push takes.
const MARGIN: Duration = Duration::from_secs(15 * 60);

/// Asks ECR for logins and keeps the last one while it holds.
#[derive(Debug)]
pub(super) struct EcrLogin {
    api: Client,
    kept: Mutex<Option<Kept>>,
    /// The registry refused the one that is kept.
    refused: std::sync::atomic::AtomicBool,
}

#[derive(Debug)]
struct Kept {
    login: Login,
    good_until: Instant,
}

/// What ECR answers.
struct Granted {
    login: Login,
    life: Duration,
    host: String,
}

impl EcrLogin {
    pub(super) fn new(api: Client) -> Self {
        Self { api, kept: Mutex::default(), refused: std::sync::atomic::AtomicBool::new(false) }
    }

    /// The host that ECR names; the login that comes with it is kept.
    pub(super) async fn host(&self, action: &str) -> Result<String, PortError> {
        let mut kept = self.kept.lock().await;
        let granted = self.ask(action).await?;
        let host = granted.host.clone();
        *kept = Some(Kept::of(granted));
        Ok(host)
    }

    async fn ask(&self, action: &str) -> Result<Granted, PortError> {
        let action = format!("{action}: asking ECR for a login");
        // The SDK writes answers into the log at its lowest level, and this one is a password.
        let answer = self.api.get_authorization_token().send().with_subscriber(NoSubscriber::default()).await;
        let answer = answer.map_err(|error| port_error(&action, error))?;
        // A token's expiry is told in the world's time, whatever a replay's clock shows.
        let granted = answer.authorization_data().first().and_then(|data| Granted::read(data, SystemClock.now()));
        granted.ok_or_else(|| {
            let message = "the answer holds no login; expected a token of user and password, and a registry's address";
            PortError::new(ErrorKind::Corrupt, action, message)
        })
    }
}

impl Granted {
    fn read(data: &AuthorizationData, now: DateTime<Utc>) -> Option<Self> {
        let login = Login::from_base64(data.authorization_token()?)?;
        let host = data.proxy_endpoint()?.split_once("://").map(|(_, host)| host.trim_end_matches('/').to_owned())?;
        let secs = data.expires_at().map_or(0, |at| at.secs().saturating_sub(now.timestamp()));
        Some(Self { login, host, life: Duration::from_secs(secs.try_into().unwrap_or(0)) })
    }
}

impl Kept {
    fn of(granted: Granted) -> Self {
        Self { login: granted.login, good_until: Instant::now() + granted.life.saturating_sub(MARGIN) }
    }
}

#[async_trait]
impl LoginSource for EcrLogin {
    async fn login(&self, action: &str) -> Result<Option<Login>, PortError> {
        let mut kept = self.kept.lock().await;
        let refused = self.refused.swap(false, std::sync::atomic::Ordering::SeqCst);
        if let Some(kept) = kept.as_ref().filter(|kept| !refused && Instant::now() < kept.good_until) {
            return Ok(Some(kept.login.clone()));
        }
        let fresh = Kept::of(self.ask(action).await?);
        let login = fresh.login.clone();
        *kept = Some(fresh);
        Ok(Some(login))
    }

    fn forget(&self) {
        self.refused.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_ecr::primitives::DateTime as AwsDateTime;
    use base64::Engine as _;

    fn data(token: &str, expires_at: i64) -> AuthorizationData {
        AuthorizationData::builder()
            .authorization_token(base64::engine::general_purpose::STANDARD.encode(token))
            .expires_at(AwsDateTime::from_secs(expires_at))
            .proxy_endpoint("https://123456789012.dkr.ecr.eu-central-1.amazonaws.com")
            .build()
    }

    #[test]
    fn a_login_is_kept_until_shortly_before_it_expires() {
        let now = DateTime::from_timestamp(1_000_000, 0).unwrap();
        let granted = Granted::read(&data("AWS:s3cret", 1_000_000 + 12 * 3600), now).unwrap();
        assert_eq!((granted.login.username.as_str(), granted.life.as_secs()), ("AWS", 12 * 3600));
        assert_eq!(granted.host, "123456789012.dkr.ecr.eu-central-1.amazonaws.com");
        let left = Kept::of(granted).good_until - Instant::now();
        assert!(left > Duration::from_secs(11 * 3600) && left < Duration::from_secs(12 * 3600), "{left:?}");
        assert_eq!(Granted::read(&data("AWS:s3cret", 5), now).unwrap().life, Duration::ZERO);
        assert!(Granted::read(&data("no colon", 5), now).is_none());
    }
}
