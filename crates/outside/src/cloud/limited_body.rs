//! The body of an HTTP answer, up to a bound: an answer without end must not fill
//! the memory.

use delayd_core::error::{ErrorKind, PortError};
use delayd_core::http_client::transport_error;

/// Reads a body of at most `limit_bytes`. `action` goes into the error.
///
/// # Errors
/// `Invalid` when it is larger; otherwise what cut it off.
pub(super) async fn read_limited(
    mut response: reqwest::Response,
    limit_bytes: usize,
    action: &str,
) -> Result<Vec<u8>, PortError> {
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.map_err(|error| transport_error(action, error))? {
        if body.len() + part.len() > limit_bytes {
            let message = format!("the answer is longer than {limit_bytes} bytes, which is the most that is read");
            return Err(PortError::new(ErrorKind::Invalid, action, message));
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}
