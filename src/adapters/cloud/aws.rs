//! What every AWS service needs alike: region, credentials, deadlines and trust,
//! and one reading of what goes wrong. It knows no service.
//!
//! Credentials come from the standard chain (environment, profile files, web
//! identity, container, instance) unless keys are configured here.

use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_sdk_ecr::config::http::HttpResponse;
use aws_sdk_ecr::config::{IdentityCache, SharedHttpClient};
use aws_sdk_ecr::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::http::{HttpConnectorSettings, SharedHttpConnector, http_client_fn};

use crate::config::Secret;
use crate::error::{ErrorKind, PortError, chain};
use crate::http_client::{HttpClientSettings, kind_of_status};

/// Who asks, and from where; the part of a service's settings that all have.
#[derive(Debug, Clone, Copy)]
pub(super) struct AwsAccess<'a> {
    /// The region; the environment's or the profile's when empty.
    pub(super) region: &'a str,
    /// Profile of the shared configuration files; the chain's own choice when empty.
    pub(super) profile: &'a str,
    /// Access key; the standard chain when not set.
    pub(super) access_key_id: &'a Secret,
    /// Its secret.
    pub(super) secret_access_key: &'a Secret,
    /// Session token of temporary keys.
    pub(super) session_token: &'a Secret,
    /// Deadlines and trust.
    pub(super) http: &'a HttpClientSettings,
}

impl AwsAccess<'_> {
    /// What cannot be: the key, what was found, what was expected.
    pub(super) fn faults(&self) -> Vec<(&'static str, String, &'static str)> {
        let (id, key) = (self.access_key_id.is_set(), self.secret_access_key.is_set());
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let alone = || "set alone".to_owned();
        let checks = [
            (self.region.bytes().all(plain), "region", format!("`{}`", self.region), "a region like eu-central-1"),
            (id == key, "access_key_id", alone(), "access_key_id and secret_access_key together, or neither"),
            (key || !self.session_token.is_set(), "session_token", alone(), "a token only with the key it belongs to"),
            (!key || self.profile.is_empty(), "profile", format!("`{}`", self.profile), "a profile or a key, not both"),
        ];
        checks
            .into_iter()
            .filter(|(holds, ..)| !holds)
            .map(|(_, key, found, expected)| (key, found, expected))
            .collect()
    }

    /// What a service's client is made of. The environment and the instance may be
    /// asked for the region and the whereabouts of credentials; the service is not.
    ///
    /// # Errors
    /// When the authority's file cannot be used, or no region is to be found.
    pub(super) async fn sdk_config(&self, action: &str) -> Result<SdkConfig, PortError> {
        let deadlines = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(self.http.connect_timeout_secs))
            .read_timeout(Duration::from_secs(self.http.read_timeout_secs))
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(self.http_client(action)?)
            .timeout_config(deadlines)
            // Trying again is the port's wrapper's work, and the saga's.
            .retry_config(aws_config::retry::RetryConfig::disabled());
        if !self.region.is_empty() {
            loader = loader.region(Region::new(self.region.to_owned()));
        }
        if !self.profile.is_empty() {
            loader = loader.profile_name(self.profile);
        }
        if self.secret_access_key.is_set() {
            // Without the cache, a key that was replaced where it is kept counts at once.
            loader = loader.credentials_provider(ConfiguredKey::of(self)).identity_cache(IdentityCache::no_cache());
        }
        let config = loader.load().await;
        if config.region().is_none() {
            let message = "no AWS region is known; set `region`, AWS_REGION, or the profile's region";
            return Err(PortError::new(ErrorKind::Invalid, action, message));
        }
        Ok(config)
    }

    fn http_client(&self, action: &str) -> Result<SharedHttpClient, PortError> {
        let mut trust = TrustStore::default();
        let path = &self.http.ca_path;
        if !path.as_os_str().is_empty() {
            // Our own client refuses a file that is no certificate; the SDK's would panic.
            self.http.client(action)?;
            let pem = std::fs::read(path)
                .map_err(|error| PortError::io(format!("{action}: CA file {}", path.display()), error))?;
            trust = trust.with_pem_certificate(pem);
        }
        let tls = TlsContext::builder()
            .with_trust_store(trust)
            .build()
            .map_err(|error| PortError::new(ErrorKind::Internal, action, chain(&error)))?;
        let deadlines = HttpConnectorSettings::builder()
            .connect_timeout(Duration::from_secs(self.http.connect_timeout_secs))
            .read_timeout(Duration::from_secs(self.http.read_timeout_secs))
            .build();
        let connector = Connector::builder()
            .connector_settings(deadlines)
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .tls_context(tls)
            .proxy_config(ProxyConfig::from_env())
            .build();
        let connector = SharedHttpConnector::new(connector);
        Ok(http_client_fn(move |_, _| connector.clone()))
    }
}

