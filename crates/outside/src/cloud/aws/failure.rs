//! What goes wrong between us and a service of AWS, read once: the kind, and what to do.

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ConnectorError, ProvideErrorMetadata, SdkError};

use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::http_client::kind_of_status;
use delayd_core::retry::Retryable;

/// The longest part of an answer's text that goes into an error, in characters.
const EXCERPT_CHARS: usize = 300;

/// Why a request failed, before it is known on what it was tried.
#[derive(Debug)]
pub(in crate::cloud) struct Failure {
    pub(in crate::cloud) kind: ErrorKind,
    pub(in crate::cloud) message: String,
    /// Whether the same request may succeed a moment later.
    pub(in crate::cloud) again: bool,
    /// Whether the object as a whole may be read when started again.
    pub(in crate::cloud) restart: bool,
    /// The service's error code; empty where there was no answer, or none with a code.
    pub(in crate::cloud) code: String,
    /// The answer's HTTP status; 0 where there was no answer.
    pub(in crate::cloud) status: u16,
}

impl Failure {
    /// A failure that is not an answer.
    pub(in crate::cloud) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let again = matches!(kind, ErrorKind::Unavailable | ErrorKind::Timeout);
        Self { kind, message: message.into(), again, restart: false, code: String::new(), status: 0 }
    }

    pub(in crate::cloud) fn into_port(self, action: &str) -> PortError {
        PortError::new(self.kind, action, self.message)
    }
}

/// A failed call that is not tried again here. `action` says what was tried on what.
pub(in crate::cloud) fn port_error<E>(action: &str, error: SdkError<E, HttpResponse>) -> PortError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    Failure::from(error).into_port(action)
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl Retryable for Failure {
    fn is_retryable(&self) -> bool {
        self.again
    }

    fn after(self, attempts: u32) -> Self {
        match attempts {
            1 => self,
            tries => Self { message: format!("{} (tried {tries} times)", self.message), ..self },
        }
    }
}

impl From<PortError> for Failure {
    fn from(error: PortError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

impl<E> From<SdkError<E, HttpResponse>> for Failure
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        match &error {
            SdkError::ServiceError(answer) => {
                let region = answer.raw().headers().get("x-amz-bucket-region");
                of_answer(answer.raw().status().as_u16(), answer.err().code(), answer.err().message(), region)
            }
            SdkError::ResponseError(answer) if answer.raw().status().is_success() => {
                Self::new(ErrorKind::Unavailable, format!("the answer is truncated or malformed: {}", chain(&error)))
            }
            SdkError::ResponseError(answer) => of_answer(answer.raw().status().as_u16(), None, None, None),
            SdkError::DispatchFailure(failure) => of_dispatch(failure.as_connector_error()),
            SdkError::TimeoutError(_) => Self::new(ErrorKind::Timeout, chain(&error)),
            _ => of_construction(&error),
        }
    }
}

