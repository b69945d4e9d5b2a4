//! What a failed call of an AWS service stands for.

use aws_sdk_ecr::config::http::HttpResponse;
use aws_sdk_ecr::error::{ProvideErrorMetadata, SdkError};

use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::http_client::kind_of_status;

/// What a failed call of an AWS service stands for. `action` says what was tried on what.
pub(in crate::cloud) fn port_error<E>(action: &str, error: &SdkError<E, HttpResponse>) -> PortError
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
        _ if code.ends_with("NotFoundException") => ErrorKind::NotFound,
        _ if code.ends_with("AlreadyExistsException") => ErrorKind::Conflict,
        _ => kind_of_status(status),
    }
}

fn advice(code: &str) -> &'static str {
    match code {
        "InvalidSignatureException" => "; is the secret key right, and the machine's clock?",
        "UnrecognizedClientException" | "InvalidClientTokenId" => "; is the access key right, and of this partition?",
        "ExpiredTokenException" => "; the session token has expired: replace it",
        "AccessDenied" | "AccessDeniedException" => "; the role lacks this right",
        "RepositoryNotFoundException" => "; create the repository, or let it be created",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_tells_more_than_a_status() {
        for (code, status, kind) in [
            ("AccessDeniedException", 400, ErrorKind::Denied),
            ("UnrecognizedClientException", 400, ErrorKind::Denied),
            ("ThrottlingException", 400, ErrorKind::Unavailable),
            ("LimitExceededException", 400, ErrorKind::Exhausted),
            ("InvalidParameterException", 400, ErrorKind::Invalid),
            ("RepositoryNotFoundException", 400, ErrorKind::NotFound),
            ("ImageAlreadyExistsException", 400, ErrorKind::Conflict),
            ("no code", 503, ErrorKind::Unavailable),
        ] {
            assert_eq!(kind_of_code(code, status), kind, "{code}");
        }
    }
}
