//! The endpoint's certificate. It is read anew when its file changes: certificates
//! are renewed every few weeks, the daemon runs for months.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use webpki::{EndEntityCert, KeyUsage};

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{key} {}: {problem}", path.display())]
pub struct TlsError {
    key: &'static str,
    path: PathBuf,
    problem: String,
}

/// TLS as the endpoint speaks it.
#[derive(Debug)]
pub struct Tls {
    pub(super) config: ServerConfig,
    pub(super) certificate: ServedCertificate,
}

impl Tls {
    /// TLS with the certificates and the key in these files.
    ///
    /// # Errors
    /// When one cannot be read, or they do not belong together.
    pub(super) fn open(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        delayd_core::http_client::install_tls();
        let files = Files { certificate: certificate.to_owned(), key: key.to_owned() };
        let changed = files.changed();
        let served = Arc::new(Renewing { loaded: Mutex::new(Loaded { key: files.load()?, changed }), files });
        let certificate = ServedCertificate(Arc::clone(&served));
        Ok(Self { config: ServerConfig::builder().with_no_client_auth().with_cert_resolver(served), certificate })
    }
}

/// The certificate that clients are shown, for whoever watches over its age.
#[derive(Debug, Clone)]
pub struct ServedCertificate(Arc<Renewing>);

impl ServedCertificate {
    /// When the first certificate of the chain expires.
    ///
    /// # Errors
    /// When one of them is not X.509.
    pub fn expires_at(&self) -> Result<DateTime<Utc>, String> {
        let chain = self.0.present().cert.clone();
        let ends = chain.iter().map(expiry);
        let ends: Vec<DateTime<Utc>> = ends.collect::<Result<_, _>>()?;
        ends.into_iter().min().ok_or_else(|| "the chain is empty".to_owned())
    }
}

/// When a certificate expires. webpki says so of one that is judged at the end of time.
fn expiry(certificate: &CertificateDer<'_>) -> Result<DateTime<Utc>, String> {
    let end_of_time = UnixTime::since_unix_epoch(Duration::MAX);
    let parsed = EndEntityCert::try_from(certificate).map_err(|error| error.to_string())?;
    match parsed.verify_for_usage(&[], &[], &[], end_of_time, KeyUsage::server_auth(), None, None) {
        Err(webpki::Error::CertExpired { not_after, .. }) => i64::try_from(not_after.as_secs())
            .ok()
            .and_then(|secs| DateTime::from_timestamp(secs, 0))
            .ok_or_else(|| format!("it ends {} seconds after 1970", not_after.as_secs())),
        Err(error) => Err(error.to_string()),
        Ok(_) => Err("it never ends".to_owned()),
    }
}

/// When a certificate that the endpoint could show expires.
///
/// # Errors
/// When the files cannot be used, with the configuration's key.
pub fn certificate_expires_at(certificate: &Path, key: &Path) -> Result<DateTime<Utc>, String> {
    let tls = Tls::open(certificate, key).map_err(|error| error.to_string())?;
    tls.certificate.expires_at()
}

#[derive(Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn load(&self) -> Result<Arc<CertifiedKey>, TlsError> {
        let of = |key: &'static str, path: &Path, problem: String| TlsError { key, path: path.to_owned(), problem };
        let no_certificate = |problem: String| of("http.tls_certificate", &self.certificate, problem);
        let no_key = |problem: String| of("http.tls_key", &self.key, problem);
        let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&self.certificate).and_then(Iterator::collect);
        let chain = chain.map_err(|error| no_certificate(format!("{error}; expected certificates in PEM")))?;
        if chain.is_empty() {
            return Err(no_certificate("no certificate in it; expected PEM, the endpoint's own first".to_owned()));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| no_key(format!("{error}; expected a private key in PEM")))?;
        let provider =
            CryptoProvider::get_default().ok_or_else(|| no_key("no cryptography is installed".to_owned()))?;
        let certified = CertifiedKey::from_der(chain, key, provider)
            .map_err(|error| no_key(format!("{error}; expected the key of the certificate")))?;
        Ok(Arc::new(certified))
    }

    /// When either file changed last; `None` while one cannot be seen.
    fn changed(&self) -> Option<(SystemTime, SystemTime)> {
        let of = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
        Some((of(&self.certificate)?, of(&self.key)?))
    }
}

#[derive(Debug)]
struct Loaded {
    key: Arc<CertifiedKey>,
    changed: Option<(SystemTime, SystemTime)>,
}

/// Looks at the files at each handshake and each scrape, and reads them when they changed.
#[derive(Debug)]
struct Renewing {
    files: Files,
    loaded: Mutex<Loaded>,
}

impl Renewing {
    /// The certificate and key of now.
    fn present(&self) -> Arc<CertifiedKey> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = self.files.changed();
        if changed.is_some() && changed != loaded.changed {
            // Noted first: a pair that does not fit is told once, not at each handshake.
            loaded.changed = changed;
            match self.files.load() {
                Ok(key) => {
                    loaded.key = key;
                    tracing::info!("the status endpoint's certificate was read anew");
                }
                // Half renewed, perhaps: the other file's change is looked at next.
                Err(error) => tracing::error!(%error, "the status endpoint keeps its old certificate"),
            }
        }
        loaded.key.clone()
    }
}

impl ResolvesServerCert for Renewing {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.present())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(place: &Path, year: i32) -> (PathBuf, PathBuf) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(year, 3, 4);
        let files = (place.join("tls.crt"), place.join("tls.key"));
        std::fs::write(&files.0, parameters.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(&files.1, key.serialize_pem()).unwrap();
        files
    }

    #[test]
    fn the_expiry_is_that_of_the_certificate_that_clients_are_shown() {
        let place = tempfile::tempdir().unwrap();
        let (certificate, key) = write(place.path(), 2031);
        let tls = Tls::open(&certificate, &key).unwrap();
        let expires = || tls.certificate.expires_at().unwrap().to_rfc3339();
        assert_eq!(expires(), "2031-03-04T00:00:00+00:00");
        write(place.path(), 2032);
        assert_eq!(expires(), "2032-03-04T00:00:00+00:00", "a renewed one is read");
        std::fs::write(&certificate, "nonsense").unwrap();
        assert_eq!(expires(), "2032-03-04T00:00:00+00:00", "one that cannot be used is not shown");
    }
}
