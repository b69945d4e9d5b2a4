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
use aws_sdk_ecr::config::SharedHttpClient;
use aws_sdk_ecr::config::http::HttpResponse;
use aws_sdk_ecr::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector};
use serde::{Deserialize, Serialize};

use crate::config::{Fault, Secret};
use crate::error::{ErrorKind, PortError, chain};
use crate::http_client::{HttpClientSettings, kind_of_status};

/// How an AWS service is reached and who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AwsSettings {
    /// The region, `eu-central-1`; from the environment or the profile when empty.
    pub region: String,
    /// Base URL of the API: a VPC endpoint, or a service that speaks the same protocol; AWS's own when empty.
    pub endpoint: String,
    /// Profile of the shared configuration files; the environment's, or `default`, when empty.
    pub profile: String,
    /// Access key; the standard credential chain when empty.
    pub access_key_id: String,
    /// Secret of the access key.
    pub secret_access_key: Secret,
    /// Session token that belongs to a temporary key.
    pub session_token: Secret,
    /// Deadlines and trust.
    pub http: HttpClientSettings,
}

impl AwsSettings {
    /// Every value that cannot be; `section` is where the settings stand.
    #[must_use]
    pub fn faults(&self, section: &str) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut check = |holds: bool, key: &str, found: String, expected: &str| {
            if !holds {
                faults.push(Fault { key: format!("{section}.{key}"), found, expected: expected.to_owned() });
            }
        };
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        check(plain(&self.region), "region", format!("`{}`", self.region), "a region like eu-central-1");
        check(
            self.endpoint.is_empty() || is_base_url(&self.endpoint),
            "endpoint",
            "not a base URL".to_owned(),
            "http:// or https://, a host and nothing secret, or nothing",
        );
        check(
            self.access_key_id.is_empty() != self.secret_access_key.is_set(),
            "secret_access_key",
            if self.secret_access_key.is_set() { "set alone" } else { "missing" }.to_owned(),
            "both access_key_id and secret_access_key, or neither",
        );
        check(
            self.access_key_id.is_empty() || self.profile.is_empty(),
            "profile",
            format!("`{}`", self.profile),
            "a profile or an access key, not both",
        );
        check(
            !self.session_token.is_set() || self.secret_access_key.is_set(),
            "session_token",
            "set alone".to_owned(),
            "a session token only with the key that it belongs to",
        );
        faults
    }

    /// What an SDK client is made of. May ask the instance for region and credentials' whereabouts.
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
            loader = loader.region(Region::new(self.region.clone()));
        }
        if !self.profile.is_empty() {
            loader = loader.profile_name(&self.profile);
        }
        if !self.access_key_id.is_empty() {
            loader = loader.credentials_provider(ConfiguredKey::of(self));
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
            // Reading it the strict way first: the SDK panics over a file that is no certificate.
            self.http.client(action)?;
            let pem = std::fs::read(path)
                .map_err(|error| PortError::io(format!("{action}: CA file {}", path.display()), error))?;
            trust = trust.with_pem_certificate(pem);
        }
        let tls = TlsContext::builder()
            .with_trust_store(trust)
            .build()
            .map_err(|error| PortError::new(ErrorKind::Internal, action, chain(&error)))?;
        Ok(Builder::new().build_with_connector_fn(move |settings, components| {
            let mut connector = Connector::builder()
                .tls_provider(Provider::Rustls(CryptoMode::Ring))
                .tls_context(tls.clone())
                .proxy_config(ProxyConfig::from_env());
            connector.set_connector_settings(settings.cloned());
            connector.set_sleep_impl(components.and_then(|components| components.sleep_impl()));
            connector.build()
        }))
    }
}

/// Whether a text is `http(s)://host[:port][/path]`, without user, query or fragment.
fn is_base_url(text: &str) -> bool {
    reqwest::Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    })
}

/// The configured key, read anew whenever the SDK asks for it.
#[derive(Debug)]
struct ConfiguredKey {
    access_key_id: String,
    secret_access_key: Secret,
    session_token: Secret,
}

impl ConfiguredKey {
    fn of(settings: &AwsSettings) -> Self {
        Self {
            access_key_id: settings.access_key_id.clone(),
            secret_access_key: settings.secret_access_key.clone(),
            session_token: settings.session_token.clone(),
        }
    }

    fn read(&self) -> Result<Credentials, PortError> {
        let action = "reading the AWS access key";
        let secret = self.secret_access_key.reveal(action)?;
        let token = self.session_token.is_set().then(|| self.session_token.reveal(action)).transpose()?;
        Ok(Credentials::new(&self.access_key_id, secret, token, None, "delayd configuration"))
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
        let settings = AwsSettings {
            region: "EU Central".to_owned(),
            endpoint: "https://user:s3cret@host".to_owned(),
            profile: "prod".to_owned(),
            access_key_id: "AKID".to_owned(),
            session_token: Secret::new("s3cret"),
            ..AwsSettings::default()
        };
        let faults = settings.faults("registry.ecr.aws");
        let keys: Vec<_> = faults.iter().map(|fault| fault.key.trim_start_matches("registry.ecr.aws.")).collect();
        assert_eq!(keys, ["region", "endpoint", "secret_access_key", "profile", "session_token"]);
        assert!(faults.iter().all(|fault| !fault.to_string().contains("s3cret")), "{faults:?}");
        assert!(AwsSettings::default().faults("aws").is_empty());
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
        let key = ConfiguredKey::of(&AwsSettings {
            access_key_id: "AKID".to_owned(),
            secret_access_key: Secret::new(format!("file:{}", file.path().display())),
            ..AwsSettings::default()
        });
        assert_eq!(key.provide_credentials().await.unwrap().secret_access_key(), "one");
        std::fs::write(file.path(), "two\n").unwrap();
        assert_eq!(key.provide_credentials().await.unwrap().secret_access_key(), "two");
        std::fs::remove_file(file.path()).unwrap();
        let error = chain(&key.provide_credentials().await.unwrap_err());
        assert!(error.contains(&file.path().display().to_string()), "{error}");
    }
}
