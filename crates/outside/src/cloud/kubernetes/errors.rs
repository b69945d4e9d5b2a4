//! What the API server and the way to it say, as port errors. Credentials never
//! reach a text: what comes out of credential plugins and kubeconfig files is
//! told by its kind only.

use kube::core::Status;

use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::http_client::kind_of_status;

/// The longest part of the API server's message that goes into an error, in characters.
const EXCERPT_CHARS: usize = 500;

pub(super) fn of_call(action: &str, error: &kube::Error) -> PortError {
    match error {
        kube::Error::Api(status) => refusal(action, status),
        kube::Error::SerdeError(cause) => {
            let message = format!("the API server's answer is not the document expected: {cause}");
            PortError::new(ErrorKind::Corrupt, action, message)
        }
        kube::Error::Auth(cause) => PortError::new(ErrorKind::Denied, action, credentials(cause)),
        kube::Error::InferKubeconfig(cause) => PortError::new(ErrorKind::Invalid, action, kubeconfig(cause)),
        kube::Error::BuildRequest(cause) => PortError::new(ErrorKind::Internal, action, chain(cause)),
        kube::Error::HttpError(cause) => PortError::new(ErrorKind::Internal, action, chain(cause)),
        other => transport(action, &chain(other)),
    }
}

/// Whether our credentials are not accepted: they may have been changed since they were read.
pub(super) fn is_unauthorized(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 401)
}

/// Whether the API server was not reached at all.
pub(super) fn is_transport(error: &kube::Error) -> bool {
    matches!(error, kube::Error::HyperError(_) | kube::Error::Service(_))
}

pub(super) fn refusal(action: &str, status: &Status) -> PortError {
    let said: String = status.message.chars().take(EXCERPT_CHARS).collect();
    let quota = status.code == 403 && said.contains("exceeded quota");
    let (kind, message) = match status.code {
        401 => {
            let advice = "renew the kubeconfig or the service account's token";
            (ErrorKind::Denied, format!("the API server does not accept our credentials (401 {said}); {advice}"))
        }
        403 if quota => (ErrorKind::Exhausted, format!("{said}; raise the namespace's quota or make room")),
        403 => (ErrorKind::Denied, format!("{said}; k8s/rbac/role.yaml lists the rights that delayd needs")),
        code => (kind_of_status(code), format!("the API server answered {code} {}: {said}", status.reason)),
    };
    PortError::new(kind, action, message)
}

fn transport(action: &str, cause: &str) -> PortError {
    let message = if cause.contains("certificate") {
        let advice = "name its authority in the kubeconfig (certificate-authority)";
        format!("the API server's certificate is not trusted: {cause}; {advice}")
    } else {
        format!("the API server cannot be reached: {cause}")
    };
    PortError::new(ErrorKind::Unavailable, action, message)
}

/// Why there are no credentials. Plugins write tokens to their output, so it is not repeated.
fn credentials(error: &kube::client::AuthError) -> String {
    use kube::client::AuthError as Auth;
    let what = match error {
        Auth::AuthExecStart(cause) => format!("the credential plugin cannot be started ({cause})"),
        Auth::AuthExecRun { out, .. } => format!("the credential plugin failed ({})", out.status),
        Auth::AuthExecParse(_) | Auth::ExecPluginFailed => {
            "the credential plugin did not answer with an ExecCredential".to_owned()
        }
        Auth::ReadTokenFile(cause, path) => format!("token file {} cannot be read ({cause})", path.display()),
        Auth::InvalidBasicAuth(_) | Auth::InvalidBearerToken(_) => {
            "user name, password or token hold characters that no HTTP header can carry".to_owned()
        }
        _ => "they cannot be used".to_owned(),
    };
    format!("no credentials for the API server: {what}; look at the user of the kubeconfig's context")
}

/// Why a kubeconfig cannot be used. The parser quotes the lines around a fault,
/// which may hold a token: only the place is told.
pub(super) fn kubeconfig(error: &kube::config::KubeconfigError) -> String {
    use kube::config::KubeconfigError as Fault;
    match error {
        Fault::ReadConfig(cause, path) => format!("kubeconfig {} cannot be read: {cause}", path.display()),
        Fault::Parse(cause) => match cause.location() {
            Some(place) => {
                format!("the kubeconfig is not the YAML expected, in line {} column {}", place.line(), place.column())
            }
            None => "the kubeconfig is not the YAML expected".to_owned(),
        },
        Fault::LoadCertificateAuthority(cause) => format!("the kubeconfig's certificate-authority: {}", chain(cause)),
        Fault::LoadClientCertificate(cause) => format!("the kubeconfig's client-certificate: {}", chain(cause)),
        Fault::LoadClientKey(_) => "the kubeconfig's client-key cannot be read".to_owned(),
        Fault::ParseCertificates(_) => "the kubeconfig's certificate-authority is not PEM".to_owned(),
        other => chain(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(code: u16, message: &str) -> PortError {
        of_call("testing", &kube::Error::Api(Box::new(Status::failure(message, "Reason").with_code(code))))
    }

    #[test]
    fn an_answer_tells_whether_to_try_again() {
        for (code, kind) in [
            (401, ErrorKind::Denied),
            (403, ErrorKind::Denied),
            (404, ErrorKind::NotFound),
            (409, ErrorKind::Conflict),
            (422, ErrorKind::Invalid),
            (429, ErrorKind::Unavailable),
            (500, ErrorKind::Unavailable),
            (503, ErrorKind::Unavailable),
        ] {
            assert_eq!(answered(code, "text").kind(), kind, "{code}");
        }
        assert_eq!(answered(403, "pods \"x\" is forbidden: exceeded quota: small").kind(), ErrorKind::Exhausted);
    }

    #[test]
    fn a_missing_right_is_told_as_the_api_server_names_it() {
        let said = "deployments.apps \"delay-ml\" is forbidden: User \"x\" cannot patch resource \"deployments\"";
        let text = answered(403, said).to_string();
        assert!(
            text.contains("cannot patch resource \"deployments\"") && text.contains("k8s/rbac/role.yaml"),
            "{text}"
        );
    }

    #[test]
    fn a_wrong_certificate_is_an_outage_that_says_certificate() {
        let error = transport("testing", "client error (Connect): invalid peer certificate: UnknownIssuer");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("certificate is not trusted"), "{error}");
    }
}
