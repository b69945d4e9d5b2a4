//! What all routes have in common: which methods they take, and whose questions leave no trace.

use actix_web::{HttpRequest, HttpResponse, web};

use crate::error::ApiError;

/// A request with this header, of any value, is answered but not counted as traffic.
pub(crate) const PROBE_HEADER: &str = "x-delayd-probe";

pub(crate) fn get<F, Args>(path: &str, handler: F) -> actix_web::Resource
where
    F: actix_web::Handler<Args>,
    Args: actix_web::FromRequest + 'static,
    F::Output: actix_web::Responder + 'static,
    F: Clone,
{
    web::resource(path).route(web::get().to(handler.clone())).route(web::head().to(handler)).default_service(web::to(
        || async { Err::<HttpResponse, _>(ApiError::MethodNotAllowed { allowed: "GET, HEAD" }) },
    ))
}

pub(crate) fn post<F, Args>(path: &str, handler: F) -> actix_web::Resource
where
    F: actix_web::Handler<Args>,
    Args: actix_web::FromRequest + 'static,
    F::Output: actix_web::Responder + 'static,
{
    web::resource(path)
        .route(web::post().to(handler))
        .default_service(web::to(|| async { Err::<HttpResponse, _>(ApiError::MethodNotAllowed { allowed: "POST" }) }))
}

/// Whether the answer should leave no trace in what is watched for drift.
pub(crate) fn is_probe(request: &HttpRequest) -> bool {
    request.headers().contains_key(PROBE_HEADER)
}