/// What an answer's code means and what to do about it; see "Error responses" in
/// the Amazon S3 API Reference and "Common errors" of each service's. Many services answer 400 to everything and tell
/// apart by the code alone. The `XMinio…` codes are MinIO's.
fn meaning(code: &str) -> Option<(ErrorKind, &'static str)> {
    Some(match code {
        "NoSuchKey" => (ErrorKind::NotFound, "there is no such object"),
        "NoSuchBucket" => {
            (ErrorKind::NotFound, "there is no such bucket: create it, or correct object_store.s3.bucket and endpoint")
        }
        "NoSuchUpload" => (ErrorKind::Interrupted, "the upload was ended from outside; write the object again"),
        "AccessDenied" | "AllAccessDisabled" => {
            (ErrorKind::Denied, "these credentials lack the right; docs/outside/s3.md lists what is needed")
        }
        "InvalidAccessKeyId" | "NotSignedUp" => (ErrorKind::Denied, "the store does not know the access key"),
        "SignatureDoesNotMatch" => (ErrorKind::Denied, "the secret key is not the access key's"),
        "ExpiredToken" | "ExpiredTokenException" | "InvalidToken" | "TokenRefreshRequired" => {
            (ErrorKind::Denied, "the temporary credentials have expired or are invalid: renew them")
        }
        "RequestTimeTooSkewed" => (ErrorKind::Denied, "this machine's clock is off: check its time service"),
        "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => {
            (ErrorKind::Invalid, "the bucket is elsewhere: correct object_store.s3.region or endpoint")
        }
        "TemporaryRedirect"
        | "SlowDown"
        | "ServiceUnavailable"
        | "InternalError"
        | "Throttling"
        | "RequestLimitExceeded"
        | "ServerException"
        | "ThrottlingException" => (ErrorKind::Unavailable, "this resolves by itself"),
        "RequestTimeout" => {
            (ErrorKind::Timeout, "the connection is slow; if this stays, lower object_store.s3.concurrency")
        }
        "BadDigest" | "InvalidDigest" | "IncompleteBody" | "XAmzContentSHA256Mismatch" => {
            (ErrorKind::Unavailable, "the body was damaged on its way")
        }
        "AccessDeniedException" => (ErrorKind::Denied, "the role lacks this right"),
        "InvalidSignatureException" => (ErrorKind::Denied, "is the secret key right, and the machine's clock?"),
        "UnrecognizedClientException" | "InvalidClientTokenId" => {
            (ErrorKind::Denied, "is the access key right, and of this partition?")
        }
        "IncompleteSignature" | "MissingAuthenticationTokenException" | "OptInRequired" => (ErrorKind::Denied, ""),
        "LimitExceededException" => (ErrorKind::Exhausted, ""),
        "RepositoryNotFoundException" => (ErrorKind::NotFound, "create the repository, or let it be created"),
        _ if code.ends_with("NotFoundException") => (ErrorKind::NotFound, ""),
        _ if code.ends_with("AlreadyExistsException") => (ErrorKind::Conflict, ""),
        "PreconditionFailed" => (ErrorKind::Conflict, "the object is another one by now"),
        "ConditionalRequestConflict" | "OperationAborted" => {
            (ErrorKind::Conflict, "another write of the same key is under way")
        }
        "QuotaExceeded" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded" => {
            (ErrorKind::Exhausted, "make room in the store, or raise its quota")
        }
        "InvalidObjectState" => (ErrorKind::Invalid, "the object is archived: restore it first"),
        "NotImplemented" => {
            (ErrorKind::Invalid, "the store lacks this part of S3; docs/outside/s3.md lists what is needed")
        }
        _ => return None,
    })
}

/// The same where the answer has no code, as one to `HEAD` never has.
fn meaning_of_status(status: u16) -> (ErrorKind, &'static str) {
    match status {
        301 => (ErrorKind::Invalid, "the bucket is elsewhere: correct object_store.s3.region or endpoint"),
        307 => (ErrorKind::Unavailable, "this resolves by itself"),
        401 | 403 => {
            (ErrorKind::Denied, "check the credentials and their rights; docs/outside/s3.md lists what is needed")
        }
        501 => (ErrorKind::Invalid, "the store lacks this part of S3; docs/outside/s3.md lists what is needed"),
        _ => (kind_of_status(status), ""),
    }
}

fn of_answer(status: u16, code: Option<&str>, said: Option<&str>, region: Option<&str>) -> Failure {
    let code = code.unwrap_or_default();
    let (kind, advice) = meaning(code).unwrap_or_else(|| meaning_of_status(status));
    let mut message = format!("answered {status}");
    if !code.is_empty() {
        message.push_str(&format!(" {code}"));
    }
    if let Some(said) = said.filter(|said| !said.is_empty()) {
        let said: String = said.chars().filter(|c| !c.is_control()).take(EXCERPT_CHARS).collect();
        message.push_str(&format!(": {said}"));
    }
    if kind == ErrorKind::Invalid
        && let Some(region) = region
    {
        message.push_str(&format!(" (the bucket is in {region})"));
    }
    if !advice.is_empty() {
        message.push_str(&format!("; {advice}"));
    }
    let failure = Failure::new(kind, message);
    // A write that is under way ends; and the SDK corrects its clock by the answer's for the next request.
    let again = failure.again || status == 409 || code == "RequestTimeTooSkewed";
    Failure { again, code: code.to_owned(), status, ..failure }
}

fn of_dispatch(error: Option<&ConnectorError>) -> Failure {
    let Some(error) = error else {
        return Failure::new(ErrorKind::Unavailable, "the request did not get through");
    };
    if let Some(credentials) = cause::<CredentialsError>(error) {
        return of_credentials(credentials);
    }
    let text = connector_text(error);
    if text.contains("certificate") {
        let advice = "name its authority by http.ca_path, or correct the endpoint";
        return Failure { again: false, ..Failure::new(ErrorKind::Unavailable, format!("{text}; {advice}")) };
    }
    // A connection that does not come about is an outage; an answer that does not come is slow.
    let kind = match () {
        () if error.is_user() => ErrorKind::Invalid,
        () if error.is_timeout() && !text.contains("HTTP connect") => ErrorKind::Timeout,
        () => ErrorKind::Unavailable,
    };
    Failure::new(kind, text)
}