/// Whether a text is `http(s)://host[:port][/path]` and can be shown to anybody:
/// without user, query or fragment.
pub(super) fn is_base_url(text: &str) -> bool {
    reqwest::Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    })
}

/// The configured key, read where it is kept whenever the SDK asks for it.
#[derive(Debug)]
struct ConfiguredKey {
    access_key_id: Secret,
    secret_access_key: Secret,
    session_token: Secret,
}

impl ConfiguredKey {
    fn of(access: &AwsAccess<'_>) -> Self {
        Self {
            access_key_id: access.access_key_id.clone(),
            secret_access_key: access.secret_access_key.clone(),
            session_token: access.session_token.clone(),
        }
    }

    fn read(&self) -> Result<Credentials, PortError> {
        let action = "reading the AWS access key";
        let (id, secret) = (self.access_key_id.reveal(action)?, self.secret_access_key.reveal(action)?);
        let token = self.session_token.is_set().then(|| self.session_token.reveal(action)).transpose()?;
        Ok(Credentials::new(id, secret, token, None, "delayd configuration"))
    }
}

impl ProvideCredentials for ConfiguredKey {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(self.read().map_err(CredentialsError::provider_error))
    }
}

/// What a failed call of an AWS service stands for. `action` says what was tried on what.
pub(super) fn port_error<E>(action: &str, error: &SdkError<E, HttpResponse>) -> PortError
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    match error {
        SdkError::ServiceError(answer) => {
            let (code, status) = (answer.err().code().unwrap_or("no code"), answer.raw().status().as_u16());
            let said = answer.err().message().unwrap_or("no message");
            let message = format!("answered {status} {code}: {said}{}", advice(code));
            PortError::new(kind_of_code(code, status), action, message)
        }
        SdkError::ResponseError(answer) => {
            let status = answer.raw().status().as_u16();
            let kind = if answer.raw().status().is_success() { ErrorKind::Unavailable } else { kind_of_status(status) };
            PortError::new(kind, action, format!("answered {status} with a body that cannot be read: {}", chain(error)))
        }
        SdkError::TimeoutError(_) => PortError::new(ErrorKind::Timeout, action, chain(error)),
        _ => no_answer(action, error),
    }
}

fn no_answer<E>(action: &str, error: &SdkError<E, HttpResponse>) -> PortError
where
    E: std::error::Error + 'static,
{
    let text = chain(error);
    let lower = text.to_lowercase();
    let failed = match error {
        SdkError::DispatchFailure(failure) => failure,
        _ => return PortError::new(ErrorKind::Invalid, action, text),
    };
    if failed.is_timeout() {
        PortError::new(ErrorKind::Timeout, action, text)
    } else if lower.contains("certificate") {
        let message = format!("{text}; the endpoint's certificate is not trusted: name its authority by http.ca_path");
        PortError::new(ErrorKind::Unavailable, action, message)
    } else if lower.contains("credentials") {
        let message = format!("{text}; no AWS credentials could be had: set a key, a profile, or an instance role");
        PortError::new(ErrorKind::Denied, action, message)
    } else {
        PortError::new(ErrorKind::Unavailable, action, text)
    }
}

