//! What every AWS service needs alike: region, credentials, deadlines and trust,
//! and one reading of what goes wrong. It knows no service, and tries nothing twice.
//!
//! Credentials come from the standard chain (environment, profile files, web
//! identity, container, instance) unless keys are configured here.

mod failure;

use std::path::Path;
use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_sdk_ecr::config::{IdentityCache, SharedHttpClient};
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::http::{HttpConnectorSettings, SharedHttpConnector, http_client_fn};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

pub(super) use self::failure::{Failure, port_error};
use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::http_client::HttpClientSettings;
use delayd_core::secret::Secret;

/// Who asks, and from where; the part of a service's settings that all have.
#[derive(Debug, Clone, Copy)]
pub(super) struct AwsAccess<'a> {
    /// Where the settings stand, for messages: `registry.ecr`.
    pub(super) section: &'static str,
    /// The region; the environment's or the profile's when empty.
    pub(super) region: &'a str,
    /// Profile of the shared configuration files; the chain's own choice when empty.
    pub(super) profile: &'a str,
    /// Access key; the standard chain when not set.
    pub(super) access_key_id: &'a Secret,
    pub(super) secret_access_key: &'a Secret,
    pub(super) session_token: &'a Secret,
    pub(super) http: &'a HttpClientSettings,
    /// How long an answer may take to begin; the service's own business without.
    pub(super) answer_within: Option<Duration>,
}

impl AwsAccess<'_> {
    /// What cannot be: the key, what was found, what was expected.
    pub(super) fn faults(&self) -> Vec<(&'static str, String, &'static str)> {
        let (id, key) = (self.access_key_id.is_set(), self.secret_access_key.is_set());
        let alone = || "set alone".to_owned();
        let checks = [
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
    pub(super) async fn sdk_config(&self, action: &str) -> Result<SdkConfig, PortError> {
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(self.http_client(action)?)
            // Deadlines are the connection's, and what a service adds to them.
            .timeout_config(TimeoutConfig::disabled())
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
            let section = self.section;
            let message = format!(
                "no region is known: set {section}.region, AWS_REGION or the profile's; services other than Amazon's \
                 mostly take us-east-1"
            );
            return Err(PortError::new(ErrorKind::Invalid, action, message));
        }
        Ok(config)
    }

    fn http_client(&self, action: &str) -> Result<SharedHttpClient, PortError> {
        let mut trust = TrustStore::default();
        if !self.http.ca_path.as_os_str().is_empty() {
            trust = trust.with_pem_certificate(authorities(action, &self.http.ca_path)?);
        }
        let tls = TlsContext::builder()
            .with_trust_store(trust)
            .build()
            .map_err(|error| PortError::new(ErrorKind::Internal, action, chain(&error)))?;
        let mut deadlines =
            HttpConnectorSettings::builder().connect_timeout(Duration::from_secs(self.http.connect_timeout_secs));
        if let Some(answer_within) = self.answer_within {
            deadlines = deadlines.read_timeout(answer_within);
        }
        let connector = Connector::builder()
            .connector_settings(deadlines.build())
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .tls_context(tls)
            .proxy_config(ProxyConfig::from_env())
            .build();
        let connector = SharedHttpConnector::new(connector);
        Ok(http_client_fn(move |_, _| connector.clone()))
    }
}

/// The file of authorities, once it is known that each certificate in it can be
/// read: the SDK's client would panic over one that cannot.
fn authorities(action: &str, path: &Path) -> Result<Vec<u8>, PortError> {
    let pem =
        std::fs::read(path).map_err(|error| PortError::io(format!("{action}: CA file {}", path.display()), error))?;
    let invalid = |found: String| {
        let message = format!("CA file {} {found}; expected certificates in PEM", path.display());
        PortError::new(ErrorKind::Invalid, action, message)
    };
    let certificates: Vec<CertificateDer<'_>> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| invalid(format!("is malformed ({error})")))?;
    if certificates.is_empty() {
        return Err(invalid("holds no certificate".to_owned()));
    }
    let mut store = rustls::RootCertStore::empty();
    for certificate in certificates {
        store.add(certificate).map_err(|error| invalid(format!("holds one that is of no use ({error})")))?;
    }
    Ok(pem)
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
    section: &'static str,
    access_key_id: Secret,
    secret_access_key: Secret,
    session_token: Secret,
}

impl ConfiguredKey {
    fn of(access: &AwsAccess<'_>) -> Self {
        Self {
            section: access.section,
            access_key_id: access.access_key_id.clone(),
            secret_access_key: access.secret_access_key.clone(),
            session_token: access.session_token.clone(),
        }
    }

    fn read(&self) -> Result<Credentials, PortError> {
        let action = format!("reading the keys of {}", self.section);
        let (id, secret) = (self.access_key_id.reveal(&action)?, self.secret_access_key.reveal(&action)?);
        let token = self.session_token.is_set().then(|| self.session_token.reveal(&action)).transpose()?;
        Ok(Credentials::new(id, secret, token, None, "delayd configuration"))
    }
}

impl ProvideCredentials for ConfiguredKey {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(self.read().map_err(CredentialsError::invalid_configuration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_key_or_a_key_beside_a_profile_is_told() {
        let (none, some, http) = (Secret::default(), Secret::new("s3cret"), HttpClientSettings::default());
        let nothing = AwsAccess {
            section: "registry.ecr",
            region: "",
            profile: "",
            access_key_id: &none,
            secret_access_key: &none,
            session_token: &none,
            http: &http,
            answer_within: None,
        };
        assert_eq!(nothing.faults(), []);
        let keys = |access: AwsAccess<'_>| -> Vec<_> { access.faults().into_iter().map(|(key, ..)| key).collect() };
        assert_eq!(keys(AwsAccess { access_key_id: &some, ..nothing }), ["access_key_id"]);
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

    #[tokio::test]
    async fn a_configured_key_is_read_at_each_use() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "one\n").unwrap();
        let key = ConfiguredKey {
            section: "registry.ecr",
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

    #[test]
    fn a_ca_file_that_is_none_is_refused_by_name() {
        for content in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), content).unwrap();
            let error = authorities("asking ECR", file.path()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            let text = error.to_string();
            assert!(text.contains(&file.path().display().to_string()) && text.contains("PEM"), "{text}");
        }
    }
}