/// The chain of a connection's failure. An I/O error hides its payload from `source`.
fn connector_text(error: &ConnectorError) -> String {
    let mut text = chain(error);
    if let Some(inner) = cause::<std::io::Error>(error).and_then(std::io::Error::get_ref) {
        let inner = inner.to_string();
        if !text.contains(&inner) {
            text.push_str(": ");
            text.push_str(&inner);
        }
    }
    text
}

fn of_construction<E: std::error::Error + 'static>(error: &SdkError<E, HttpResponse>) -> Failure {
    match cause::<CredentialsError>(error) {
        Some(credentials) => of_credentials(credentials),
        None => Failure::new(ErrorKind::Invalid, format!("the request cannot be made: {}", chain(error))),
    }
}

fn of_credentials(error: &CredentialsError) -> Failure {
    let text = chain(error);
    let (kind, advice) = match error {
        CredentialsError::CredentialsNotLoaded(_) => (
            ErrorKind::Denied,
            "the standard chain found none: set access_key_id, a profile, or give this machine a role",
        ),
        CredentialsError::InvalidConfiguration(_) => (ErrorKind::Denied, "correct what is named there"),
        CredentialsError::ProviderTimedOut(_) => (ErrorKind::Timeout, "the credentials provider does not answer"),
        _ => (ErrorKind::Unavailable, "the credentials provider gave an invalid answer"),
    };
    Failure::new(kind, format!("there are no credentials: {text}; {advice}"))
}

fn cause<'a, T: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a T> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|error| error.downcast_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_tells_its_kind_whether_to_try_again_and_what_to_do() {
        for (status, code, kind, again, advice) in [
            (403, "AccessDenied", ErrorKind::Denied, false, "right"),
            (403, "SignatureDoesNotMatch", ErrorKind::Denied, false, "secret key"),
            (400, "ExpiredToken", ErrorKind::Denied, false, "renew"),
            (403, "RequestTimeTooSkewed", ErrorKind::Denied, true, "clock"),
            (404, "NoSuchKey", ErrorKind::NotFound, false, "no such object"),
            (404, "NoSuchBucket", ErrorKind::NotFound, false, "bucket"),
            (404, "NoSuchUpload", ErrorKind::Interrupted, false, "again"),
            (301, "PermanentRedirect", ErrorKind::Invalid, false, "(the bucket is in eu-west-1)"),
            (400, "AuthorizationHeaderMalformed", ErrorKind::Invalid, false, "region"),
            (400, "RequestTimeout", ErrorKind::Timeout, true, "slow"),
            (503, "SlowDown", ErrorKind::Unavailable, true, "by itself"),
            (409, "ConditionalRequestConflict", ErrorKind::Conflict, true, "under way"),
            (412, "PreconditionFailed", ErrorKind::Conflict, false, "another"),
            (400, "AccessDeniedException", ErrorKind::Denied, false, "right"),
            (400, "UnrecognizedClientException", ErrorKind::Denied, false, "access key"),
            (400, "ThrottlingException", ErrorKind::Unavailable, true, "by itself"),
            (400, "LimitExceededException", ErrorKind::Exhausted, false, "LimitExceeded"),
            (400, "InvalidParameterException", ErrorKind::Invalid, false, "InvalidParameter"),
            (400, "RepositoryNotFoundException", ErrorKind::NotFound, false, "create"),
            (400, "ImageAlreadyExistsException", ErrorKind::Conflict, false, "ImageAlreadyExists"),
            (507, "", ErrorKind::Exhausted, false, "507"),
            (501, "", ErrorKind::Invalid, false, "lacks"),
            (500, "", ErrorKind::Unavailable, true, "500"),
            (429, "", ErrorKind::Unavailable, true, "429"),
            (301, "", ErrorKind::Invalid, false, "(the bucket is in eu-west-1)"),
        ] {
            let failure = of_answer(status, Some(code).filter(|code| !code.is_empty()), None, Some("eu-west-1"));
            assert_eq!((failure.kind, failure.again), (kind, again), "{status} {code}: {}", failure.message);
            assert!(failure.message.contains(advice), "{status} {code}: {}", failure.message);
        }
    }

    #[test]
    fn missing_credentials_are_denied_and_an_unavailable_provider_is_waited_for() {
        let none = of_credentials(&CredentialsError::not_loaded("nothing there"));
        assert_eq!((none.kind, none.again), (ErrorKind::Denied, false));
        assert!(none.message.contains("access_key_id"), "{}", none.message);
        let away = of_credentials(&CredentialsError::provider_error("503"));
        assert_eq!((away.kind, away.again), (ErrorKind::Unavailable, true));
    }
}