/// Many services answer 400 to everything and tell apart by the code alone
/// (AWS, "Common errors" of each API reference).
fn kind_of_code(code: &str, status: u16) -> ErrorKind {
    match code {
        "AccessDenied"
        | "AccessDeniedException"
        | "ExpiredTokenException"
        | "IncompleteSignature"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "MissingAuthenticationTokenException"
        | "OptInRequired"
        | "UnrecognizedClientException" => ErrorKind::Denied,
        "RequestLimitExceeded" | "ServerException" | "Throttling" | "ThrottlingException" => ErrorKind::Unavailable,
        "LimitExceededException" => ErrorKind::Exhausted,
        _ => kind_of_status(status),
    }
}

fn advice(code: &str) -> &'static str {
    match code {
        "InvalidSignatureException" => "; is the secret key right, and the machine's clock?",
        "UnrecognizedClientException" | "InvalidClientTokenId" => "; is the access key right, and of this partition?",
        "ExpiredTokenException" => "; the session token has expired: replace it",
        "AccessDenied" | "AccessDeniedException" => "; the role lacks this right",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_key_or_a_key_beside_a_profile_is_told() {
        let (none, some, http) = (Secret::default(), Secret::new("s3cret"), HttpClientSettings::default());
        let nothing = AwsAccess {
            region: "",
            profile: "",
            access_key_id: &none,
            secret_access_key: &none,
            session_token: &none,
            http: &http,
        };
        assert_eq!(nothing.faults(), []);
        let keys = |access: AwsAccess<'_>| -> Vec<_> { access.faults().into_iter().map(|(key, ..)| key).collect() };
        assert_eq!(
            keys(AwsAccess { region: "EU Central", access_key_id: &some, ..nothing }),
            ["region", "access_key_id"]
        );
        assert_eq!(keys(AwsAccess { session_token: &some, ..nothing }), ["session_token"]);
        let full = AwsAccess { access_key_id: &some, secret_access_key: &some, ..nothing };
        assert_eq!(keys(AwsAccess { profile: "prod", ..full }), ["profile"]);
    }

    #[test]
    fn a_base_url_holds_nothing_secret() {
        for (text, fits) in [
            ("https://vpce-1.ecr.eu-central-1.amazonaws.com", true),
            ("http://127.0.0.1:5555", true),
            ("https://user:s3cret@host", false),
            ("https://host/?token=s3cret", false),
            ("host:5555", false),
        ] {
            assert_eq!(is_base_url(text), fits, "{text}");
        }
    }

    #[test]
    fn a_code_tells_more_than_a_status() {
        for (code, status, kind) in [
            ("AccessDeniedException", 400, ErrorKind::Denied),
            ("UnrecognizedClientException", 400, ErrorKind::Denied),
            ("ThrottlingException", 400, ErrorKind::Unavailable),
            ("LimitExceededException", 400, ErrorKind::Exhausted),
            ("InvalidParameterException", 400, ErrorKind::Invalid),
            ("no code", 503, ErrorKind::Unavailable),
        ] {
            assert_eq!(kind_of_code(code, status), kind, "{code}");
        }
    }

    #[tokio::test]
    async fn a_configured_key_is_read_at_each_use() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "one\n").unwrap();
        let key = ConfiguredKey {
            access_key_id: Secret::new("AKID"),
            secret_access_key: Secret::new(format!("file:{}", file.path().display())),
            session_token: Secret::default(),
        };
        assert_eq!(key.provide_credentials().await.unwrap().secret_access_key(), "one");
        std::fs::write(file.path(), "two\n").unwrap();
        assert_eq!(key.provide_credentials().await.unwrap().secret_access_key(), "two");
        std::fs::remove_file(file.path()).unwrap();
        let error = chain(&key.provide_credentials().await.unwrap_err());
        assert!(error.contains(&file.path().display().to_string()), "{error}");
    }
}
