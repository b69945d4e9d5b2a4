//! The service's clock: the one place that asks the system for the time. The
//! replay's clock does not reach here; what a prediction depends on is in the
//! request, and the time of an answer is a fact of the wall clock.

use chrono::{DateTime, Utc};

#[allow(clippy::disallowed_methods)]
pub(crate) fn now() -> DateTime<Utc> {
    Utc::now()
}
