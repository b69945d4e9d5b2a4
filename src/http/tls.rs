//! The endpoint's certificate. It is read anew when its file changes: certificates
//! are renewed every few weeks, the daemon runs for months.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{key} {}: {problem}", path.display())]
pub struct TlsError {
    key: &'static str,
    path: PathBuf,
    problem: String,
}

/// TLS with the certificates and the key in these files.
///
/// # Errors
/// When one cannot be read, or they do not belong together.
pub(super) fn server_config(certificate: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    crate::http_client::install_tls();
    let files = Files { certificate: certificate.to_owned(), key: key.to_owned() };
    let changed = files.changed();
    let loaded = Mutex::new(Loaded { key: files.load()?, changed });
    Ok(ServerConfig::builder().with_no_client_auth().with_cert_resolver(Arc::new(Renewing { files, loaded })))
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

/// Looks at the files at each handshake, and reads them when they changed.
#[derive(Debug)]
struct Renewing {
    files: Files,
    loaded: Mutex<Loaded>,
}

impl ResolvesServerCert for Renewing {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
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
        Some(loaded.key.clone())
    }
}
