//! The SDK's client as the settings want it: TLS by ring with the system's
//! authorities and our own, the environment's proxy, our keys or the standard
//! chain. It tries nothing twice: the store does, see `attempts`.

use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Credentials, IdentityCache, ProvideCredentials, Region, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::http::{HttpConnectorSettings, SharedHttpConnector, http_client_fn};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::settings::S3Settings;
use crate::config::Secret;
use crate::error::{ErrorKind, PortError, chain};

/// Makes the client. Nothing is asked of S3; the region and the whereabouts of the
/// credentials may be asked of the environment.
pub(super) async fn connect(settings: &S3Settings, action: &str) -> Result<Client, PortError> {
    let http = http_client(settings, action)?;
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http);
    if !settings.region.is_empty() {
        loader = loader.region(Region::new(settings.region.clone()));
    }
    if !settings.profile.is_empty() {
        loader = loader.profile_name(&settings.profile);
    }
    let keys_are_ours = settings.secret_access_key.is_set();
    if keys_are_ours {
        loader = loader.credentials_provider(ConfiguredKeys::of(settings));
    }
    let shared = loader.load().await;
    if shared.region().is_none() {
        let message = "no region is known: set object_store.s3.region, AWS_REGION or the profile's; stores other \
                       than Amazon's mostly take us-east-1";
        return Err(PortError::new(ErrorKind::Invalid, action, message));
    }
    let mut config = aws_sdk_s3::config::Builder::from(&shared)
        .force_path_style(settings.path_style)
        .retry_config(RetryConfig::disabled())
        // Deadlines are the store's own, because only it knows what a request moves.
        .timeout_config(TimeoutConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    if !settings.endpoint.is_empty() {
        config = config.endpoint_url(&settings.endpoint);
    }
    if keys_are_ours {
        // So that a key that was replaced in its file counts at once.
        config = config.identity_cache(IdentityCache::no_cache());
    }
    Ok(Client::from_conf(config.build()))
}

fn http_client(settings: &S3Settings, action: &str) -> Result<SharedHttpClient, PortError> {
    let mut trust = TrustStore::default();
    if !settings.http.ca_path.as_os_str().is_empty() {
        trust = trust.with_pem_certificate(authorities(settings, action)?);
    }
    let tls = TlsContext::builder()
        .with_trust_store(trust)
        .build()
        .map_err(|error| PortError::new(ErrorKind::Internal, action, chain(&error)))?;
    let deadlines = HttpConnectorSettings::builder()
        .connect_timeout(Duration::from_secs(settings.http.connect_timeout_secs))
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

/// The file of authorities, once it is known that each certificate in it can be
/// read: the SDK's client would panic over one that cannot.
fn authorities(settings: &S3Settings, action: &str) -> Result<Vec<u8>, PortError> {
    let path = settings.http.ca_path.display();
    let pem = std::fs::read(&settings.http.ca_path)
        .map_err(|error| PortError::io(format!("{action}: CA file {path}"), error))?;
    let invalid = |found: String| {
        let message = format!("CA file {path} {found}; expected certificates in PEM");
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

/// Keys of the configuration, read where they are kept for each request.
#[derive(Debug)]
struct ConfiguredKeys {
    access_key_id: Secret,
    secret_access_key: Secret,
    session_token: Secret,
}

impl ConfiguredKeys {
    fn of(settings: &S3Settings) -> Self {
        Self {
            access_key_id: settings.access_key_id.clone(),
            secret_access_key: settings.secret_access_key.clone(),
            session_token: settings.session_token.clone(),
        }
    }

    fn read(&self) -> Result<Credentials, PortError> {
        let action = "reading the keys of object_store.s3";
        let token = self.session_token.is_set().then(|| self.session_token.reveal(action)).transpose()?;
        let (id, key) = (self.access_key_id.reveal(action)?, self.secret_access_key.reveal(action)?);
        Ok(Credentials::new(id, key, token, None, "delayd configuration"))
    }
}

impl ProvideCredentials for ConfiguredKeys {
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

    #[tokio::test]
    async fn a_ca_file_that_is_none_is_refused_by_name() {
        for content in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), content).unwrap();
            let mut settings = S3Settings { bucket: "flights".to_owned(), ..S3Settings::default() };
            settings.http.ca_path = file.path().to_owned();
            let error = connect(&settings, "listing objects").await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            let text = error.to_string();
            assert!(text.contains(&file.path().display().to_string()) && text.contains("PEM"), "{text}");
        }
    }

    #[tokio::test]
    async fn a_key_in_a_file_is_read_at_each_use() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "one\n").unwrap();
        let settings = S3Settings {
            access_key_id: Secret::new("id"),
            secret_access_key: Secret::new(format!("file:{}", file.path().display())),
            ..S3Settings::default()
        };
        let keys = ConfiguredKeys::of(&settings);
        assert_eq!(keys.provide_credentials().await.unwrap().secret_access_key(), "one");
        std::fs::write(file.path(), "two\n").unwrap();
        assert_eq!(keys.provide_credentials().await.unwrap().secret_access_key(), "two");
        std::fs::remove_file(file.path()).unwrap();
        let error = chain(&keys.provide_credentials().await.unwrap_err());
        assert!(error.contains(&file.path().display().to_string()), "{error}");
    }
}
