//! Counting the API's own requests: one middleware around all routes.
//!
//! Routes are told by their template, `/api/v1/cycles/{id}`, and methods and
//! statuses from closed lists, so that no client can make new time series.

use std::time::Instant;

use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use actix_web::web::Data;

use super::Metrics;

const METHODS: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Counts and times a request. To be wrapped around the whole application, outermost:
/// `.wrap(from_fn(count_requests))`, with [`Metrics`] in its data.
///
/// # Errors
/// What the service inside answers, unchanged.
pub async fn count_requests<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    let Some(metrics) = request.app_data::<Data<Metrics>>().cloned() else {
        return next.call(request).await;
    };
    let begun = Instant::now();
    let _in_flight = InFlight::begin(metrics.clone());
    let method = request.method().as_str().to_owned();
    let template = request.match_pattern();
    let answer = next.call(request).await;
    let status = match &answer {
        Ok(response) => response.status(),
        Err(error) => error.as_response_error().status_code(),
    };
    let template = template.or_else(|| answer.as_ref().ok().and_then(|response| response.request().match_pattern()));
    let route = template.as_deref().unwrap_or("unmatched");
    let method = METHODS.into_iter().find(|known| *known == method).unwrap_or("other");
    let class = CLASSES[usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1];
    metrics.0.counted.request(route, method, class, begun.elapsed());
    answer
}

/// One request under way, also when its client goes away.
struct InFlight(Data<Metrics>);

impl InFlight {
    fn begin(metrics: Data<Metrics>) -> Self {
        metrics.0.counted.in_flight.inc();
        Self(metrics)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.counted.in_flight.dec();
    }
}
